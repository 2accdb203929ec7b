"""What the system says of itself over HTTP: accuracy, models, updates, servers, readiness."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from forecast.accuracy import AccuracyReport
from forecast.config import seconds
from forecast.errors import NotReady, Unprocessable
from forecast.http.answers import age_s, is_stalled
from forecast.http.api import (
    MemberAccuracy,
    ModelsAnswer,
    ReadyAnswer,
    ServerAnswer,
    ServersAnswer,
    UpdateAnswer,
    UpdatesAnswer,
    VersionAccuracy,
    VersionAnswer,
    rfc3339,
)
from forecast.http.gain import GainedAccuracy, LearningGain
from forecast.http.queries import ServersQuery
from forecast.http.series import begin_of, end_of, moment
from forecast.http.service import ServerLike
from forecast.record import Snapshot
from forecast.registry import UpdateRecord
from forecast.versions import RegistryState


def since_slot(since: str | None, snapshot: Snapshot | None, *, what: str = "since") -> int | None:
    """The slot of a time, or of a duration back from the newest forecast.

    Raises Unprocessable for text that is neither, NotReady while nothing says how long a slot is;
    both name `what` was asked.
    """
    if since is None:
        return None
    if snapshot is None:
        raise NotReady(f"`{what}` needs a first forecast of record", retry_after_s=5)
    try:
        back = -(-seconds(since) // snapshot.step_seconds)
    except ValueError:
        return _slot_of_time(since, snapshot.step_seconds, what)
    return max(0, snapshot.slot + 1 - back)


def _slot_of_time(text: str, step_seconds: int, what: str) -> int:
    try:
        given = datetime.fromisoformat(text)
        offset = given.utcoffset()
    except ValueError:
        offset = None
    if offset is None:
        raise Unprocessable(
            f"`{what}` is a time with an offset such as 2026-01-01T00:00:00Z, or a duration such "
            f"as 24h, not {text!r:.80}"
        )
    return max(0, int(given.timestamp() // step_seconds))


def accuracy(
    report: AccuracyReport, snapshot: Snapshot | None, gain: LearningGain | None = None
) -> GainedAccuracy:
    """The ledger's errors, the champion's first and the baselines' beside them."""

    def members(found: Sequence[object]) -> list[MemberAccuracy]:
        return [MemberAccuracy.model_validate(one, from_attributes=True) for one in found]

    return GainedAccuracy(
        since=begin_of(report.since_slot, snapshot),
        scored_until=end_of(report.through_slot, snapshot),
        server=report.server,
        metric=report.target,
        members=members(report.members),
        versions=[
            VersionAccuracy(version=one.version, members=members(one.members))
            for one in report.versions
        ],
        learning_gain=gain,
    )


def models(state: RegistryState) -> ModelsAnswer:
    """The versions kept, oldest first."""
    versions = sorted(state.versions, key=lambda info: info.version)
    return ModelsAnswer(
        revision=state.revision,
        aliases=dict(state.aliases),
        versions=[
            VersionAnswer(
                version=info.version,
                kind=info.kind,
                parent=info.parent,
                update_id=info.update_id,
                status=info.status,
                created_at=info.created_at,
                bytes=info.bytes,
                weights_sha256=info.weights_sha256,
            )
            for info in versions
        ],
    )


def updates(records: Sequence[UpdateRecord], snapshot: Snapshot | None) -> UpdatesAnswer:
    """The gate's verdicts, newest first."""
    return UpdatesAnswer(updates=[_update(record, snapshot) for record in records])


def _update(record: UpdateRecord, snapshot: Snapshot | None) -> UpdateAnswer:
    # A challenger that was refused was never registered: what it came from stands in the report.
    told = record.lineage or record.report
    parent = record.parent if record.parent is not None else told.get("parent")
    kind = told.get("kind") or ("base" if parent is None else "update")
    return UpdateAnswer(
        sequence=record.sequence,
        time=rfc3339(record.time_s),
        slot=record.slot,
        as_of=end_of(record.slot, snapshot),
        update_id=record.update_id,
        kind=str(kind),
        verdict=record.verdict,
        version=record.version,
        parent=parent,
        who=record.who,
        reasons=list(record.reasons),
        report=record.report,
        lineage=record.lineage,
    )


def servers(
    states: Sequence[ServerLike], query: ServersQuery, snapshot: Snapshot | None
) -> ServersAnswer:
    """One page of servers by name."""
    found = sorted(
        (
            state
            for state in states
            if state.name > query.after
            and query.state in (None, state.state)
            and query.role in (None, state.role)
        ),
        key=lambda state: state.name,
    )
    page = found[: query.limit]
    return ServersAnswer(
        servers=[
            ServerAnswer(
                name=state.name,
                role=state.role,
                timezone=state.timezone,
                state=state.state,
                first_seen=begin_of(state.first_slot, snapshot),
                last_seen=end_of(state.last_slot, snapshot),
                missing_slots=state.missing_slots,
            )
            for state in page
        ],
        next_after=page[-1].name if len(found) > len(page) else None,
    )


def ready(snapshot: Snapshot | None, now_s: float) -> ReadyAnswer:
    """Whether anything can answer, a fallback included, and what is still missing."""
    if snapshot is None:
        missing = ["forecast of record: nothing was forecast yet", "trained version"]
        return ReadyAnswer(ready=False, version=None, as_of=None, age_seconds=None, missing=missing)
    missing = []
    if snapshot.version is None:
        missing.append("trained version: baselines answer")
    if is_stalled(snapshot, now_s):
        missing.append("fresh data: the stream stands still")
    if not snapshot.servers:
        missing.append("servers: no data yet")
    return ReadyAnswer(
        ready=bool(snapshot.servers),
        version=snapshot.version,
        as_of=moment(snapshot.slot + 1, snapshot.step_seconds),
        age_seconds=age_s(snapshot, now_s),
        missing=missing,
    )
