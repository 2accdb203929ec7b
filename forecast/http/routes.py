"""The HTTP routes of one fleet. Everything they need of the system is `Service`.

read     GET, POST /api/v1/forecast; GET /accuracy /audit /events /learning /learning/updates
         /models /rollout /servers /status / /metrics
ingest   POST /api/v1/ingest; POST, DELETE /events
operate  PUT /api/v1/rollout; POST /rollout/{promote,rollback,pin,shadow,retire,resume}
         /learning/pause /learning/resume /backups
federate GET, PUT /api/v1/federated/... where this fleet has the aggregator
anybody  /healthz /readyz /docs /openapi.json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.params import Depends as Dependency
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse

from forecast.errors import NotReady
from forecast.http import answers, api, on_demand, pages, problems, reports
from forecast.http import drift as drifting
from forecast.http.answers import Body
from forecast.http.auth import Guard, Scope
from forecast.http.board import Board
from forecast.http.bodies import FORECAST_BODY, ROWS_BODY, forecast_request, read_body, request_id
from forecast.http.events import event_routes
from forecast.http.federated import federated_routes
from forecast.http.gain import GainedAccuracy, gain_of
from forecast.http.learning import reading_routes, steering_routes
from forecast.http.queries import (
    AccuracyQuery,
    ForecastQuery,
    ForecastRequest,
    ServersQuery,
    UpdatesQuery,
)
from forecast.http.reads import Reads, Shortcut, known, respond, told_of
from forecast.http.records import record_routes
from forecast.http.rollout import rollout_routes
from forecast.http.service import Service
from forecast.record import Snapshot

__all__ = ["Service", "make_app", "needing"]

_PREFIX = "/api/v1"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

Clock = Callable[[], float]


def make_app(
    service: Service,
    guard: Guard,
    *,
    title: str,
    version: str,
    max_body_bytes: int = 16 << 20,
    max_update_bytes: int | None = None,
    now: Clock = time.time,
) -> FastAPI:
    """The ASGI application; `now` is the wall clock, for the age of an answer only.

    `max_body_bytes` bounds a body of rows as it is sent, before any of it is kept in memory;
    `max_update_bytes` does a federated update's, None: there is no federation here.
    """
    app = _App(title=title, version=version, openapi_url=None, docs_url=None, redoc_url=None)
    problems.install(app)
    told: dict[int | str, dict[str, Any]] = {
        "default": {"description": "A problem", "content": {problems.MEDIA_TYPE: {}}}
    }
    reads = Reads()
    app.add_middleware(
        Shortcut, path=f"{_PREFIX}/forecast", reads=reads, service=service, guard=guard, now=now
    )
    read, ingest = [needing(guard, "read")], [needing(guard, "ingest")]
    operate = [needing(guard, "operate")]
    for router, needs in (
        (_forecast_routes(service, reads, now), read),
        (_report_routes(service), read),
        (reading_routes(service), read),
        (_ingest_routes(service, max_body_bytes), ingest),
        (event_routes(service, read=read, ingest=ingest), []),
        (record_routes(service, read=read, operate=operate), []),
        (rollout_routes(service, read=read, operate=operate), []),
        (steering_routes(service), operate),
    ):
        app.include_router(router, prefix=_PREFIX, dependencies=needs, responses=told)
    if max_update_bytes is not None:
        federated = federated_routes(
            service,
            read=read,
            federate=[needing(guard, "federate")],
            max_update_bytes=max_update_bytes,
        )
        app.include_router(federated, prefix=_PREFIX, responses=told)
    app.include_router(_page_routes(service, title), dependencies=read)
    app.include_router(_open_routes(app, service, now), dependencies=[needing(guard, None)])
    return app


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """FastAPI's document, with the body that a route reads by itself."""
        if self.openapi_schema is None:
            schemas = super().openapi().setdefault("components", {}).setdefault("schemas", {})
            body = ForecastRequest.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(body.pop("$defs", {}), ForecastRequest=body)
        return super().openapi()


def needing(guard: Guard, scope: Scope | None) -> Dependency:
    """What a route demands of its caller."""

    async def authorise(request: Request) -> None:
        client = None if request.client is None else request.client.host
        request.state.principal = guard.authorise(request.headers, request.method, client, scope)

    needed: Dependency = Depends(authorise)
    return needed


