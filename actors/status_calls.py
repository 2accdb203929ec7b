"""What a gateway asks of every actor when somebody wants to know where the system stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from actors import handles, telemetry
from forecast.config import Config
from forecast.record import Snapshot

log = logging.getLogger("fleetcast.status")


class StatusCalls:
    """The part of a `Service` about its own state; `_actors` has an `ask`, as `handles.Actors`."""

    _actors: Any
    _config: Config
    snapshot: Callable[[], Awaitable[Snapshot | None]]

    async def status(self) -> Mapping[str, Any]:
        """Where the system stands, actor by actor; null where one does not answer."""
        there = handles.roles_of(self._config)
        asked = {name: call for name, call in telemetry.PARTS.items() if call[0] in there}
        answers = await asyncio.gather(*(self._part(*call) for call in asked.values()))
        parts = dict(zip(asked, answers, strict=True))
        return telemetry.status(self._config, await self.snapshot(), parts)

    async def metrics(self) -> str:
        """The same as Prometheus text."""
        return telemetry.exposition(await self.status())

    async def _part(self, role: str, method: str) -> Any:
        try:
            return await self._actors.ask(role, method, timeout_s=3.0)
        except Exception as error:  # one part that fails must not take the others' numbers away
            log.warning("%s.%s: %s: %s", role, method, type(error).__name__, error)
            return None
