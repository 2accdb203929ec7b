"""The HTTP side of an aggregator by itself: the federation's routes behind the guard."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI, Response

from forecast.http import problems
from forecast.http.api import json_response
from forecast.http.auth import Guard
from forecast.http.federated import federated_routes
from forecast.http.federated_service import FederatedService
from forecast.http.routes import needing


def make_federated_app(
    service: FederatedService,
    guard: Guard,
    *,
    max_update_bytes: int,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """The ASGI application of `fleetcast aggregator`; `max_update_bytes` bounds an update."""
    app = FastAPI(
        title="fleetcast: aggregator",
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    problems.install(app)
    router = federated_routes(
        service,
        read=[needing(guard, "read")],
        federate=[needing(guard, "federate")],
        max_update_bytes=max_update_bytes,
    )
    app.include_router(router, prefix="/api/v1")

    @app.get("/healthz", dependencies=[needing(guard, None)])
    async def healthz() -> Response:
        """Whether it runs."""
        return json_response({"status": "ok"})

    return app
