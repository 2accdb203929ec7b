"""RegistryActor: versions, aliases and the audit log. The only writer of both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forecast.artifact import Artifact
from forecast.audit import AuditLog
from forecast.errors import ArtifactError
from forecast.health import counted
from forecast.registry import Registry, RegistryState, Servable, UpdateRecord
from forecast.storage import HANDOVER_S, OwnerLock
from forecast.touched import Touched, touched

log = logging.getLogger("fleetcast.registry")

_ALL = 1_000_000


class RegistryActor:
    """Shell around `forecast.registry.Registry`, holding the lock on the panel's state.

    Called by the controller (`register`, `promote`, `reject`), by replicas on any node
    (`pull_if_newer`, `load`: no shared disk needed) and the gateway (`state`, `updates`). Every
    change is on disk before it is answered; the constructor, which Ray runs again, reads it back.
    """

    def __init__(self, *, audit_dir: Path, owner: str, **settings: Any) -> None:
        self._lock = OwnerLock(audit_dir.parent / "owner.lock", owner, patience_s=HANDOVER_S)
        self._audit = AuditLog(audit_dir)
        self._registry = Registry(audit=self._audit, lock=self._lock, **settings)
        self._changed = asyncio.Condition()
        self._verdicts = self._count()
        state = self._registry.state()
        log.info(
            "the registry is open at revision %d",
            state.revision,
            extra={"revision": state.revision, "version": state.champion},
        )

    async def state(self) -> RegistryState:
        """Aliases, versions and the revision."""
        return self._registry.state()

    async def register(self, artifact: Artifact, *, update_id: str, slot: int) -> int:
        """Store an artifact; the same update id gives the same version."""
        before = self._registry.state().next_version
        version = self._registry.register(artifact, update_id=update_id, slot=slot)
        if version >= before:
            said = {"update_id": update_id, "slot": slot, "version": version}
            log.info("%s registered as version %d", update_id, version, extra=said)
        return version

    async def promote(self, version: int, **record: Any) -> RegistryState:
        """Move the champion; one audit record holds the new state."""
        return await self._tell(self._registry.promote(version, key=record["update_id"], **record))

    async def rollback(self, to: int | None, **record: Any) -> RegistryState:
        """Move the champion back."""
        return await self._tell(self._registry.rollback(to, **record))

    async def reject(self, version: int | None, **record: Any) -> RegistryState:
        """Record a challenger that the gate refused."""
        return await self._tell(self._registry.reject(version, **record))

    async def note(
        self,
        kind: str,
        *,
        detail: Mapping[str, Any],
        slot: int | None = None,
        who: str = "controller",
        key: str | None = None,
    ) -> None:
        """Record any other event of the system; see `Registry.note`."""
        self._registry.note(kind, slot=slot, detail=detail, who=who, key=key)
        if kind == "drift":
            self._verdicts = self._count()

    async def late_event(
        self, event_id: str, first: int, last: int, *, known: int, who: str
    ) -> Touched:
        """Which accepted versions learned from slots that were masked too late; on record."""
        state = self._registry.state()
        lineages = {}
        for info in state.versions:
            try:
                lineages[info.version] = self._registry.manifest(info.version).get("lineage", {})
            except ArtifactError as error:
                log.warning("what version %d learned from is not known: %s", info.version, error)
        found = touched(state, lineages, first, last)
        detail = {"event": event_id, "from_slot": first, "to_slot": last, **asdict(found)}
        key = f"{event_id}:{known}"
        self._registry.note("event_late", slot=known, detail=detail, who=who, key=key)
        return found

    async def load(self, version: int) -> Artifact:
        """A version's artifact, its checksums verified."""
        return self._registry.load(version)

    async def manifest(self, name: str) -> tuple[int, dict[str, Any]]:
        """The version behind an alias or a number, and its manifest."""
        version = self._registry.resolve(name)
        return version, self._registry.manifest(version)

    async def pull_if_newer(
        self, seen: int, refused: Sequence[int] = ()
    ) -> tuple[RegistryState, Servable] | None:
        """State and what should serve when the revision is not `seen`."""
        return self._registry.pull_if_newer(seen, refused=refused)

    async def wait_newer(
        self, seen: int, timeout_s: float, refused: Sequence[int] = ()
    ) -> tuple[RegistryState, Servable] | None:
        """`pull_if_newer`, waiting up to the timeout for a change."""
        async with self._changed:
            pulled = self._registry.pull_if_newer(seen, refused=refused)
            if pulled is not None:
                return pulled
            # Up to date, or nothing can serve yet: either way only a change helps.
            try:
                await asyncio.wait_for(self._changed.wait(), timeout_s)
            except TimeoutError:
                return None
        return self._registry.pull_if_newer(seen, refused=refused)

    async def verdict(self, update_id: str) -> UpdateRecord | None:
        """The verdict on one update, if it has one."""
        return self._registry.verdict(update_id)

    async def updates(self, limit: int, since_slot: int | None = None) -> list[UpdateRecord]:
        """The newest verdicts with their gate reports."""
        return self._registry.updates(limit=limit, since_slot=since_slot)

    async def summary(self) -> dict[str, Any]:
        """The champion, counts of verdicts, rollbacks and drifts, the newest of them."""
        return {"champion": self._registry.state().champion, **self._verdicts}

    async def close(self) -> None:
        """Let go of the lock."""
        self._lock.release()

    async def _tell(self, state: RegistryState) -> RegistryState:
        self._verdicts = self._count()
        async with self._changed:
            self._changed.notify_all()
        return state

    def _count(self) -> dict[str, Any]:
        updates = self._registry.updates(limit=_ALL)
        told = [(one.kind, one.slot) for one in self._audit.records(kinds=("rollback", "drift"))]
        return counted(
            updates,
            rollbacks=[slot for kind, slot in told if kind == "rollback"],
            drifts=[slot for kind, slot in told if kind == "drift"],
        )
