"""A stream that is known to its end, and the forecasts of record that were made along it.

What is read as of a slot knows no later one, so both sides of a comparison read one buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from actors import arguments
from actors.offline import fill
from actors.settings import Settings
from connect.replay import Replay
from forecast.clock import slots_per_day
from forecast.config import Config
from forecast.members import Members, MemberTables, blocks_of_record
from forecast.quantile_network import QuantileNetwork
from forecast.record import ForecastBlock
from forecast.windows import RawWindows
from train import expert, quantile_network
from train.buffer import Buffer


def filled(config: Config, replay: Replay) -> Buffer:
    """A buffer in memory with the whole stream."""
    days = -(-(replay.end_slot - replay.first_slot) // slots_per_day(config.panel.step))
    buffer = Buffer(**{**arguments.stream(config), "directory": None, "history_days": days + 8})
    fill(buffer, config, replace(replay, start_slot=replay.end_slot))
    return buffer


def issued(
    buffer: Buffer, settings: Settings, members: Members, slots: range
) -> Iterator[tuple[int, RawWindows, tuple[ForecastBlock, ...]]]:
    """Each slot, its windows and every member's block; the members' tables are made every hour."""
    hour, tables, networks = -1, None, _Networks(buffer, settings)
    for slot in slots:
        if slot // settings.per_hour != hour or tables is None:
            hour = slot // settings.per_hour
            tables = _tables(buffer, hour * settings.per_hour, settings, networks)
        raw = buffer.fleet(slot)
        blocks = blocks_of_record(
            raw,
            slot=slot,
            members=members,
            tables=tables,
            schema=settings.schema,
            levels=settings.levels,
            ready=np.ones(len(raw), bool),
        )
        yield slot, raw, blocks


class _Networks:
    """The quantile network of a slot, fitted when it is new."""

    def __init__(self, buffer: Buffer, settings: Settings) -> None:
        self._buffer, self._settings = buffer, settings
        self._held: tuple[int, QuantileNetwork | None] | None = None

    def at(self, hour: int) -> QuantileNetwork | None:
        """The one in use in an hour."""
        settings = self._settings
        wanted = settings.network_slots(hour)
        if not wanted:
            return None
        if self._held is None or self._held[0] != wanted[0]:
            examples, seed = self._buffer.examples(as_of=wanted[0]), settings.seed + wanted[0]
            self._held = (wanted[0], quantile_network.fit(examples, settings.levels, seed=seed))
        return self._held[1]


def _tables(buffer: Buffer, slot: int, settings: Settings, networks: _Networks) -> MemberTables:
    residuals = buffer.residuals(as_of=slot, hours=settings.window_hours, levels=settings.levels)
    fitted = expert.fit(buffer.examples(as_of=slot), settings.levels)
    return MemberTables(residuals, fitted, networks.at(slot))
