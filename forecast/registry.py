"""The registry: immutable versions of the model, and the one that serves.

A change happens when its audit record is on disk: the record holds the whole new state. A version's
folder is complete before the record that names it is written, and removed only after one that no
longer names it. So a crash between any two file operations leaves the old state or the new one,
and opening the registry clears what is left over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from forecast.artifact import Artifact
from forecast.audit import AuditLog, AuditRecord
from forecast.by_hand import ByHand
from forecast.errors import RegistryError
from forecast.log_reads import LogReads
from forecast.pauses import Pause
from forecast.retention import Keeping
from forecast.rolling_out import RollingOut
from forecast.storage import DISK, Disk, OwnerLock
from forecast.store import Refused, Servable, VersionStore
from forecast.verdicts import VERDICTS, UpdateRecord
from forecast.versions import RegistryState, VersionInfo

__all__ = ["Refused", "Registry", "RegistryState", "Servable", "UpdateRecord", "VersionInfo"]

_COMMITS = ("register", *VERDICTS, "rollout", "rollback", "alias", "pause", "resume")


class Registry(ByHand, RollingOut, LogReads):
    """The one writer of a panel's versions and aliases.

    Changes are idempotent: each has a key, by default of event time and version, and one that was
    committed before changes nothing. A caller that may ask twice within a slot and mean it (a
    person) passes its own `key`, one per request. Take the `lock` before opening the audit log.
    """

    def __init__(
        self,
        *,
        storage: Path,
        audit: AuditLog,
        panel: str,
        keep_versions: int,
        fingerprint: str,
        now: Callable[[], float],
        keep_beside: int = 0,
        step_seconds: int = 300,
        open_slots: int = 0,
        lock: OwnerLock | None = None,
        disk: Disk = DISK,
    ) -> None:
        """Open or create; `fingerprint` is the schema's, `now` the wall clock in seconds.

        `keep_beside` is how many versions before the champion are members still, and are kept,
        `open_slots` how long forecasts take to mature.
        Raises StateError when the versions that the log names are not there at all, and AuditError
        when the log has lost records that were committed.
        """
        if keep_versions < 1:
            raise ValueError(f"keep_versions is {keep_versions}; at least 1 is needed")
        self._audit = audit
        self._keeping = Keeping(
            newest=keep_versions,
            beside=keep_beside,
            step_seconds=step_seconds,
            open_slots=open_slots,
        )
        self._now = now
        self._lock = lock
        latest = audit.latest.state if audit.latest else None
        self._state = RegistryState.from_json(latest) if latest else RegistryState()
        self._store = VersionStore(storage / panel, panel=panel, fingerprint=fingerprint, disk=disk)
        self._check_owner()
        self._store.open(self._state, audit)
        self._store.settle(self._state, audit)
        if audit.cut_bytes:
            self.note(
                "audit_tail_cut",
                slot=audit.latest.slot if audit.latest else 0,
                detail={"bytes": audit.cut_bytes, "after_record": len(audit)},
                key=audit.head,
            )

    def state(self) -> RegistryState:
        """The present state."""
        return self._state

    def resolve(self, name: str | int) -> int:
        """The version that an alias, a number or its text names; raises UnknownVersion."""
        return self._state.resolve(name)

    def manifest(self, name: str | int) -> dict[str, Any]:
        """A version's manifest, verified; raises UnknownVersion, ArtifactError."""
        return self._store.manifest(self._state.info(self.resolve(name)))

    def load(self, name: str | int) -> Artifact:
        """A version's files, checksums verified.

        Raises UnknownVersion, and ArtifactError naming the file that is missing or damaged.
        """
        return self._store.read(self._state.info(self.resolve(name)))

    def newest_servable(self, *, refused: Collection[int] = ()) -> Servable | None:
        """The champion, or the last good version before it; None when there is none.

        `refused` names versions that the caller could not use. What was passed over is in the
        answer; it is logged too, as it needs a person.
        """
        return self._store.newest_servable(self._state, refused)

    def pull_if_newer(
        self, seen_revision: int, *, refused: Collection[int] = ()
    ) -> tuple[RegistryState, Servable] | None:
        """The state and what should serve, for a reader that has seen another revision.

        None when the reader is up to date or nothing can serve.
        """
        if seen_revision == self._state.revision:
            return None
        servable = self.newest_servable(refused=refused)
        return None if servable is None else (self._state, servable)

    def register(self, artifact: Artifact, *, update_id: str, slot: int) -> int:
        """Store a version and return its number; the same `update_id` gives the same number.

        Raises ArtifactError when the artifact is damaged or of another schema.
        """
        key = f"register:{update_id}"
        if (known := self._done(key)) is not None:
            return int(known.detail["version"])
        version = self._state.next_version
        self._store.sweep(self._state)
        info = self._store.write(version, artifact, update_id=update_id, slot=slot)
        detail = {
            "version": version,
            "update_id": update_id,
            "lineage": artifact.manifest.get("lineage", {}),
            "metrics": artifact.manifest.get("metrics", {}),
        }
        state = self._state.registered(info)
        self._commit("register", key, state, slot=slot, who="registry", detail=detail)
        return version

    def promote(
        self,
        version: int,
        *,
        slot: int,
        reasons: Sequence[str],
        who: str,
        update_id: str | None = None,
        report: Mapping[str, Any] | None = None,
        anchor: int | None = None,
        key: str | None = None,
    ) -> RegistryState:
        """Make a version the champion; the old champion becomes `previous`.

        `anchor` names the version that is the anchor from now on. Its files are verified first.
        Raises UnknownVersion, ArtifactError, and RegistryError while promotion is paused, but for
        the first version.
        """
        key = f"promote:{key or f'{slot}:{version}'}"
        if self._done(key) is None:
            if self._state.held is not None:
                raise RegistryError(f"version {version} is not promoted: {self._state.held}")
            verdict = self._passed(version, update_id, reasons, report)
            state = self._state.promoted(version, slot=slot).anchored(anchor)
            detail = {"version": version, "replaces": self._state.champion, **verdict}
            self._commit("promote", key, state, slot=slot, who=who, detail=detail)
        return self._state

    def reject(
        self,
        version: int | None,
        *,
        slot: int,
        reasons: Sequence[str],
        who: str,
        update_id: str,
        report: Mapping[str, Any] | None = None,
        anchor: int | None = None,
    ) -> RegistryState:
        """Keep the gate's refusal; None when the challenger was never registered.

        `anchor` names the version that is the anchor from now on, where one was registered.
        A refused version is removed unless an alias names it. Raises UnknownVersion, and
        RegistryError when the version is promoted.
        """
        key = f"reject:{update_id}"
        if self._done(key) is None:
            known = self._audit.find(f"register:{update_id}")
            detail = {
                "version": version,
                "update_id": update_id,
                "reasons": list(reasons),
                "report": report or {},
                "lineage": known.detail["lineage"] if known else {},
            }
            state = None
            if version is not None:
                state = self._state.rejected(version, slot=slot).anchored(anchor)
            self._commit("reject", key, state, slot=slot, who=who, detail=detail)
        return self._state

    def rollback(
        self,
        to: int | None = None,
        *,
        slot: int,
        who: str,
        reason: str,
        pause: bool = False,
        key: str | None = None,
        dry_run: bool = False,
    ) -> RegistryState:
        """Move the champion back, to `previous` or to a version that was champion before.

        What came after it is withdrawn: it no longer serves, not even as a way out. `pause` holds
        promotion back from then on, in the same record. With `dry_run` it is told and not made.
        Raises RegistryError when there is no such version, ArtifactError when it is damaged.
        """
        key = f"rollback:{key or f'{slot}:{to}'}"
        if self._done(key) is None:
            state = self._state
            if pause:  # first, so that what waited does not begin to answer by it
                held = Pause(who, f"rollback: {reason}", slot)
                state = replace(state, paused=held.over(state.paused))
            state = state.rolled_back(to, slot=slot)
            self.load(state.aliases["champion"])
            if dry_run:
                return state
            replaces = self._state.champion
            detail = {"version": state.champion, "replaces": replaces, "reason": reason}
            self._commit("rollback", key, state, slot=slot, who=who, detail=detail)
        return self._state

    def note(
        self,
        kind: str,
        *,
        slot: int | None = None,
        detail: Mapping[str, Any],
        who: str = "registry",
        key: str | None = None,
    ) -> AuditRecord:
        """Audit an event that changes no version; once per key, by default (slot, kind).

        Without a slot it is the one of the last change.
        """
        if slot is None:
            slot = self._audit.latest.slot if self._audit.latest else 0
        if kind in _COMMITS:
            raise ValueError(f"{kind!r} is a change of the registry, not a note")
        self._check_owner()
        return self._audit.append(
            kind=kind,
            slot=slot,
            who=who,
            time_s=self._now(),
            key=f"note:{kind}:{slot if key is None else key}",
            detail=detail,
        )

    def _done(self, key: str) -> AuditRecord | None:
        """The record of a change committed before; what it left to do is then done too."""
        self._check_owner()
        record = self._audit.find(key)
        if record is not None:
            self._store.settle(self._state, self._audit)
        return record

    def _commit(
        self,
        kind: str,
        key: str,
        state: RegistryState | None,
        *,
        slot: int,
        who: str,
        detail: Mapping[str, Any],
    ) -> None:
        """Write the record that makes the change happen, then bring the files in line with it."""
        self._check_owner()
        after = None if state is None else state.retained(self._keeping, slot=slot)
        self._audit.append(
            kind=kind,
            slot=slot,
            who=who,
            time_s=self._now(),
            key=key,
            detail=detail,
            state=None if after is None else after.to_json(),
        )
        if after is not None:
            self._state = after
            self._store.settle(after, self._audit)

    def _check_owner(self) -> None:
        if self._lock is not None:
            self._lock.check()
