"""What a gateway asks of the actors about what is on record, and for a backup of it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors import handles
from forecast.audit import AuditCheck, AuditRecord
from forecast.config import Config
from forecast.errors import AuditError, Conflict, StateError
from forecast.http.problems import original


class RecordCalls:
    """The part of a `Service` that is about the record; `_actors` has an `ask`."""

    _actors: Any
    _config: Config

    async def audit(
        self, *, limit: int, before: int | None, since: int | None, kinds: Sequence[str]
    ) -> Sequence[AuditRecord]:
        """Records, newest first; raises Conflict at one that was damaged."""
        query = {"limit": limit, "before": before, "since_slot": since, "kinds": kinds or None}
        found: Sequence[AuditRecord] = await self._or_conflict(handles.REGISTRY, "audit", **query)
        return found

    async def verify_audit(self, head: str | None) -> AuditCheck:
        """Check the whole log; raises Conflict saying where it is not whole."""
        found: AuditCheck = await self._or_conflict(handles.REGISTRY, "verify_audit", head)
        return found

    async def decision(self, update_id: str) -> tuple[AuditRecord, bytes]:
        """A verdict's record and its evidence; raises UnknownUpdate, Conflict."""
        found: tuple[AuditRecord, bytes] = await self._or_conflict(
            handles.REGISTRY, "evidence", update_id
        )
        return found

    async def backup(self, name: str) -> Mapping[str, Any]:
        """Write a backup of this name; raises Conflict when there is one, or a part fails."""
        folder = self._config.backups_dir / name
        told: Mapping[str, Any] = await self._or_conflict(handles.CONTROLLER, "backup", folder)
        return told

    async def _or_conflict(self, role: str, method: str, *args: Any, **query: Any) -> Any:
        try:
            return await self._actors.ask(role, method, *args, timeout_s=None, **query)
        except (AuditError, StateError) as error:
            raise Conflict(str(original(error))) from error
