"""What /rollout answers: who answers for whom, what is on its way, what was changed and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forecast.audit import AuditRecord
from forecast.http.api import Answer, rfc3339
from forecast.http.learning import PauseAnswer, paused
from forecast.http.series import begin_of, end_of
from forecast.record import Snapshot
from forecast.rolling_out import tag_of
from forecast.rollout import EVERYONE, Cohort, Flight, Table
from forecast.versions import RegistryState


class CohortAnswer(Answer):
    """A cohort, and who answers for it."""

    name: str
    servers: float
    """Share of all servers' names."""
    count: int
    """Servers of the fleet that are in it now."""
    versions: dict[str, float]


class FlightAnswer(Answer):
    """A version on its way to everyone."""

    version: int
    stage: str
    """`shadow`, `canary`, or `operator`: somebody's own table."""
    began: str | None
    since: str | None
    """Begin of its stage."""
    canary_share: float
    fast: bool
    """Whether it goes the fast lane, after a confirmed drift."""


class RolledAnswer(Answer):
    """Who answers now, and what is on its way; with `dry_run`, who would."""

    champion: int
    aliases: dict[str, int]
    revision: int
    tag: str
    """Of what stands, for If-Match."""
    cohorts: list[CohortAnswer]
    """`everyone` is the last: all that are in no other."""
    flight: FlightAnswer | None
    waiting: int | None
    """The version that begins next."""
    shadows: list[int]
    paused: PauseAnswer | None
    dry_run: bool = False


class ChangedAnswer(Answer):
    """One change of who answers for whom."""

    sequence: int
    """Its place in the audit log."""
    time: str
    as_of: str | None
    """Event time; null while the step is unknown to this replica."""
    what: str
    """`accept`, `advance`, `back`, `promote`, `rollback`, `put`, `pin`, `shadow` or `retire`."""
    version: int | None
    who: str
    reasons: list[str]


class RolloutAnswer(RolledAnswer):
    """Where the rollout stands."""

    enabled: bool | None
    """Whether accepted versions go this way; null while the controller does not answer."""
    comparison: dict[str, Any] | None
    """What the version in flight lost next to the champion, live: in all and by role."""
    verdict: str | None
    """What was decided of it at the last step, and why."""
    reasons: list[str]
    history: list[ChangedAnswer]
    """The newest first."""


def standing(
    state: RegistryState,
    trial: Mapping[str, Any] | None,
    history: Sequence[AuditRecord],
    snapshot: Snapshot | None,
) -> RolloutAnswer:
    """Where the rollout stands; `trial` is what the controller told of it, None for nothing."""
    known = trial or {}
    flies = None if state.rollout.flight is None else state.rollout.flight.version
    current = known.get("version") == flies and flies is not None
    return RolloutAnswer(
        **fields_of(state, snapshot),
        enabled=known.get("enabled"),
        comparison=known.get("comparison") if current else None,
        verdict=known.get("verdict") if current else None,
        reasons=list(known.get("reasons", ())) if current else [],
        history=[_change(record, snapshot) for record in history],
    )


def fields_of(state: RegistryState, snapshot: Snapshot | None) -> dict[str, Any]:
    """The fields of a `RolledAnswer`, but for `dry_run`."""
    rollout = state.rollout
    return {
        "champion": state.champion or 0,
        "aliases": dict(state.aliases),
        "revision": state.revision,
        "tag": tag_of(state),
        "cohorts": _cohorts(state, snapshot),
        "flight": None if rollout.flight is None else _flight(rollout.flight, snapshot),
        "waiting": None if rollout.waiting is None else rollout.waiting.version,
        "shadows": list(rollout.shadows),
        "paused": paused(state),
    }


def _cohorts(state: RegistryState, snapshot: Snapshot | None) -> list[CohortAnswer]:
    if state.champion is None:
        return []
    table = state.rollout.table or Table.of(state.champion)
    names = [] if snapshot is None else [server.name for server in snapshot.servers]
    within = [table.cohort_of(name) for name in names]
    rest = max(0.0, 1 - sum(cohort.servers for cohort in table.cohorts))
    every = (*table.cohorts, Cohort(EVERYONE, rest, table.everyone))
    return [
        CohortAnswer(
            name=one.name,
            servers=one.servers,
            count=within.count(one.name),
            versions={str(share.version): share.share for share in one.versions},
        )
        for one in every
    ]


def _flight(flight: Flight, snapshot: Snapshot | None) -> FlightAnswer:
    return FlightAnswer(
        version=flight.version,
        stage=flight.stage,
        began=begin_of(flight.began, snapshot),
        since=begin_of(flight.since, snapshot),
        canary_share=flight.canary_share,
        fast=flight.fast,
    )


def _change(record: AuditRecord, snapshot: Snapshot | None) -> ChangedAnswer:
    told = record.detail
    return ChangedAnswer(
        sequence=record.sequence,
        time=rfc3339(record.time_s),
        as_of=end_of(record.slot, snapshot),
        what=told.get("action", record.kind),
        version=told.get("version"),
        who=record.who,
        reasons=list(told.get("reasons", [told["reason"]] if "reason" in told else [])),
    )