def _forecast_routes(service: Service, reads: Reads, now: Clock) -> APIRouter:
    router = APIRouter()
    answered: dict[int | str, dict[str, Any]] = {200: {"model": api.ForecastAnswer}}

    @router.get("/forecast", responses={**answered, 304: {"description": "Not newer"}})
    async def forecast_of_record(
        request: Request, query: Annotated[ForecastQuery, Query()]
    ) -> Response:
        """The newest forecast of record: issued once per step, scored later, the same for all."""
        snapshot, now_s = await _newest(service), now()
        told = told_of(snapshot, now_s)
        if known(request.headers.get("if-none-match", ""), told["ETag"]):
            return Response(status_code=304, headers=told)
        stalled = answers.is_stalled(snapshot, now_s)
        want = answers.wanted(snapshot, horizon=query.horizon)

        def make(board: Board) -> Body:
            series = answers.series_of(snapshot, query.server or None, query.metric or None)
            pieces = answers.from_snapshot(board, series, want, stalled=stalled)
            return answers.envelope(snapshot, pieces, want)

        body = await reads.body(snapshot, (request.scope["query_string"], stalled), make)
        return respond(snapshot, body, request.headers, now_s)

    @router.post("/forecast", responses=answered, openapi_extra=FORECAST_BODY)
    async def forecast_now(request: Request) -> Response:
        """A forecast computed now; by default the champion's on the newest windows.

        One unknown server or too little history is a series that says so, never a failed request.
        """
        asked = await forecast_request(request)
        snapshot, now_s = await _newest(service), now()
        board = reads.board(snapshot)
        stalled = answers.is_stalled(snapshot, now_s)
        answer = await on_demand.forecast(asked, board=board, service=service, stalled=stalled)
        aged = answer.aged(answers.age_s(snapshot, now_s))
        if isinstance(aged, bytes):
            return Response(aged, media_type="application/json")
        return StreamingResponse(aged, media_type="application/json")

    return router


def _ingest_routes(service: Service, max_body_bytes: int) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/ingest",
        status_code=202,
        responses={202: {"model": api.IngestAnswer}},
        openapi_extra=ROWS_BODY,
    )
    async def ingest(request: Request) -> Response:
        """Rows of samples. What is accepted is kept before the answer; a refused row or value is
        named, the rest stays. A request repeated with the same `Idempotency-Key` changes nothing.
        """
        key = request_id(request)
        body = await read_body(request, max_body_bytes)
        kind = request.headers.get("content-type", "")
        encoding = request.headers.get("content-encoding", "")
        return api.json_response(await service.ingest(body, kind, encoding, key), status=202)

    return router


def _report_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/accuracy", responses={200: {"model": GainedAccuracy}})
    async def accuracy(query: Annotated[AccuracyQuery, Query()]) -> Response:
        """Errors of the forecasts of record per member and horizon, the baselines beside."""
        snapshot = await service.snapshot()
        since = reports.since_slot(query.since, snapshot)
        report = await service.accuracy(since, query.server, query.metric)
        gain = gain_of(await service.learning(), snapshot)
        return api.json_response(reports.accuracy(report, snapshot, gain))

    @router.get("/drift", responses={200: {"model": drifting.DriftAnswer}})
    async def drift() -> Response:
        """Who is watched for drift, who is nearest to an alarm, and the last alarms."""
        return api.json_response(drifting.answer(await service.drift(), await service.snapshot()))

    @router.get("/learning/updates", responses={200: {"model": api.UpdatesAnswer}})
    async def updates(query: Annotated[UpdatesQuery, Query()]) -> Response:
        """What was learned, when, from what, and the gate's verdict; newest first."""
        snapshot = await service.snapshot()
        since = reports.since_slot(query.since, snapshot)
        return api.json_response(
            reports.updates(await service.updates(query.limit, since), snapshot)
        )

    @router.get("/models", responses={200: {"model": api.ModelsAnswer}})
    async def models() -> Response:
        """The versions kept and what each alias names."""
        return api.json_response(reports.models(await service.models()))

    @router.get("/models/{name}")
    async def model(name: str) -> Response:
        """The manifest of a version or alias: model, windows, lineage, scores, checksums."""
        return api.json_response(await service.model(name))

    @router.get("/servers", responses={200: {"model": api.ServersAnswer}})
    async def servers(query: Annotated[ServersQuery, Query()]) -> Response:
        """Servers by name: warming up, active, stale or retired."""
        states = await service.servers()
        return api.json_response(reports.servers(states, query, await service.snapshot()))

    @router.get("/status")
    async def status() -> Response:
        """Where each part of the system stands; null for a part that does not answer."""
        return api.json_response(await service.status())

    return router


def _page_routes(service: Service, title: str) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """The status as Prometheus text."""
        return Response(await service.metrics(), media_type=_PROMETHEUS)

    @router.get("/", include_in_schema=False)
    async def home() -> HTMLResponse:
        return pages.home(title, await service.status())

    return router


def _open_routes(app: FastAPI, service: Service, now: Clock) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> Response:
        """Whether this replica runs."""
        return api.json_response({"status": "ok"})

    @router.get("/readyz", responses={200: {"model": api.ReadyAnswer}})
    async def readyz() -> Response:
        """200 while anything can answer, a fallback included; 503 before. Says what is missing."""
        found = reports.ready(await service.snapshot(), now())
        return api.json_response(found, status=200 if found.ready else 503)

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return pages.docs(app.title, app.openapi())

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return api.json_response(app.openapi())

    return router


async def _newest(service: Service) -> Snapshot:
    snapshot = await service.snapshot()
    if snapshot is None:
        raise NotReady(
            "nothing was forecast yet: the first slot of data has to close", retry_after_s=5
        )
    return snapshot
