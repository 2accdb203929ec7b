"""RegistryActor: versions, aliases and the audit log. The only writer of both."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forecast.artifact import Artifact
from forecast.audit import AuditLog
from forecast.registry import Registry, RegistryState, Servable, UpdateRecord
from forecast.storage import OwnerLock

_ALL = 1_000_000


class RegistryActor:
    """Shell around `forecast.registry.Registry`, holding the lock on the panel's state.

    Called by the controller (`register`, `promote`, `reject`), by replicas on any node
    (`pull_if_newer`, `load`: no shared disk needed) and the gateway (`state`, `updates`). Every
    change is on disk before it is answered; the constructor, which Ray runs again, reads it back.
    """

    def __init__(self, *, audit_dir: Path, owner: str, **settings: Any) -> None:
        self._lock = OwnerLock(audit_dir.parent / "owner.lock", owner)
        self._registry = Registry(audit=AuditLog(audit_dir), lock=self._lock, **settings)
        self._changed = asyncio.Condition()
        self._verdicts = self._count()

    async def state(self) -> RegistryState:
        """Aliases, versions and the revision."""
        return self._registry.state()

    async def register(self, artifact: Artifact, *, update_id: str, slot: int) -> int:
        """Store an artifact; the same update id gives the same version."""
        return self._registry.register(artifact, update_id=update_id, slot=slot)

    async def promote(self, version: int, **record: Any) -> RegistryState:
        """Move the champion; one audit record holds the new state."""
        return await self._tell(self._registry.promote(version, key=record["update_id"], **record))

    async def rollback(self, to: int | None, **record: Any) -> RegistryState:
        """Move the champion back."""
        return await self._tell(self._registry.rollback(to, **record))

    async def reject(self, version: int, **record: Any) -> RegistryState:
        """Record a challenger that the gate refused."""
        return await self._tell(self._registry.reject(version, **record))

    async def note(self, kind: str, *, slot: int, detail: Mapping[str, Any]) -> None:
        """Record any other event of the system."""
        self._registry.note(kind, slot=slot, detail=detail, who="controller")

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
        """The champion and how many challengers were promoted and refused."""
        return {"champion": self._registry.state().champion, **self._verdicts}

    async def close(self) -> None:
        """Let go of the lock."""
        self._lock.release()

    async def _tell(self, state: RegistryState) -> RegistryState:
        self._verdicts = self._count()
        async with self._changed:
            self._changed.notify_all()
        return state

    def _count(self) -> dict[str, int]:
        seen = Counter(update.verdict for update in self._registry.updates(limit=_ALL))
        return {"promoted": seen["promoted"], "rejected": seen["rejected"]}
