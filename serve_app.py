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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from actors import handles, telemetry
from forecast.config import Config
from forecast.config_files import load
from forecast.errors import ArtifactError, Busy, UnknownVersion
from forecast.http.api import IngestAnswer
from forecast.http.auth import Guard
from forecast.http.ingest import Parser
from forecast.http.routes import make_app
from forecast.record import Snapshot
from forecast.windows import RawWindows

if TYPE_CHECKING:
    import numpy as np

    from forecast.members import Request

log = logging.getLogger("fleetcast.serve")

_POLL_S = 10.0


def build(args: Config | Mapping[str, str]) -> serve.Application:
    """The application of one fleet: `serve run serve_app:build config=configs/node.toml`.

    Raises ConfigError when the config is wrong or would leave the API open to strangers.
    """
    config = args if isinstance(args, Config) else load([Path(args["config"])]).config
    Guard.from_config(config.serve)  # refuse before anything starts
    sizes = config.serve
    light = {"num_cpus": 0.05}
    forecaster = serve.deployment(
        num_replicas=sizes.forecaster_replicas,
        max_ongoing_requests=4 * sizes.forecaster_max_batch,
        ray_actor_options={"num_cpus": 0.1},
    )(Forecaster)
    ingest = serve.deployment(
        max_ongoing_requests=8, max_queued_requests=64, ray_actor_options=light
    )(Ingest)
    bootstrap = serve.deployment(
        num_replicas=1, max_constructor_retry_count=2, ray_actor_options={"num_cpus": 0}
    )(Bootstrap)
    gateway = serve.deployment(
        name="Gateway",
        num_replicas=sizes.gateway_replicas,
        max_ongoing_requests=sizes.max_ongoing_requests,
        ray_actor_options=light,
    )(serve.ingress()(Gateway))
    return gateway.bind(
        config, ingest.bind(config), forecaster.bind(config), bootstrap.bind(config)
    )


class Bootstrap:
    """Makes the fleet's actors exist; a state that cannot be opened fails the deployment."""

    def __init__(self, config: Config) -> None:
        from actors import topology  # training code: never imported by the serving processes

        topology.ensure(config)


class Ingest:
    """Rows in: validated here, kept by the buffer, acknowledged after it kept them."""

    def __init__(self, config: Config) -> None:
        self._parser = Parser.from_config(config)
        self._actors = handles.Actors(config.fleet, config.panel.name)

    async def ingest(
        self, body: bytes, content_type: str, content_encoding: str, request_id: str
    ) -> IngestAnswer:
        """Parse, validate and append one request."""
        parsed = await asyncio.to_thread(self._parser.parse, body, content_type, content_encoding)
        report = await self._actors.ask(handles.BUFFER, "append", request_id, parsed.block)
        return self._parser.answer(parsed, report)


class Forecaster:
    """Computes forecasts by the champion or any kept version, in batches.

    A new champion is loaded beside the one that serves, proved by its probe, then swapped in.
    """

    def __init__(self, config: Config) -> None:
        from forecast.members import Members  # imports torch, which the other replicas do without

        self._members = Members(
            schema=config.panel.schema_of(),
            context=config.panel.context_slots,
            horizon=config.panel.horizon_slots,
            levels=config.panel.quantiles,
        )
        self._actors = handles.Actors(config.fleet, config.panel.name)
        self._loading = asyncio.Lock()
        batched = serve.batch(
            max_batch_size=config.serve.forecaster_max_batch, batch_wait_timeout_s=0.002
        )
        self._predict_batch = batched(self._predict_all)
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def forecast(self, raw: RawWindows, version: int | None) -> tuple[int, np.ndarray]:
        """The version that answered and its quantiles [N, H, T, Q], natural units.

        Raises UnknownVersion when there is no such version, or no champion yet.
        """
        chosen = self._members.champion if version is None else version
        if chosen is None:
            raise UnknownVersion("no champion yet")
        async with self._loading:
            if not self._members.loaded(chosen):
                artifact = await self._actors.ask(handles.REGISTRY, "load", chosen)
                await asyncio.to_thread(self._members.load, chosen, artifact)
            request = self._members.request(raw, chosen)
        values: np.ndarray = await self._predict_batch(request)
        return chosen, values

    async def champion(self) -> int | None:
        """The version loaded as champion."""
        return self._members.champion

    async def _predict_all(self, requests: list[Request]) -> list[np.ndarray]:
        return await asyncio.to_thread(self._members.predict, requests)

    async def _watch(self) -> None:
        """Follow the registry; without an answer go on with the last good version."""
        seen = -1
        refused: set[int] = set()
        while True:
            try:
                pulled = await self._actors.ask(
                    handles.REGISTRY, "wait_newer", seen, _POLL_S, tuple(refused),
                    timeout_s=2 * _POLL_S,
                )  # fmt: skip
                if pulled is not None:
                    state, servable = pulled
                    if not await self._follow(servable):
                        refused.add(servable.version)
                        continue
                    seen = state.revision
            except Exception as error:  # whatever it is, this replica must go on following
                log.warning("registry: %s: %s", type(error).__name__, error)
                await asyncio.sleep(1.0)

    async def _follow(self, servable: Any) -> bool:
        """Load a version beside the serving one and swap; False when it cannot be loaded."""
        try:
            async with self._loading:
                await asyncio.to_thread(self._members.load, servable.version, servable.artifact)
                self._members.swap(servable.version)
        except ArtifactError as error:
            log.error("version %s refused: %s", servable.version, error)
            return False
        return True


