"""RegistryActor: versions, aliases and the audit log. The only writer of both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from forecast.artifact import Artifact
from forecast.audit import AuditLog
from forecast.registry import Registry, RegistryState


class RegistryActor:
    """Shell around `forecast.registry.Registry`.

    Called by the controller (`register`, `promote`, `reject`), by replicas on any node
    (`pull_if_newer`, `load`: no shared disk needed) and the gateway (`state`, `updates`).
    """

    def __init__(self, *, audit_dir: Any, **settings: Any) -> None:
        self._registry = Registry(audit=AuditLog(audit_dir), **settings)
        self._changed = asyncio.Condition()

    async def state(self) -> RegistryState:
        """Aliases, versions and the revision."""
        return self._registry.state()

    async def register(self, artifact: Artifact, *, update_id: str, slot: int) -> int:
        """Store an artifact; the same update id gives the same version."""
        return self._registry.register(artifact, update_id=update_id, slot=slot)

    async def promote(self, version: int, **record: Any) -> RegistryState:
        """Move the champion; one audit record holds the new state."""
        state = self._registry.promote(version, **record)
        await self._tell()
        return state

    async def rollback(self, to: int | None, **record: Any) -> RegistryState:
        """Move the champion back."""
        state = self._registry.rollback(to, **record)
        await self._tell()
        return state

    async def reject(self, **record: Any) -> None:
        """Record a challenger that the gate refused."""
        self._registry.reject(**record)

    async def note(self, kind: str, *, slot: int, detail: Mapping[str, Any]) -> None:
        """Record any other event of the system."""
        self._registry.note(kind, slot=slot, detail=detail)

    async def load(self, version: int) -> Artifact:
        """A version's artifact, its checksums verified."""
        return self._registry.load(version)

    async def resolve(self, name: str) -> int:
        """The version behind an alias or a number."""
        return self._registry.resolve(name)

    async def pull_if_newer(self, seen: int | None) -> tuple[RegistryState, Artifact | None] | None:
        """State and the champion's artifact when the revision is not `seen`."""
        return self._registry.pull_if_newer(seen)

    async def wait_newer(
        self, seen: int | None, timeout_s: float
    ) -> tuple[RegistryState, Artifact | None] | None:
        """`pull_if_newer`, waiting up to the timeout for a change."""

        def newer() -> bool:
            return self._registry.state().revision != seen

        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(newer), timeout_s)
            except TimeoutError:
                return None
        return self._registry.pull_if_newer(seen)

    async def updates(self, limit: int, since: int | None = None) -> Sequence[Mapping[str, Any]]:
        """The newest updates with their gate reports."""
        return self._registry.updates(limit=limit, since=since)

    async def summary(self) -> dict[str, Any]:
        """The champion and how many challengers were promoted and refused."""
        return dict(self._registry.summary())

    async def close(self) -> None:
        """Let go of the lock."""
        self._registry.close()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
