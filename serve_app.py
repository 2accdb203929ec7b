"""The Serve application: HTTP in front of one fleet.

    client ─► Gateway ──snapshot── LedgerActor        the forecast of record, from memory
                 │ ─► Ingest ────── BufferActor       rows in, acknowledged when kept
                 │ ─► Forecaster ── RegistryActor     versions computed on demand, in batches
                 └─► Bootstrap                        makes the fleet's actors exist

Serving imports no training code; only `Bootstrap` does, inside its constructor. Weights are
pulled, never pushed: a Forecaster loads a new version beside the old one and swaps a reference.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from actors import exposure, handles, logs
from actors.appends import Appends
from actors.event_calls import EventCalls
from actors.federated_calls import FederatedCalls
from actors.forecaster import Forecaster, Given
from actors.learning_calls import LearningCalls
from actors.plan import refuse
from actors.record_calls import RecordCalls
from actors.rollout_calls import RolloutCalls
from actors.status_calls import StatusCalls
from forecast.config import Config
from forecast.config_files import load_args
from forecast.errors import Busy, StateError
from forecast.http.api import IngestAnswer
from forecast.http.auth import Guard
from forecast.http.ingest import Parser
from forecast.http.routes import make_app
from forecast.in_flight import InFlight
from forecast.record import Snapshot
from forecast.windows import RawWindows

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("fleetcast.serve")

_POLL_S = 10.0
_UNAVAILABLE = (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RayActorError,
)
_MOST_PARSING = 2
"""Bodies parsed at once: what one becomes meanwhile is much larger than itself."""
_FEWEST_WAITING = 64
"""Requests that a Forecaster holds at least, however small its batches."""
_BY_VALUE = 16
"""Windows up to so many travel in the message; more go by reference, through shared memory."""


def build(args: Config | Mapping[str, Any]) -> serve.Application:
    """The application of one fleet: `serve run serve_app:build config=configs/node.toml`.

    Arguments of a deploy file: `config`, a path or several, later ones over earlier ones;
    `overrides`, keys over those of the files; `revision`, any text. Serve redeploys what has other
    arguments than before: a file that changed under the same name needs another revision.

    Raises ConfigError when the config is wrong, needs more than its limits, or would leave the API
    open to strangers: all before anything starts.
    """
    config = args if isinstance(args, Config) else load_args(args).config
    Guard.from_config(config.serve)
    refuse(config)
    sizes = config.serve
    # A new replica starts, and is up to date, before an old one stops: no request waits for it.
    surge = 100
    logging_config = {"encoding": "JSON", "enable_access_log": False}
    light = {"num_cpus": 0.05}
    # A batch is counted in windows; one that is full may be as many requests of one window each.
    waiting = max(sizes.forecaster_max_batch, _FEWEST_WAITING)
    forecaster = serve.deployment(
        num_replicas=sizes.forecaster_replicas,
        max_ongoing_requests=waiting,
        max_queued_requests=waiting,
        ray_actor_options={"num_cpus": 0.1, "num_gpus": sizes.forecaster_gpus},
        max_surge_percent=surge,
        logging_config=logging_config,
    )(Forecaster)
    ingest = serve.deployment(
        max_ongoing_requests=8,
        max_queued_requests=64,
        max_surge_percent=surge,
        ray_actor_options=light,
        logging_config=logging_config,
    )(Ingest)
    bootstrap = serve.deployment(
        num_replicas=1,
        max_constructor_retry_count=2,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=5,
        logging_config=logging_config,
    )(Bootstrap)
    gateway = serve.deployment(
        name="Gateway",
        num_replicas=sizes.gateway_replicas,
        max_ongoing_requests=sizes.max_ongoing_requests,
        ray_actor_options=light,
        max_surge_percent=surge,
        logging_config=logging_config,
    )(serve.ingress()(Gateway))
    return gateway.bind(
        config, ingest.bind(config), forecaster.bind(config), bootstrap.bind(config)
    )


class Bootstrap:
    """Makes the fleet's actors exist; a state that cannot be opened fails the deployment."""

    def __init__(self, config: Config) -> None:
        from actors import topology  # training code: never imported by the serving processes

        logs.configure(config.fleet, config.panel.name, "bootstrap")
        self._fleet, self._panel = config.fleet, config.panel.name
        self._needed = [one for one in handles.roles_of(config) if one not in handles.OPTIONAL]
        self._make_optional = partial(topology.ensure_optional, config)
        topology.ensure(config)

    def check_health(self) -> None:
        """Fail when an actor is gone for good: Serve then starts another Bootstrap, which makes it.

        Ray restarts an actor whose process died, but not one whose constructor failed. One that the
        fleet does without is made again here, and fails nothing.
        """
        gone = [role for role in self._needed if not handles.find(self._fleet, self._panel, role)]
        if gone:
            raise StateError(f"the {gone[0]} is gone")
        self._make_optional()


