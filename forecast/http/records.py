"""GET /audit and below, POST /backups: what is on record, verified, and copied whole."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.params import Depends as Dependency
from pydantic import BaseModel, ConfigDict, Field

from forecast.audit import AuditRecord
from forecast.http import reports
from forecast.http.api import Answer, json_response, rfc3339
from forecast.http.bodies import asked_of
from forecast.http.queries import Asked, Name
from forecast.http.series import begin_of
from forecast.http.service import Service
from forecast.record import Snapshot

_HASH = r"^[0-9a-f]{64}$"


class AuditQuery(BaseModel):
    """The query of GET /audit."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: list[Name] = Field(default=[], max_length=50)
    """Kinds of records: `promote`, `reject`, `rollback`, `config`, ...; none is every kind."""
    since: Name | None = None
    """Records about this time or later, or a duration back from the newest forecast."""
    before: int | None = Field(default=None, ge=1)
    """Records before this number, for the next page."""
    limit: int = Field(default=50, ge=1, le=1000)


class VerifyQuery(BaseModel):
    """The query of GET /audit/verify."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    head: str | None = Field(default=None, pattern=_HASH)
    """The hash of a record, kept elsewhere, that must still be there."""


class AuditRecordAnswer(Answer):
    """One record; its hash is of the whole line in the log, the registry's state included."""

    sequence: int
    kind: str
    slot: int
    slot_begin: str | None
    time: str
    """Wall clock."""
    who: str
    key: str | None
    detail: dict[str, Any]
    changed_state: bool
    previous: str
    hash: str


class AuditAnswer(Answer):
    """Records, newest first."""

    records: list[AuditRecordAnswer]
    next_before: int | None
    """Ask again with `before` set to this; null: no more."""


class VerifiedAnswer(Answer):
    """A log that is whole."""

    records: int
    head: str
    """The hash of the last record: keep it elsewhere, and a log cut after it is found."""


class DecisionAnswer(Answer):
    """A verdict and what it was decided from."""

    record: AuditRecordAnswer
    evidence: str
    """Base64; its SHA-256 is `detail.report.decided_from.evidence`."""


class BackupRequest(Asked):
    """The body of POST /backups."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Of a new folder below the config's `backup.directory`."""


class BackupAnswer(Answer):
    """A backup that is whole."""

    folder: str
    fleet: str
    panel: str
    slot: int | None
    files: int
    bytes: int
    audit_records: int
    audit_head: str


def record_routes(
    service: Service, *, read: Sequence[Dependency], operate: Sequence[Dependency]
) -> APIRouter:
    """The routes of the record: who may read, may read it; who operates, may copy all."""
    router = APIRouter()

    @router.get("/audit", dependencies=read, responses={200: {"model": AuditAnswer}})
    async def audit(query: Annotated[AuditQuery, Query()]) -> Response:
        """Who changed what, when and why; newest first."""
        snapshot = await service.snapshot()
        since = reports.since_slot(query.since, snapshot)
        found = await service.audit(
            limit=query.limit + 1, before=query.before, since=since, kinds=query.kind
        )
        shown = found[: query.limit]
        return json_response(
            AuditAnswer(
                records=[told(record, snapshot) for record in shown],
                next_before=shown[-1].sequence if len(found) > len(shown) else None,
            )
        )

    @router.get("/audit/verify", dependencies=read, responses={200: {"model": VerifiedAnswer}})
    async def verify(query: Annotated[VerifyQuery, Query()]) -> Response:
        """Check the whole log; 409 says where a record was changed, cut, added or moved."""
        found = await service.verify_audit(query.head)
        return json_response(VerifiedAnswer(records=found.records, head=found.head))

    @router.get(
        "/audit/decisions/{update_id}",
        dependencies=read,
        responses={200: {"model": DecisionAnswer}},
    )
    async def decision(update_id: str) -> Response:
        """A verdict of the gate and what it was decided from, to decide again."""
        record, evidence = await service.decision(update_id)
        packed = base64.b64encode(evidence).decode("ascii")
        answer = DecisionAnswer(record=told(record, await service.snapshot()), evidence=packed)
        return json_response(answer)

    @router.post("/backups", dependencies=operate, responses={200: {"model": BackupAnswer}})
    async def backup(request: Request) -> Response:
        """Copy the running fleet, whole, into a new folder; answers when it is there."""
        asked = await asked_of(request, BackupRequest)
        return json_response(BackupAnswer(**await service.backup(asked.name)))

    return router


def told(record: AuditRecord, snapshot: Snapshot | None) -> AuditRecordAnswer:
    """A record as the API tells it, without the registry's whole state."""
    return AuditRecordAnswer(
        sequence=record.sequence,
        kind=record.kind,
        slot=record.slot,
        slot_begin=begin_of(record.slot, snapshot),
        time=rfc3339(record.time_s),
        who=record.who,
        key=record.key,
        detail=record.detail,
        changed_state=record.state is not None,
        previous=record.previous,
        hash=record.hash,
    )
