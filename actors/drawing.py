"""What a training learns from, and is judged on: windows that the buffer cuts, stored versions."""

from __future__ import annotations

import logging
from typing import Any

from actors.settings import Settings
from actors.state import Pending
from forecast.artifact import Artifact
from forecast.errors import ArtifactError

log = logging.getLogger("fleetcast.controller")


class Drawing:
    """The part of `Learning` that asks the buffer for windows, and the registry for versions."""

    _buffer: Any
    _registry: Any
    _settings: Settings

    def _held(self, pending: Pending) -> int:
        """Hours that are held out for the gate, and so from what is learned."""
        hours = pending.holdout_hours
        return self._settings.holdout_hours if hours is None else hours

    def _lessons(self, pending: Pending, as_of: int, seed: int, held: int) -> Any:
        """A reference to an update's windows: of the sliding window, and of the replay table."""
        settings, slot = self._settings, pending.asked_slot
        hours, count = settings.window_hours, settings.windows_per_update
        if not settings.replay_ratio:
            return self._draw(slot, as_of, hours, count, seed, held)
        return self._buffer.rehearse.remote(
            update_id=pending.update_id,
            as_of=as_of,
            hours=hours,
            count=count,
            seed=seed,
            holdout_hours=held,
            known_at=slot,
            ratio=settings.replay_ratio,
        )

    def _draw(self, slot: int, as_of: int, hours: int, count: int, seed: int, held: int) -> Any:
        """A reference to training windows that end before the `held` hours up to `as_of`.

        Masked by what is known at `slot`.
        """
        return self._buffer.draw.remote(
            as_of=as_of, hours=hours, count=count, seed=seed, holdout_hours=held, known_at=slot
        )

    def _holdout(self, slot: int, as_of: int, hours: int) -> Any:
        return self._buffer.holdout.remote(
            as_of=as_of, hours=hours, every=self._settings.horizon, known_at=slot
        )

    async def _start(self, champion: int | None) -> Artifact | None:
        """What a retrain begins from; None for nothing."""
        if self._settings.retrain_start == "scratch":
            return None
        return await self._readable(champion)

    async def _readable(self, version: int | None) -> Artifact | None:
        """The files of a version; None where they are damaged: learning goes on without it."""
        if version is None:
            return None
        try:
            artifact: Artifact = await self._registry.load.remote(version)
        except ArtifactError as error:
            log.warning("version %d cannot be compared with: %s", version, error)
            return None
        return artifact
