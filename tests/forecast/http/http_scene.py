"""A fleet behind the HTTP routes without Ray: real snapshots, a service that lives in this file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import httpx
import numpy as np

from forecast.accuracy import AccuracyReport, HorizonScores, MemberAccuracy, VersionAccuracy
from forecast.errors import UnknownServer, UnknownVersion
from forecast.http import api
from forecast.http.api import IngestAnswer
from forecast.http.auth import Guard
from forecast.http.ingest import Parser
from forecast.http.problems import KINDS
from forecast.http.routes import make_app
from forecast.record import ForecastBlock, ServerStatus, Snapshot
from forecast.registry import UpdateRecord
from forecast.schema import Metric, Schema
from forecast.versions import RegistryState, VersionInfo
from forecast.windows import RawWindows
from train.buffer import Buffer

STEP = 300
SLOT = 5_890_752  # 2026-01-01T00:00:00Z
NOW_S = (SLOT + 1) * STEP + 30.0
CONTEXT, HORIZON = 6, 4
DRIFT = {
    "enabled": True, "detector": "cusum", "slot": SLOT, "servers": 2, "watching": 1,
    "fleet_since": None, "nearest": [{"server": "db-1", "level": 0.5}],
    "alarms": [{
        "slot": SLOT, "servers": ("web-1",), "since": (SLOT - 11,), "channels": ("level of cpu",),
        "share": 0.5, "fleet_wide": False, "fleet_since": None, "acts": True, "count": 1,
    }],
}  # fmt: skip
"""What a controller tells of drift."""
LEARNING = {
    "breaker": {
        "enabled": True, "state": "open", "open": True, "failures": 0, "opened_slot": SLOT - 12,
        "probe_slot": SLOT + 60,
    },
    "learning_gain": {
        "version": 2, "hours": 72, "since_slot": SLOT - 287, "through_slot": SLOT,
        "gains": {
            "all": {"ratio": 0.03, "lower": 0.01, "upper": 0.05, "cells": 96, "blocks": 4},
            "web": {"ratio": -0.01, "lower": -0.03, "upper": 0.01, "cells": 48, "blocks": 4},
        },
    },
}  # fmt: skip
"""What a controller tells of breaker and twin."""
LEVELS = (0.1, 0.5, 0.9)
TARGETS = ("cpu", "disk")
SCHEMA = Schema(
    panel="servers",
    step_seconds=STEP,
    metrics=(
        Metric("cpu", unit="ratio", lower=0.0, upper=1.0),
        Metric("disk", unit="kB/s", lower=0.0),
        Metric("load"),
    ),
    targets=TARGETS,
)
WRITE = {"X-Fleetcast": "1", "Content-Type": "application/json"}
NDJSON = {"X-Fleetcast": "1", "Content-Type": "application/x-ndjson"}
FORECAST, INGEST = "/api/v1/forecast", "/api/v1/ingest"
ROW = {"timestamp": "2026-01-01T00:00:00Z", "server": "web-1", "metrics": {"cpu": 0.5}}
CPU = {"server": "web-1", "metric": "cpu"}

STATES = {"web-1": "active", "web-2": "active", "new-1": "warming_up", "old-1": "stale"}


def status_of(name: str) -> ServerStatus:
    state = STATES[name]
    return ServerStatus(
        name=name,
        role=name.partition("-")[0],
        timezone="UTC",
        state=state,
        first_slot=SLOT - (1 if state == "warming_up" else 500),
        last_slot=SLOT - (10 if state == "stale" else 0),
        missing_slots=4 if state == "warming_up" else 0,
    )


def windows(servers: Sequence[str] = tuple(STATES), slot: int = SLOT) -> RawWindows:
    shape = (len(servers), CONTEXT + HORIZON, 3)
    values = np.full(shape, np.nan, np.float32)
    values[:, :CONTEXT] = 0.25
    for row, name in enumerate(servers):
        if STATES.get(name) == "warming_up":
            values[row, :4] = np.nan
    return RawWindows(
        servers=tuple(servers),
        roles=tuple("" for _ in servers),
        timezones=tuple("UTC" for _ in servers),
        metrics=SCHEMA.names,
        context=CONTEXT,
        horizon=HORIZON,
        step_seconds=STEP,
        origin=np.full(len(servers), slot),
        values=values,
        daily=np.full(shape, np.nan, np.float32),
        weekly=np.full(shape, np.nan, np.float32),
        spread=np.full((len(servers), 3), np.nan, np.float32),
    )


def quantiles(servers: int, low: float) -> np.ndarray:
    """[S, H, T, Q]: low, low + 0.1, low + 0.2 in every step, ten times that for the disk."""
    of_cpu = np.array([low, low + 0.1, low + 0.2], np.float32)
    per_target = np.stack([of_cpu, 10 * of_cpu])
    return np.broadcast_to(per_target, (servers, HORIZON, 2, 3)).astype(np.float32)


def block(member: str, low: float, version: int | None = None) -> ForecastBlock:
    values = quantiles(len(STATES), low).copy()
    if member == "champion":
        for row, state in enumerate(STATES.values()):
            if state != "active":
                values[row] = np.nan
    return ForecastBlock(SLOT, member, version, tuple(STATES), TARGETS, LEVELS, values)


def snapshot(version: int | None = 3) -> Snapshot:
    baselines = (block("copy_last", 0.6), block("seasonal_naive", 0.4))
    champion = () if version is None else (block("champion", 0.2, version),)
    served = [
        "champion" if state == "active" and version is not None else "seasonal_naive"
        for state in STATES.values()
    ]
    return Snapshot(
        revision=SLOT,
        slot=SLOT,
        fleet="demo",
        panel="servers",
        step_seconds=STEP,
        horizon=HORIZON,
        version=version,
        targets=TARGETS,
        units=("ratio", "kB/s"),
        levels=LEVELS,
        servers=tuple(status_of(name) for name in STATES),
        served=tuple(served),
        blocks=(*champion, *baselines),
        raw=windows(),
        published_at=NOW_S - 12.0,
    )


def without_values(given: Snapshot, server: str) -> Snapshot:
    """The snapshot with nothing that any member could say about one server."""
    row = list(STATES).index(server)
    blocks = []
    for one in given.blocks:
        values = one.values.copy()
        values[row] = np.nan
        blocks.append(replace(one, values=values))
    return replace(given, blocks=tuple(blocks))


def member_errors(name: str) -> MemberAccuracy:
    scores = {"n": 9, "mae": 0.5, "rmse": None, "wql": 0.25, "coverage": {"0.8": 0.75}}
    steps = [HorizonScores(horizon=h, targets={}, **scores) for h in (None, 1, 2, 3, 4)]
    return MemberAccuracy(name, steps[0], tuple(steps[1:]))


class FakeService:
    """A `Service`: one snapshot, a real parser and buffer, versions 2 and 3 that compute."""

    def __init__(self, newest: Snapshot | None) -> None:
        self.newest = newest
        self.failure: Exception | None = None
        self.champion = None if newest is None else newest.version
        self.computed: list[tuple[tuple[str, ...], int | None, int]] = []
        self.asked: list[object] = []
        self.parser = Parser(
            schema=SCHEMA,
            max_clock_skew_s=600,
            max_body_bytes=20_000,
            max_inflated_bytes=60_000,
            max_rows=200,
            now=lambda: NOW_S,
        )
        self.buffer = Buffer(
            directory=None,
            schema=SCHEMA,
            history_days=2,
            context=CONTEXT,
            horizon=HORIZON,
            max_servers=3,
            allowed_lateness_s=STEP,
            snapshot_every_bytes=1 << 20,
        )

    async def snapshot(self) -> Snapshot | None:
        return self.newest

    async def compute(self, raw: RawWindows, version: int | None) -> tuple[int, np.ndarray]:
        if self.failure is not None:
            raise self.failure
        chosen = self.champion if version is None else version
        if chosen not in (2, 3):
            raise UnknownVersion(f"no version {chosen}; there are 2 and 3")
        self.computed.append((raw.servers, version, int(raw.origin[0])))
        return chosen, quantiles(len(raw), 0.01 * chosen)

    async def compute_newest(
        self, snapshot: Snapshot, rows: Sequence[int], version: int | None
    ) -> tuple[int, np.ndarray]:
        return await self.compute(snapshot.raw.select(rows), version)

    async def compute_at(
        self, servers: tuple[str, ...], slot: int, version: int | None
    ) -> tuple[int, np.ndarray, RawWindows]:
        if unknown := set(servers) - set(STATES):
            raise UnknownServer(f"no server {unknown}")
        raw = windows(servers, slot)
        return *await self.compute(raw, version), raw

    async def ingest(
        self, body: bytes, content_type: str, content_encoding: str, request_id: str
    ) -> IngestAnswer:
        self.asked.append(request_id)
        parsed = self.parser.parse(body, content_type, content_encoding)
        return self.parser.answer(parsed, self.buffer.append(request_id, parsed.block))

    async def models(self) -> RegistryState:
        info = VersionInfo(3, "update", 2, "update-9", SLOT, "2026-01-01", "f", "w", "m", 1000)
        base = VersionInfo(2, "base", None, "base-1", SLOT - 9, "2025-12-31", "f", "w", "m", 1000)
        return RegistryState(
            revision=4, aliases={"champion": 3, "base": 2}, versions=(info, base), next_version=4
        )

    async def model(self, name: str) -> Mapping[str, object]:
        if name != "champion":
            raise UnknownVersion(f"no version or alias {name!r}")
        return {"version": 3, "loss": np.float32("nan"), "steps": np.int64(7)}

    async def learning(self) -> Mapping[str, object] | None:
        return LEARNING

    async def drift(self) -> Mapping[str, object]:
        return DRIFT

    async def updates(self, limit: int, since: int | None) -> Sequence[UpdateRecord]:
        self.asked.append((limit, since))
        refused = {"parent": 3, "wql": float("nan")}
        return [
            UpdateRecord(
                9, NOW_S, SLOT, "rejected", "update-9", None, None, "gate", ("no",), refused, {}
            ),
            UpdateRecord(
                2, NOW_S, SLOT - 9, "promoted", "base-1", 2, None, "gate", (), {}, {"kind": "base"}
            ),
        ][:limit]

    async def accuracy(
        self, since_slot: int | None, server: str | None, target: str | None
    ) -> AccuracyReport:
        self.asked.append((since_slot, server, target))
        names = ("champion", "copy_last", "seasonal_naive")
        members = tuple(member_errors(name) for name in names)
        versions = (VersionAccuracy(3, members),)
        return AccuracyReport(since_slot, SLOT, server, target, members, versions)

    async def servers(self) -> Sequence[ServerStatus]:
        return [status_of(name) for name in STATES]

    async def status(self) -> Mapping[str, object]:
        return {"fleet": "demo", "buffer": {"rows": 7}, "trainer": None, "note": "<b>"}

    async def metrics(self) -> str:
        return "fleetcast_servers 4\n"


def client(service: FakeService, guard: Guard | None = None, **settings) -> httpx.AsyncClient:
    """A client of the routes; by default anonymous, on this machine."""
    guard = guard or Guard(host="127.0.0.1", tokens_file=None, allow_anonymous_loopback=True)
    settings = {"now": lambda: NOW_S, **settings}
    app = make_app(service, guard, title="fleetcast: demo", version="1", **settings)
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost:8000")


async def get(service: FakeService, path: str, headers=None, **params):
    async with client(service) as http:
        return await http.get(path, params=params, headers=headers)


async def ask(service: FakeService, headers=WRITE, **body):
    async with client(service) as http:
        return await http.post(FORECAST, content=json.dumps(body), headers=headers)


async def post(service: FakeService, path: str, body: bytes, headers=WRITE, **settings):
    async with client(service, **settings) as http:
        return await http.post(path, content=body, headers=headers)


def problem_of(response, status: int, kind: str) -> str:
    """The detail of a problem, once its shape is right."""
    assert response.headers["content-type"] == "application/problem+json"
    found = api.Problem.model_validate(response.json())
    assert (response.status_code, found.status, found.type) == (status, status, f"/docs#{kind}")
    assert found.instance == response.request.url.path
    assert kind in KINDS
    return found.detail


def only(response):
    assert response.status_code == 200, response.text
    (series,) = response.json()["series"]
    return series
