"""RegistryActor: versions, aliases and the audit log. The only writer of both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.copied import Copied
from actors.on_record import OnRecord
from forecast.artifact import Artifact
from forecast.audit import SEGMENT_BYTES, AuditLog, AuditRecord
from forecast.backup import ARTIFACTS, STATE, files_below
from forecast.errors import ArtifactError
from forecast.evidence_files import EvidenceFiles
from forecast.health import RECENT, counted
from forecast.log_reads import Change, canary_taken_back
from forecast.registry import Registry, RegistryState, Servable, UpdateRecord
from forecast.rolling_out import Action
from forecast.storage import HANDOVER_S, OwnerLock
from forecast.touched import Touched, touched
from forecast.verdicts import VERDICTS

log = logging.getLogger("fleetcast.registry")


class RegistryActor(OnRecord, Copied):
    """Shell around `forecast.registry.Registry`, holding the lock on the panel's state.

    Called by the controller (`register`, `promote`, `reject`), by replicas on any node
    (`pull_if_newer`, `load`: no shared disk needed) and the gateway (`state`, `updates`). Every
    change is on disk before it is answered; the constructor, which Ray runs again, reads it back.
    """

    def __init__(
        self,
        *,
        audit_dir: Path,
        owner: str,
        segment_bytes: int = SEGMENT_BYTES,
        evidence_slots: int = 0,
        **settings: Any,
    ) -> None:
        panel_dir = audit_dir.parent
        self._lock = OwnerLock(panel_dir / "owner.lock", owner, patience_s=HANDOVER_S)
        self._audit = AuditLog(audit_dir, segment_bytes=segment_bytes)
        self._evidence = EvidenceFiles(panel_dir / "evidence", keep_slots=evidence_slots)
        self._registry = Registry(audit=self._audit, lock=self._lock, **settings)
        self._artifacts = settings["storage"] / settings["panel"]
        self._changed = asyncio.Condition()
        self._backs: list[int] = []
        """Slots at which rollouts took a canary back, up to the record number `_read`."""
        self._read = 0
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

    async def accept(self, version: int, **record: Any) -> RegistryState:
        """Let a version begin its way to everyone; see `Registry.accept`."""
        return await self._tell(self._registry.accept(version, **record))

    async def advance(self, version: int, **record: Any) -> RegistryState:
        """Let the version in flight serve its canary cohort."""
        return await self._tell(self._registry.advance(version, **record))

    async def arrive(self, version: int, **record: Any) -> RegistryState:
        """Promote the version in flight."""
        return await self._tell(self._registry.arrive(version, **record))

    async def back(self, version: int, **record: Any) -> RegistryState:
        """Refuse the version in flight."""
        return await self._tell(self._registry.back(version, **record))

    async def steer(
        self,
        action: Action,
        version: int | None,
        *,
        expected: str | None,
        dry_run: bool = False,
        **record: Any,
    ) -> RegistryState:
        """What a person asks for, if what they saw still stands; see `Registry.steer`."""
        self._registry.expect(expected, f"{action}:{record['key']}")
        state = self._registry.steer(action, version, **record, dry_run=dry_run)
        return state if dry_run else await self._tell(state)

    async def rollouts(self, limit: int) -> list[AuditRecord]:
        """The last changes of who answers for whom, newest first."""
        return self._registry.rollouts(limit)

    async def rollback(
        self, to: int | None, *, expected: str | None = None, dry_run: bool = False, **record: Any
    ) -> RegistryState:
        """Move the champion back, if what was seen still stands; `dry_run` only tells."""
        self._registry.expect(expected, f"rollback:{record['key']}")
        state = self._registry.rollback(to, **record, dry_run=dry_run)
        return state if dry_run else await self._tell(state)

    async def pause(self, **record: Any) -> RegistryState:
        """Hold promotion back, or all learning; see `Registry.pause`."""
        return await self._tell(self._registry.pause(**record))

    async def resume(self, **record: Any) -> RegistryState:
        """Let promotion and learning go on."""
        return await self._tell(self._registry.resume(**record))

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

    async def changes(self, since_revision: int) -> list[Change]:
        """Rollbacks, pauses and resumes after a revision; see `Registry.changes`."""
        return self._registry.changes(since_revision)

    async def champion_at(self, slot: int) -> int:
        """Who was champion after a slot's step; see `Registry.champion_at`."""
        return self._registry.champion_at(slot)

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
        """The champion, who holds promotion back, counts of verdicts, rollbacks and drifts."""
        state = self._registry.state()
        paused = None if state.paused is None else asdict(state.paused)
        told = {"paused": paused, "promotion_paused": paused is not None}
        flight = state.rollout.flight
        challenger = None if flight is None else flight.version
        return {"champion": state.champion, "challenger": challenger, **told, **self._verdicts}

    def _files(self) -> dict[str, Path]:
        """The audit log and the versions, which go together."""
        log = {f"{STATE}/audit/{name}": path for name, path in self._audit.files().items()}
        return {**log, **files_below(self._artifacts, ARTIFACTS)}

    def _fixed_files(self) -> dict[str, Path]:
        """The evidence: many small files, each named by its content."""
        files = self._evidence.files()
        return {f"{STATE}/evidence/{name}": path for name, path in files.items()}

    async def close(self) -> None:
        """Let go of the lock."""
        self._lock.release()

    async def _tell(self, state: RegistryState) -> RegistryState:
        self._verdicts = self._count()
        async with self._changed:
            self._changed.notify_all()
        return state

    def _count(self) -> dict[str, Any]:
        log = self._audit
        accepted = next(self._registry.verdicts(kinds=("accept", "promote")), None)
        found = log.records(since=self._read, kinds=("rollout",))
        self._backs += [record.slot for record in found if canary_taken_back(record)]
        self._read = len(log)
        return counted(
            self._registry.updates(limit=RECENT),
            counts={verdict: log.count(kind) for kind, verdict in VERDICTS.items()},
            accepted=None if accepted is None else accepted.slot,
            rollbacks=[*log.slots("rollback"), *self._backs],
            drifts=log.count("drift"),
        )
