"""What the registry's audit log is read for: verdicts, and who was champion when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from forecast.audit import AuditLog, AuditRecord
from forecast.errors import RegistryError, UnknownVersion
from forecast.verdicts import VERDICTS, UpdateRecord, by_hand
from forecast.versions import RegistryState


@dataclass(frozen=True, slots=True)
class Change:
    """A rollback, a pause or a resume, as those who act on it read it.

    What a rollout takes back from its canary cohort is a rollback too: it had answered.
    """

    kind: str
    slot: int
    who: str
    reason: str
    revision: int
    """The state's, after it."""
    champion: int | None


def canary_taken_back(record: AuditRecord) -> bool:
    """Whether a rollout took a version back that answered for its canary cohort."""
    told = record.detail
    return (record.kind, told.get("action"), told.get("stage")) == ("rollout", "back", "canary")


class LogReads:
    """The part of a registry that looks back; see `forecast.registry.Registry`."""

    _audit: AuditLog
    _state: RegistryState

    def updates(self, *, limit: int = 100, since_slot: int | None = None) -> list[UpdateRecord]:
        """The gate's verdicts of slot `since_slot` or later, newest first."""
        records = self.verdicts(since_slot=since_slot)
        return [UpdateRecord.of(record) for record in islice(records, limit)]

    def verdicts(
        self, *, since_slot: int | None = None, kinds: Sequence[str] = tuple(VERDICTS)
    ) -> Iterator[AuditRecord]:
        """Their records. Promotions by a rollout's end or by a person are none."""
        log = self._audit
        for record in log.records(since_slot=since_slot, kinds=kinds, newest_first=True):
            arrived = record.kind == "promote" and f"accept:{record.detail['update_id']}" in log
            if not arrived and not by_hand(record):
                yield record

    def verdict(self, update_id: str) -> UpdateRecord | None:
        """The verdict on one update, if it has one: an update is judged once."""
        found = (self._audit.find(f"{kind}:{update_id}") for kind in VERDICTS)
        return next((UpdateRecord.of(record) for record in found if record is not None), None)

    def changes(self, since_revision: int) -> list[Change]:
        """Rollbacks, pauses and resumes after a revision, the oldest first."""
        found = []
        kinds = ("rollout", "rollback", "pause", "resume")
        for record in self._audit.records(kinds=kinds, newest_first=True):
            if record.state is None:
                continue
            if record.state["revision"] <= since_revision:
                break
            kind, told = record.kind, record.detail
            if canary_taken_back(record):
                kind, told = "rollback", {"reason": "; ".join(told["reasons"])}
            if kind in ("rollback", "pause", "resume"):
                reason, state = str(told["reason"]), record.state
                champion = state["aliases"].get("champion")
                found.append(
                    Change(kind, record.slot, record.who, reason, state["revision"], champion)
                )
        return found[::-1]

    def champion_at(self, slot: int) -> int:
        """The version that was champion once the step of `slot` was done, in event time.

        Raises RegistryError when there was none yet, UnknownVersion when its files are gone.
        """
        for record in self._audit.records(newest_first=True):
            if record.state is None or record.slot > slot:
                continue
            version = RegistryState.from_json(record.state).champion
            if version is None:
                break
            if all(info.version != version for info in self._state.versions):
                known = ", ".join(str(info.version) for info in self._state.versions)
                raise UnknownVersion(
                    f"version {version} was champion at slot {slot}, and its files are gone; "
                    f"kept are {known}"
                )
            return version
        raise RegistryError(f"there was no champion at slot {slot} yet")
