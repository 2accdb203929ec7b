"""/federated: what sites outside the cluster ask, send and score; and its rounds for who may read.

A site's token is named as the site; one named `rack-1` also speaks for `rack-1.web-7` and the
like, so that a process may host many. Every call may be repeated: an update is known by its site
and sequence, a score by its site and candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.params import Depends as Dependency
from pydantic import BaseModel, ConfigDict, Field

from forecast.errors import Conflict, Forbidden, Unprocessable
from forecast.http.api import Answer, json_response
from forecast.http.auth import ANONYMOUS, Principal
from forecast.http.bodies import asked_of, read_kind
from forecast.http.federated_service import FederatedService
from forecast.http.queries import Asked, Finite
from forecast.http.reads import known
from forecast.tensors import MEDIA_TYPE, dump, load

SITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
"""What a site may be called."""
Site = Annotated[str, Path(pattern=SITE_NAME)]
Number = Annotated[int, Path(ge=0, lt=2**53)]


class SiteQuery(BaseModel):
    """The query of GET /federated/rounds/current."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    site: str = Field(pattern=SITE_NAME)
    """Who asks."""


class RoundsQuery(BaseModel):
    """The query of GET /federated/rounds."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    limit: int = Field(default=20, ge=1, le=1000)


class RoleQuery(BaseModel):
    """The query of GET /federated/global/{version}."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    role: str = Field(default="", max_length=100)
    """Of the site's servers; none: several, or unknown."""


class ScoreRequest(Asked):
    """The body of PUT /federated/global/{version}/scores/{site}: all that a site says of it."""

    samples: int = Field(ge=0, lt=2**53)
    """Label cells that were compared; 0: the site could not tell."""
    change: Finite | None
    """How far the candidate's WQL lies above that of what the site has now; 0.01: 1 % worse."""
    lower: Finite | None
    upper: Finite | None
    """One-sided bounds of the change."""
    blocks: int = Field(ge=0, lt=2**53)
    finite: bool
    """Whether all of the candidate's forecasts were finite."""


class CurrentAnswer(Answer):
    """What a site needs to know now."""

    round: int
    version: int
    digest: str | None = None
    """Of the version's vector: a restored aggregator may give its number to another one."""
    schema_hash: str
    codec: str
    rate: float
    candidate: int | None
    candidate_digest: str | None = None
    scored: bool
    sent: int
    keep_previous: bool
    quarantined: bool
    made_in: int | None = None
    """The round that made the version; null: fresh weights, or longer ago than is kept."""
    made_of: tuple[str, ...] = ()
    """The sites whose updates made it; at most a hundred are named."""


class ReceiptAnswer(Answer):
    """What became of an update."""

    verdict: str
    counted: bool
    """Whether it is in the aggregate, by this call or an earlier one."""
    reason: str
    round: int
    version: int
    """What the site should begin its next update from."""
    staleness: int
    durable: bool


class FateAnswer(Answer):
    """What became of a candidate so far: pending, accepted, rejected, or unknown here."""

    version: int
    state: str
    keep_previous: bool
    """Whether this site goes on with what it has."""


def federated_routes(
    service: FederatedService,
    *,
    read: Sequence[Dependency],
    federate: Sequence[Dependency],
    max_update_bytes: int,
) -> APIRouter:
    """The routes of sites, each for its own site's token; the rounds for who may read."""
    router = APIRouter(prefix="/federated")
    _reading(router, service, read, federate)

    @router.put(
        "/rounds/{number}/updates/{site}",
        dependencies=federate,
        responses={200: {"model": ReceiptAnswer}},
        openapi_extra={"requestBody": {"required": True, "content": {MEDIA_TYPE: {}}}},
    )
    async def update(number: Number, site: Site, request: Request) -> Response:
        """A site's delta, as safetensors with its meta data; the verdict, once it is kept.

        `number` is the round the site has seen: one that is over is no fault, the verdict says what
        a late update counts.
        """
        _speaks_for(request, site)
        body = await read_kind(request, MEDIA_TYPE, max_update_bytes, what="an update")
        try:
            header, arrays = load(body)
        except ValueError as error:
            raise Unprocessable(str(error)) from error
        if header.get("site") != site:
            raise Unprocessable(f"the update is of {header.get('site')!r:.80}, not of {site!r}")
        if number > (now := (await service.federated_current(site))["round"]):
            raise Conflict(f"round {number} is not open yet, round {now} is")
        return json_response(ReceiptAnswer(**await service.federated_update(header, arrays)))

    @router.put(
        "/global/{version}/scores/{site}",
        dependencies=federate,
        responses={200: {"model": FateAnswer}},
    )
    async def score(version: Number, site: Site, request: Request) -> Response:
        """A site's score of a candidate: a few numbers. The first of a site counts."""
        _speaks_for(request, site)
        asked = await asked_of(request, ScoreRequest)
        told = {"site": site, "version": version, **asked.model_dump()}
        return json_response(FateAnswer(**await service.federated_score(told)))

    return router


def _reading(
    router: APIRouter,
    service: FederatedService,
    read: Sequence[Dependency],
    federate: Sequence[Dependency],
) -> None:
    @router.get("/rounds", dependencies=read)
    async def rounds(query: Annotated[RoundsQuery, Query()]) -> Response:
        """The open round, and the last ones with their decisions, newest first."""
        return json_response(await service.federated_rounds(query.limit))

    @router.get("/rounds/current", dependencies=federate, responses={200: {"model": CurrentAnswer}})
    async def current(query: Annotated[SiteQuery, Query()], request: Request) -> Response:
        """What a site needs to know now: round, version, a candidate to score."""
        _speaks_for(request, query.site)
        return json_response(CurrentAnswer(**await service.federated_current(query.site)))

    @router.get(
        "/global/{version}",
        dependencies=federate,
        responses={200: {"content": {MEDIA_TYPE: {}}}, 304: {"description": "Known"}},
    )
    async def model(
        version: Number, query: Annotated[RoleQuery, Query()], request: Request
    ) -> Response:
        """The shared vector of the last accepted version, or of the candidate."""
        found = await service.federated_model(version, query.role)
        if found is None:
            raise Conflict(f"version {version} is neither the last accepted one nor the candidate")
        schema_hash, vector = found
        # A version's number is never used again, so it names the bytes.
        tag = f'"{schema_hash[:16]}-{version}-{query.role.encode().hex()}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if known(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        told = {"version": version, "schema_hash": schema_hash, "role": query.role}
        return Response(dump(told, {"shared": vector}), 200, headers, MEDIA_TYPE)


def _speaks_for(request: Request, site: str) -> None:
    """Raise Forbidden unless the caller's token is this site's, or of the process that hosts it."""
    principal: Principal = request.state.principal
    mine = site == principal.name or site.startswith(f"{principal.name}.")
    if principal is not ANONYMOUS and not mine:
        raise Forbidden(f"the token {principal.name!r} does not speak for site {site!r}")
