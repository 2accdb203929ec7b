"""GET, PUT /rollout and POST /rollout/...: who answers for whom, what is on its way, the way back.

A change says what was seen (If-Match, the tag of GET /rollout; `*` for whatever stands) and why;
`dry_run` tells what it would do. A rollback needs no tag: the way out must not wait for a second
look. The same `Idempotency-Key` again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.params import Depends as Dependency
from pydantic import BaseModel, ConfigDict, Field

from forecast.errors import PreconditionRequired, Unprocessable
from forecast.http.api import json_body, json_response
from forecast.http.bodies import asked_of, request_id
from forecast.http.learning import ReasonRequest
from forecast.http.queries import Asked, Finite
from forecast.http.reports import since_slot
from forecast.http.rolled import RolledAnswer, RolloutAnswer, fields_of, standing
from forecast.http.service import Service
from forecast.rolling_out import Action, tag_of
from forecast.rollout import Cohort, Share, Table
from forecast.versions import RegistryState


class RolloutQuery(BaseModel):
    """The query of GET /rollout."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    limit: int = Field(default=20, ge=1, le=1000)
    """So many of the last changes."""


class ChangeRequest(ReasonRequest):
    """A change of who answers for whom."""

    dry_run: bool = False
    """Tell what it would do, and do nothing."""


class VersionRequest(ChangeRequest):
    """The body of POST /rollout/promote and /retire."""

    version: int = Field(ge=1)


class KeepRequest(VersionRequest):
    """The body of POST /rollout/pin and /shadow."""

    keep: bool = True
    """false: no longer."""


class RollbackRequest(ChangeRequest):
    """The body of POST /rollout/rollback."""

    to: int | None = Field(default=None, ge=1)
    """A version that was champion before; unset, the step before: who answers for some servers only
    goes first, else the previous champion comes back."""
    to_time: str | None = Field(default=None, min_length=1, max_length=64)
    """Instead of a version: back to who was champion then. A time, or an age such as `3d`."""


Shares = Annotated[dict[str, Finite], Field(min_length=1, max_length=10)]
"""By version, summing to 1; with 0 a version is computed and scored, and answers nobody."""


class CohortRequest(Asked):
    """Some of the servers, by a hash of their names."""

    name: str = Field(min_length=1, max_length=63)
    servers: Finite
    """Which share of them, above 0."""
    versions: Shares


class TableRequest(ChangeRequest):
    """The body of PUT /rollout: somebody's own table, which stays until they change it."""

    everyone: Shares
    """Who answers for all that are in no cohort."""
    cohorts: list[CohortRequest] = Field(default=[], max_length=10)


def rollout_routes(
    service: Service, *, read: Sequence[Dependency], operate: Sequence[Dependency]
) -> APIRouter:
    """Who may read may look; who operates the fleet may change."""
    router = APIRouter()
    told: dict[int | str, dict[str, Any]] = {200: {"model": RolledAnswer}}

    @router.get("/rollout", dependencies=read, responses={200: {"model": RolloutAnswer}})
    async def rollout(query: Annotated[RolloutQuery, Query()]) -> Response:
        """Who answers for whom, what is on its way and how it compares, the last changes."""
        state, trial, history = await service.rollout(query.limit)
        found = standing(state, trial, history, await service.snapshot())
        headers = {"ETag": tag_of(state), "Cache-Control": "private, no-cache"}
        return Response(json_body(found), 200, headers, "application/json")

    @router.put("/rollout", dependencies=operate, responses=told)
    async def put(request: Request) -> Response:
        """Somebody's own table: an A/B test of versions for as long as they like.

        What was in flight waits. `{"everyone": {"<champion>": 1}}` ends it.
        """
        asked = await asked_of(request, TableRequest)
        return await _steered(service, request, "put", asked, table=table_of(asked))

    @router.post("/rollout/rollback", dependencies=operate, responses=told)
    async def rollback(request: Request) -> Response:
        """Let a version serve again that was champion before; what came after it is withdrawn.

        Promotion is paused until resumed.
        """
        asked, to = await asked_of(request, RollbackRequest), None
        if asked.to is not None and asked.to_time is not None:
            raise Unprocessable("give either `to` or `to_time`")
        if asked.to_time is not None:
            slot = since_slot(asked.to_time, await service.snapshot(), what="to_time")
            assert slot is not None
            to = await service.champion_at(slot - 1)
        state = await service.rollback(
            asked.to or to,
            asked.reason,
            request.state.principal.name,
            request_id(request),
            expected=request.headers.get("if-match"),
            dry_run=asked.dry_run,
        )
        return await _rolled(service, state, dry_run=asked.dry_run)

    @router.post("/rollout/resume", dependencies=operate, responses=told)
    async def resume(request: Request) -> Response:
        """Let promotion go on, as POST /learning/resume does."""
        asked = await asked_of(request, ReasonRequest)
        who = request.state.principal.name
        state = await service.resume(asked.reason, who, request_id(request))
        return await _rolled(service, state)

    _version_routes(router, service, operate, told)
    return router


