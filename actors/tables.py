"""What the experts know, kept for as long as it holds: tables of the hour, a network of the day."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

from actors.settings import Settings
from forecast.members import MemberTables
from forecast.quantile_network import QuantileNetwork

log = logging.getLogger("fleetcast.controller")


class ExpertTables:
    """Asks the buffer for what is due. What holds at a slot follows from the slot alone.

    The network's fit takes seconds: it begins as soon as its last slot is there and is waited for
    an hour of event time later, so that no forecast waits for it in between.
    """

    def __init__(self, *, buffer: Any, settings: Settings) -> None:
        self._buffer, self._settings = buffer, settings
        self._held: tuple[int, MemberTables] | None = None
        self._fits: dict[int, Awaitable[QuantileNetwork | None]] = {}
        """By the slot that each is as of: the one in use and the next."""
        self._networks: dict[int, QuantileNetwork | None] = {}

    async def at(self, slot: int) -> MemberTables:
        """The tables for forecasts at a slot. Raises as the buffer does; then nothing is kept."""
        settings = self._settings
        hour, levels = slot - slot % settings.per_hour, settings.levels
        if self._held is None or self._held[0] != hour:
            fitting = self._buffer.least_squares.remote(as_of=hour, levels=levels)
            residuals = await self._buffer.residuals.remote(
                as_of=hour, hours=settings.window_hours, levels=levels
            )
            fitted = await fitting
            self._held = (hour, MemberTables(residuals, fitted, await self._network(hour)))
        return self._held[1]

    async def _network(self, hour: int) -> QuantileNetwork | None:
        wanted = self._settings.network_slots(hour)
        if not wanted:
            return None
        for as_of in wanted:
            if as_of not in self._fits and as_of not in self._networks:
                seed = self._settings.seed + as_of
                self._fits[as_of] = self._buffer.quantile_network.remote(
                    as_of=as_of, levels=self._settings.levels, seed=seed
                )
        used = wanted[0]
        if used in self._fits:
            self._networks[used] = await self._fitted(used)
        self._networks = {at: one for at, one in self._networks.items() if at >= used}
        self._fits = {at: one for at, one in self._fits.items() if at >= used}
        return self._networks[used]

    async def _fitted(self, as_of: int) -> QuantileNetwork | None:
        """None where the fit fails: a member that nobody needs stops no forecast.

        A buffer that died is another matter: then the step is done again.
        """
        try:
            return await self._fits.pop(as_of)
        except (ValueError, ArithmeticError, MemoryError) as error:
            told = {"slot": as_of}
            log.warning("no quantile network as of slot %d: %s", as_of, error, extra=told)
            return None