class Gateway:
    """The HTTP side: answers from the published snapshot, forwards what needs work."""

    def __init__(
        self,
        config: Config,
        ingest: DeploymentHandle[Any],
        forecaster: DeploymentHandle[Any],
        bootstrap: DeploymentHandle[Any],
    ) -> None:
        self._config = config
        self._ingest, self._forecaster = ingest, forecaster
        self._bootstrap = bootstrap  # never called: binding it makes it part of the application
        self._actors = handles.Actors(config.fleet, config.panel.name)
        self._snapshot: Snapshot | None = None
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    def __serve_build_asgi_app__(self) -> FastAPI:
        guard = Guard.from_config(self._config.serve)
        return make_app(
            self,
            guard,
            title=f"fleetcast: {self._config.fleet}",
            version="1",
            max_body_bytes=self._config.serve.max_body_mb << 20,
        )

    async def snapshot(self) -> Snapshot | None:
        """The newest published snapshot; None before the first."""
        return self._snapshot

    async def compute(self, raw: RawWindows, version: int | None) -> tuple[int, np.ndarray]:
        """Quantiles of these windows by a version, None for the champion."""
        try:
            answer: tuple[int, np.ndarray] = await self._forecaster.forecast.remote(raw, version)
        except (BackPressureError, RayActorError) as error:
            raise Busy("the forecaster cannot answer now", retry_after_s=2) from error
        return answer

    async def context(self, servers: tuple[str, ...], slot: int) -> RawWindows:
        """The windows of some servers as they stood at a slot."""
        raw: RawWindows = await self._actors.ask(
            handles.BUFFER, "cut", servers, [slot] * len(servers), labels=False
        )
        return raw

    async def ingest(
        self, body: bytes, content_type: str, content_encoding: str, request_id: str
    ) -> IngestAnswer:
        """Rows in; raises Busy when too much is waiting already."""
        try:
            answer: IngestAnswer = await self._ingest.ingest.remote(
                body, content_type, content_encoding, request_id or uuid.uuid4().hex
            )
        except (BackPressureError, RayActorError) as error:
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

    async def servers(self) -> Any:
        """Lifecycle of every server."""
        return await self._actors.ask(handles.BUFFER, "servers")

    async def status(self) -> Mapping[str, Any]:
        """Where the system stands, actor by actor; null where one does not answer."""
        parts = {
            handles.BUFFER: "status",
            handles.LEDGER: "counts",
            handles.TRAINER: "progress",
            handles.CONTROLLER: "status",
            handles.REGISTRY: "summary",
        }
        answers = await asyncio.gather(*(self._part(role, name) for role, name in parts.items()))
        return telemetry.status(
            self._config, self._snapshot, dict(zip(parts, answers, strict=True))
        )

    async def metrics(self) -> str:
        """The same as Prometheus text."""
        return telemetry.exposition(await self.status())

    async def _part(self, role: str, method: str) -> Any:
        try:
            return await self._actors.ask(role, method, timeout_s=3.0)
        except Busy:
            return None

    async def _watch(self) -> None:
        """Follow the published snapshot; without one, answer from the last."""
        while True:
            seen = None if self._snapshot is None else self._snapshot.revision
            try:
                newer = await self._actors.ask(
                    handles.LEDGER, "wait_newer", seen, _POLL_S, timeout_s=2 * _POLL_S
                )
            except Exception as error:  # whatever it is, this replica must go on following
                log.warning("ledger: %s: %s", type(error).__name__, error)
                await asyncio.sleep(1.0)
                continue
            if newer is not None:
                self._snapshot = newer
