"""What a gateway asks of the actors when somebody looks at the rollout, changes it or goes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors import handles
from forecast.audit import AuditRecord
from forecast.errors import ArtifactError, Busy, Conflict, RegistryError, UnknownVersion
from forecast.http.problems import original
from forecast.rolling_out import Action
from forecast.rollout import Table
from forecast.versions import RegistryState

_TIMEOUT_S = 3.0


class RolloutCalls:
    """The part of a `Service` about rollouts; `_actors` has an `ask`, as `handles.Actors`."""

    _actors: Any

    async def rollout(
        self, limit: int
    ) -> tuple[RegistryState, Mapping[str, Any] | None, Sequence[AuditRecord]]:
        """The registry's state, what the controller tells of the comparison, the last changes."""
        state: RegistryState = await self._actors.ask(handles.REGISTRY, "state")
        history: Sequence[AuditRecord] = await self._actors.ask(handles.REGISTRY, "rollouts", limit)
        try:
            told: Mapping[str, Any] | None = await self._actors.ask(
                handles.CONTROLLER, "rollout", timeout_s=_TIMEOUT_S
            )
        except Busy:  # who answers for whom is known all the same
            told = None
        return state, told, history

    async def steer(
        self,
        action: Action,
        *,
        version: int | None = None,
        table: Table | None = None,
        keep: bool = True,
        reason: str,
        who: str,
        request_id: str,
        expected: str,
        dry_run: bool,
    ) -> RegistryState:
        """Make a change; raises UnknownVersion, Conflict, PreconditionFailed."""
        asked = {"table": table, "keep": keep, "dry_run": dry_run, "expected": expected}
        return await self._changed("steer", (action, version), reason, who, request_id, **asked)

    async def rollback(
        self,
        to: int | None,
        reason: str,
        who: str,
        request_id: str,
        *,
        expected: str | None = None,
        dry_run: bool = False,
    ) -> RegistryState:
        """Move the champion back, and pause promotion; raises as `steer`."""
        asked = {"pause": True, "expected": expected, "dry_run": dry_run}
        return await self._changed("rollback", (to,), reason, who, request_id, **asked)

    async def _changed(
        self, method: str, what: tuple[Any, ...], reason: str, who: str, key: str, **asked: Any
    ) -> RegistryState:
        slot = (await self._actors.ask(handles.BUFFER, "numbers"))["closed_slot"] or 0
        record = {"slot": slot, "who": who, "reason": reason, "key": key, **asked}
        try:
            state: RegistryState = await self._actors.ask(handles.REGISTRY, method, *what, **record)
        except UnknownVersion:
            raise
        except (RegistryError, ArtifactError) as error:
            raise Conflict(str(original(error))) from error
        return state
