"""`fleetcast aggregator`: the aggregator of a federation by itself, in one process, without Ray."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from actors import federated_arguments
from actors.federated_calls import FederatedCalls
from actors.federation import FederationActor
from forecast.config import Config
from forecast.http.auth import Guard
from forecast.http.federated_app import make_federated_app

log = logging.getLogger("fleetcast.aggregator")


class InProcess:
    """Asks the one actor that is here; it answers like `handles.Actors`, whatever the role."""

    def __init__(self, actor: FederationActor) -> None:
        self._actor = actor

    async def ask(self, role: str, method: str, *args: Any) -> Any:
        """Call the actor's method."""
        del role
        return await getattr(self._actor, method)(*args)


class AloneService(FederatedCalls):
    """A `FederatedService` around an actor of this process."""

    def __init__(self, actor: FederationActor) -> None:
        self._actors = InProcess(actor)


def make(config: Config) -> FastAPI:
    """The application; raises ConfigError as `Guard`, StateError when the state is in use."""
    guard = Guard.from_config(config.serve)
    config.panel_dir.mkdir(parents=True, exist_ok=True)
    actor = FederationActor(**federated_arguments.aggregator(config))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await actor.close()

    return make_federated_app(
        AloneService(actor),
        guard,
        max_update_bytes=config.federated.max_update_mb << 20,
        lifespan=lifespan,
    )


def serve(config: Config) -> None:
    """Until it is interrupted."""
    files = (config.serve.tls_certificate, config.serve.tls_key)
    certificate, key = (None if path is None else str(path) for path in files)
    uvicorn.run(
        make(config),
        host=config.serve.host,
        port=config.serve.port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        access_log=False,
        log_level="warning",
        # Who the caller is says the connection, never a header.
        proxy_headers=False,
        server_header=False,
    )
