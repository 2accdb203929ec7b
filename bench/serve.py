"""`make bench-serve`: forecasts over HTTP against a plain FastAPI app and the engine without HTTP.

A fleet of 1,000 servers in the reference setting. Before each call a new slot comes in, untimed on
both sides; nothing of it is computed or kept for that call. Timed is from sending the request until
the last byte of the answer, 432,000 numbers, is read:

    ours     POST /api/v1/forecast {"as_of": the newest closed slot's end}: windows cut by the
             buffer, features, network, inverse, JSON, Serve's proxy. `newest` is POST {}, whose
             windows were cut when the slot closed
    plain    bench/plain_app.py: the data set, `model.predict()`, JSON, uvicorn
    engine   cut, features, network, inverse in this process: no JSON, no HTTP

They take turns in one run, each with one torch thread: ours is one Forecaster unless told
otherwise, and its Gateway writes a part as JSON while the next one is computed. Then the forecast
of record is read again and again, in turns with an empty handler of the same Serve. The last line
is one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bench.callers import Caller, Load, for_a_while, free_port, request, together
from bench.served import EMPTY, Served
from bench.thousand import HISTORY, Thousand
from forecast.http.api import rfc3339
from forecast.model import Model

ROOT = Path(__file__).resolve().parent.parent
_FORECAST = "/api/v1/forecast"
_MANY = 8
_CLIENTS = (1, 8, 32)
_READ = 50
"""Servers whose forecasts are read again and again."""
_PLAIN_START_S = 120.0


@dataclass(frozen=True, slots=True)
class Setting:
    """How often each thing is measured."""

    rounds: int
    plain_calls: int
    plain_together: bool
    turns: int
    turn_s: float


def main() -> int:
    options = _arguments().parse_args()
    torch.set_num_threads(1)
    quick = Setting(4, 2, False, 2, 1.0)
    setting = quick if options.quick else Setting(12, 4, True, 5, 2.0)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fc-bench-") as name:
        if options.part == "cached":
            figures |= cached_alone(Path(name), options.servers, setting)
        else:
            figures["forecasters"] = options.forecasters
            figures |= all_of(Path(name), options.servers, options.forecasters, setting)
            figures |= behind_haproxy(options.quick)
    print(json.dumps(figures))
    return 0


def all_of(folder: Path, servers: int, forecasters: int, setting: Setting) -> dict[str, Any]:
    """Every figure but HAProxy's."""
    fleet = Thousand.make(servers)
    model = fleet.model()
    with _plain(fleet, model, folder) as plain_port:
        port = free_port()
        with Served(fleet, folder, port=port, forecaster_replicas=forecasters) as served:
            served.begin(model)
            _say("the fleet is served")
            return {
                "servers": servers,
                "threads": 1,
                **whole_fleet(fleet, model, served, plain_port, setting),
                **cached(fleet, served, setting),
            }


def cached_alone(folder: Path, servers: int, setting: Setting) -> dict[str, Any]:
    """Cached reads only: what runs again behind HAProxy."""
    fleet = Thousand.make(servers)
    with Served(fleet, folder, port=free_port()) as served:
        served.begin(fleet.model())
        return cached(fleet, served, setting)


def whole_fleet(
    fleet: Thousand, model: Model, served: Served, plain_port: int, setting: Setting
) -> dict[str, Any]:
    """Answers for all servers, computed anew: ours, the plain app's, the engine's."""
    engine, alone, at = fleet.buffer(served.config), model.serving(), HISTORY
    took: dict[str, list[float]] = {name: [] for name in ("engine", "ours", "newest", "plain")}
    many: list[Load] = []
    with Caller(served.port) as ours, Caller(plain_port) as plain:
        for turn in range(setting.rounds + 1):
            engine.append(f"slot-{at}", fleet.samples(at, at + 1))
            at += 1
            began = time.perf_counter()
            alone.predict(engine.fleet(at + fleet.stream.first_slot - 2))
            took["engine"].append(time.perf_counter() - began)
            served.advance()
            took["ours"].append(_timed(ours, _as_of(fleet, served)))
            served.advance()
            took["newest"].append(_timed(ours, _now(served)))
            served.advance()
            many.append(together(served.port, _as_of(fleet, served), clients=_MANY))
            if turn <= setting.plain_calls:
                plain.call(request("POST", "/advance"))
                took["plain"].append(_timed(plain, request("POST", "/forecast")))
            _say(
                f"round {turn}: " + ", ".join(f"{k} {v[-1] * 1e3:.0f} ms" for k, v in took.items())
            )
    plain_together = None
    if setting.plain_together:
        plain_together = together(plain_port, request("POST", "/forecast"), clients=_MANY)
    return _fleet_figures(len(fleet.stream.servers), took, many[1:], plain_together)


