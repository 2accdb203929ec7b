"""What a gateway asks of the actors when somebody holds learning back, or lets it go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors import handles
from forecast.errors import Busy, Conflict, RegistryError, UnknownVersion
from forecast.http.problems import original
from forecast.versions import RegistryState


class LearningCalls:
    """The part of a `Service` that steers learning; `_actors` has an `ask`, as `handles.Actors`."""

    _actors: Any

    async def learning(self) -> Mapping[str, Any] | None:
        """Where breaker and twin stand; None while the controller does not answer."""
        try:
            found: Mapping[str, Any] = await self._actors.ask(handles.CONTROLLER, "status")
        except Busy:
            return None
        return found

    async def champion_at(self, slot: int) -> int:
        """Who was champion after a slot's step; raises UnknownVersion, Conflict."""
        try:
            version: int = await self._actors.ask(handles.REGISTRY, "champion_at", slot)
        except UnknownVersion:
            raise
        except RegistryError as error:
            raise Conflict(str(original(error))) from error
        return version

    async def pause(self, reason: str, who: str, request_id: str) -> RegistryState:
        """Start no training and promote nothing from now on."""
        return await self._told("pause", reason, who, request_id, learning=True)

    async def resume(self, reason: str, who: str, request_id: str) -> RegistryState:
        """Let learning and promotion go on."""
        return await self._told("resume", reason, who, request_id)

    async def _told(
        self, method: str, reason: str, who: str, request_id: str, **more: Any
    ) -> RegistryState:
        slot = (await self._actors.ask(handles.BUFFER, "numbers"))["closed_slot"] or 0
        record = {"slot": slot, "who": who, "reason": reason, "key": request_id, **more}
        state: RegistryState = await self._actors.ask(handles.REGISTRY, method, **record)
        return state