class Ingest:
    """Rows in: validated here, kept by the buffer, acknowledged after it kept them."""

    def __init__(self, config: Config) -> None:
        logs.configure(config.fleet, config.panel.name, "ingest")
        self._parser = Parser.from_config(config)
        self._parsing = asyncio.Semaphore(_MOST_PARSING)
        actors = handles.Actors(config.fleet, config.panel.name)
        self._appends = Appends(
            partial(actors.ask, handles.BUFFER, "append", timeout_s=None),
            limit_bytes=config.serve.max_ingest_mb_in_flight << 20,
        )

    async def ingest(
        self, body: bytes, content_type: str, content_encoding: str, request_id: str
    ) -> IngestAnswer:
        """Parse, validate and append one request."""
        async with self._parsing:
            parsed = await asyncio.to_thread(
                self._parser.parse, body, content_type, content_encoding
            )
        report = await self._appends.append(request_id, parsed.block)
        return self._parser.answer(parsed, report)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A snapshot and the reference it came by: what a Forecaster needs of it is passed on by it."""

    snapshot: Snapshot
    reference: Any


class Gateway(EventCalls, FederatedCalls, LearningCalls, RecordCalls, RolloutCalls, StatusCalls):
    """The HTTP side: answers from the published snapshot, forwards what needs work.

    A replica is ready when it has the snapshot of this moment, or knows that there is none yet.
    """

    async def __init__(  # type: ignore[misc]
        self,
        config: Config,
        ingest: DeploymentHandle[Any],
        forecaster: DeploymentHandle[Any],
        bootstrap: DeploymentHandle[Any],
    ) -> None:
        logs.configure(config.fleet, config.panel.name, "gateway")
        self._config = config
        self._ingest, self._forecaster = ingest, forecaster
        self._bootstrap = bootstrap  # never called: binding it makes it part of the application
        self._actors = handles.Actors(config.fleet, config.panel.name)
        self._bodies = InFlight(config.serve.max_ingest_mb_in_flight << 20)
        self._newest: _Kept | None = None
        await handles.first(self._pull)
        # Without an answer it goes on with the last snapshot.
        following = handles.follow(handles.LEDGER, partial(self._pull, _POLL_S))
        self._watching = asyncio.get_running_loop().create_task(following)

    def __serve_build_asgi_app__(self) -> FastAPI:
        guard, federated = Guard.from_config(self._config.serve), self._config.federated
        exposure.check(self._config.serve, exposure.exposure())
        return make_app(
            self,
            guard,
            title=f"fleetcast: {self._config.fleet}",
            version="1",
            max_body_bytes=self._config.serve.max_body_mb << 20,
            max_update_bytes=federated.max_update_mb << 20 if federated.enabled else None,
        )

    async def snapshot(self) -> Snapshot | None:
        """The newest published snapshot; None before the first."""
        return None if self._newest is None else self._newest.snapshot

    async def compute(self, raw: RawWindows, version: int | None) -> tuple[int, np.ndarray]:
        """Quantiles of these windows by a version, None for the champion."""
        return await self._forecast(raw if len(raw) <= _BY_VALUE else [ray.put(raw)], version)

    async def compute_newest(
        self, snapshot: Snapshot, rows: Sequence[int], version: int | None
    ) -> tuple[int, np.ndarray]:
        """The same of these rows of a snapshot's windows."""
        kept = self._newest
        if len(rows) <= _BY_VALUE or kept is None or kept.snapshot is not snapshot:
            return await self.compute(snapshot.raw.select(rows), version)
        return await self._forecast([kept.reference], version, rows)

    async def compute_at(
        self, servers: tuple[str, ...], slot: int, version: int | None
    ) -> tuple[int, np.ndarray, RawWindows]:
        """The same of servers as they stood at a slot, and the windows the buffer cut."""
        reference, raw = await self._actors.refer(
            handles.BUFFER, "cut", servers, [slot] * len(servers), labels=False
        )
        given = raw if len(raw) <= _BY_VALUE else [reference]
        return *await self._forecast(given, version), raw

    async def _forecast(
        self, given: Given, version: int | None, rows: Sequence[int] | None = None
    ) -> tuple[int, np.ndarray]:
        try:
            answer: tuple[int, np.ndarray] = await self._forecaster.forecast.remote(
                given, version, rows
            )
        except _UNAVAILABLE as error:
            raise Busy("the forecaster cannot answer now", retry_after_s=2) from error
        return answer

    async def ingest(
        self, body: bytes, content_type: str, content_encoding: str, request_id: str
    ) -> IngestAnswer:
        """Rows in; raises Busy when too much is waiting already."""
        request_id = request_id or uuid.uuid4().hex
        try:
            with self._bodies.holding(len(body)):
                answer: IngestAnswer = await self._ingest.ingest.remote(
                    body, content_type, content_encoding, request_id
                )
        except _UNAVAILABLE as error:
            raise Busy("ingest is full or restarting", retry_after_s=1) from error
        return answer

    async def models(self) -> Any:
        """Versions and aliases."""
        return await self._actors.ask(handles.REGISTRY, "state")

    async def model(self, name: str) -> Mapping[str, Any]:
        """The manifest behind a version or alias."""
        version, manifest = await self._actors.ask(handles.REGISTRY, "manifest", name)
        return {"version": version, **manifest}

    async def updates(self, limit: int, since: int | None) -> Any:
        """What was learned, newest first."""
        return await self._actors.ask(handles.REGISTRY, "updates", limit, since)

    async def accuracy(self, since_slot: int | None, server: str | None, target: str | None) -> Any:
        """Errors per member and horizon."""
        return await self._actors.ask(
            handles.LEDGER, "accuracy", since_slot=since_slot, server=server, target=target
        )

    async def drift(self) -> Mapping[str, Any]:
        """Where drift detection stands."""
        found: Mapping[str, Any] = await self._actors.ask(handles.CONTROLLER, "drift")
        return found

    async def servers(self) -> Any:
        """Lifecycle of every server."""
        return await self._actors.ask(handles.BUFFER, "servers")

    async def _pull(self, wait_s: float = 0.0) -> None:
        """Take over the published snapshot when it is another one than the last."""
        seen = None if self._newest is None else self._newest.snapshot.revision
        reference, newer = await self._actors.refer(
            handles.LEDGER, "wait_newer", seen, wait_s, timeout_s=2 * _POLL_S
        )
        if newer is not None:
            self._newest = _Kept(newer, reference)