def _fleet_figures(
    servers: int, took: dict[str, list[float]], many: list[Load], plain_many: Load | None
) -> dict[str, Any]:
    # The first call of each warms up.
    median = {name: statistics.median(seconds[1:]) for name, seconds in took.items()}
    many_s = statistics.median(load.wall_s / _MANY for load in many)
    every = sum(many[1:], many[0])
    return {
        "fleet_ms": round(median["ours"] * 1e3, 1),
        "fleet_newest_ms": round(median["newest"] * 1e3, 1),
        "fleet_8_ms_each": round(many_s * 1e3, 1),
        "engine_ms": round(median["engine"] * 1e3, 1),
        "plain_ms": round(median["plain"] * 1e3, 1),
        "fleet_servers_per_s": round(servers / median["ours"]),
        "fleet_speedup_vs_predict": round(median["plain"] / median["ours"], 2),
        "newest_speedup_vs_predict": round(median["plain"] / median["newest"], 2),
        "fleet_speedup_vs_predict_8": (
            None if plain_many is None else round(plain_many.wall_s / _MANY / many_s, 2)
        ),
        "engine_share": round(median["engine"] / median["ours"], 3),
        "engine_share_newest": round(median["engine"] / median["newest"], 3),
        "engine_share_8": round(median["engine"] / many_s, 3),
        "fleet_p50_8_ms": round(every.percentile_ms(50)),
        "fleet_p99_8_ms": round(every.percentile_ms(99)),
    }


def cached(fleet: Thousand, served: Served, setting: Setting) -> dict[str, Any]:
    """The forecast of record of one server, read again and again; in turns an empty handler."""
    empty = [request("GET", EMPTY)]
    reads = [
        request("GET", f"{_FORECAST}?server={name}", headers=served.headers)
        for name in fleet.stream.servers[:_READ]
    ]
    with Caller(served.port) as caller:
        sizes = [len(caller.call(sent)) for sent in reads]  # from now on they are kept
    figures: dict[str, Any] = {"cached_bytes": max(sizes)}
    for clients in _CLIENTS:
        nothing, ours = Load((), 0.0), Load((), 0.0)
        for _ in range(setting.turns):
            nothing += for_a_while(served.port, empty, clients=clients, seconds=setting.turn_s)
            ours += for_a_while(served.port, reads, clients=clients, seconds=setting.turn_s)
        _say(f"{clients} clients: cached {ours.rate:.0f}/s, an empty handler {nothing.rate:.0f}/s")
        figures |= {
            f"cached_rps_{clients}": round(ours.rate, 1),
            f"empty_rps_{clients}": round(nothing.rate, 1),
            f"cached_p50_{clients}_ms": round(ours.percentile_ms(50), 2),
            f"cached_p99_{clients}_ms": round(ours.percentile_ms(99), 2),
            f"empty_p50_{clients}_ms": round(nothing.percentile_ms(50), 2),
            f"empty_p99_{clients}_ms": round(nothing.percentile_ms(99), 2),
        }
    figures["cached_rps"] = figures[f"cached_rps_{_MANY}"]
    figures["empty_rps"] = figures[f"empty_rps_{_MANY}"]
    figures["cached_share_of_empty"] = round(figures["cached_rps"] / figures["empty_rps"], 3)
    return figures


def behind_haproxy(quick: bool) -> dict[str, Any]:
    """Cached reads behind HAProxy, in a process of its own: Ray reads the mode when imported."""
    names = ("cached_rps", "empty_rps", "cached_p50_8_ms", "cached_p99_8_ms")
    own = Path(tempfile.mkdtemp(prefix="fh-", dir="/tmp"))  # for sockets: their paths are short
    ports = [str(free_port()) for _ in range(4)]
    first = int(ports[3])
    environment = {
        **os.environ,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_STATS_PORT": ports[0],
        "RAY_SERVE_HAPROXY_METRICS_PORT": ports[1],
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": ports[2],
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 9),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(own / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(own / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(own / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(own),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(own / "server-state"),
    }
    command = [sys.executable, "-m", "bench.serve", "--part", "cached", "--servers", "50"]
    command += ["--quick"] if quick else []
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        shutil.rmtree(own, ignore_errors=True)
    if done.returncode:
        _say(f"not measured behind HAProxy: {done.stderr[-1500:]}")
        return dict.fromkeys([f"haproxy_{name}" for name in names], None)
    found = json.loads(done.stdout.splitlines()[-1])
    return {f"haproxy_{name}": found[name] for name in names}


@contextmanager
def _plain(fleet: Thousand, model: Model, folder: Path) -> Iterator[int]:
    """The plain app in its own process, with the same weights; the port it answers on."""
    weights = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    (folder / "spec.json").write_text(json.dumps(fleet.spec.to_json()))
    port, servers = free_port(), len(fleet.stream.servers)
    command = [sys.executable, "-m", "bench.plain_app", str(folder)]
    command += ["--port", str(port), "--servers", str(servers), "--threads", "1"]
    with (folder / "plain.log").open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
        try:
            deadline = time.monotonic() + _PLAIN_START_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "plain.log").read_text()[-2000:])
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()
            process.wait()


def _as_of(fleet: Thousand, served: Served) -> bytes:
    end = rfc3339((served.closed_slot + 1) * fleet.stream.step_seconds)
    body = json.dumps({"as_of": end}).encode()
    return request("POST", _FORECAST, body, served.headers)


def _now(served: Served) -> bytes:
    return request("POST", _FORECAST, b"{}", served.headers)


def _timed(caller: Caller, sent: bytes) -> float:
    began = time.perf_counter()
    caller.call(sent)
    return time.perf_counter() - began


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _say(line: str) -> None:
    print(f"bench-serve: {line}", file=sys.stderr, flush=True)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter turns")
    parser.add_argument("--servers", type=int, default=1000)
    parser.add_argument("--forecasters", type=int, default=1, help="replicas, one thread each")
    parser.add_argument("--part", choices=("all", "cached"), default="all")
    return parser


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