def _version_routes(
    router: APIRouter,
    service: Service,
    operate: Sequence[Dependency],
    told: dict[int | str, dict[str, Any]],
) -> None:
    @router.post("/rollout/promote", dependencies=operate, responses=told)
    async def promote(request: Request) -> Response:
        """Let a version that the gate let pass be champion now, whatever is left of its way."""
        asked = await asked_of(request, VersionRequest)
        return await _steered(service, request, "promote", asked, version=asked.version)

    @router.post("/rollout/pin", dependencies=operate, responses=told)
    async def pin(request: Request) -> Response:
        """Keep a version's files, whatever retention says."""
        asked = await asked_of(request, KeepRequest)
        return await _steered(
            service, request, "pin", asked, version=asked.version, keep=asked.keep
        )

    @router.post("/rollout/shadow", dependencies=operate, responses=told)
    async def shadow(request: Request) -> Response:
        """Compute and score a version beside the others; it answers nobody."""
        asked = await asked_of(request, KeepRequest)
        return await _steered(
            service, request, "shadow", asked, version=asked.version, keep=asked.keep
        )

    @router.post("/rollout/retire", dependencies=operate, responses=told)
    async def retire(request: Request) -> Response:
        """Let a version answer nowhere any more, not even as a way out."""
        asked = await asked_of(request, VersionRequest)
        return await _steered(service, request, "retire", asked, version=asked.version)


def table_of(asked: TableRequest) -> Table:
    """The table of a request; raises Unprocessable for what makes no sense."""
    try:
        cohorts = tuple(
            Cohort(one.name, one.servers, _shares(one.versions)) for one in asked.cohorts
        )
        return Table(_shares(asked.everyone), cohorts)
    except ValueError as error:
        raise Unprocessable(str(error)) from error


def _shares(given: Mapping[str, float]) -> tuple[Share, ...]:
    if wrong := [name for name in given if not (name.isdecimal() and len(name) < 10)]:
        raise ValueError(f"versions are numbers, not {wrong[0]!r:.80}")
    return tuple(Share(int(name), share) for name, share in given.items())


async def _steered(
    service: Service,
    request: Request,
    action: Action,
    asked: ChangeRequest,
    **what: Any,  # noqa: ANN401
) -> Response:
    expected = request.headers.get("if-match")
    if expected is None:
        raise PreconditionRequired("send If-Match with the ETag of GET /rollout, or *")
    state = await service.steer(
        action,
        reason=asked.reason,
        who=request.state.principal.name,
        request_id=request_id(request),
        expected=expected,
        dry_run=asked.dry_run,
        **what,
    )
    return await _rolled(service, state, dry_run=asked.dry_run)


async def _rolled(service: Service, state: RegistryState, *, dry_run: bool = False) -> Response:
    fields = fields_of(state, await service.snapshot())
    if dry_run:
        fields["tag"] = tag_of(await service.models())
    answer = json_response(RolledAnswer(**fields, dry_run=dry_run))
    if not dry_run:
        answer.headers["ETag"] = tag_of(state)
    return answer
