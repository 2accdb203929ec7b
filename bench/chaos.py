"""`make chaos`: kill -9 over everything, under constant ingest and forecasts.

Two Ray nodes on this machine, a fleet that learns often, readers and a feeder that never pause.
Victims are the fleet's actors, Serve's replicas, proxies and controller, and once a whole node;
last the buffer stands still under a flood of samples. The last line is one JSON line; exit code 0
only when nothing that was acknowledged is lost, no forecast failed and none was wrong.

A reader or feeder that gets no answer, or a 5xx, asks again for up to `--patience` seconds, as a
load balancer would; `retries` and `longest_s` say how often and how long.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from bench.nodes import Nodes, Process  # first: it sets what Ray reads when it is imported

import ray  # isort: skip
from ray import serve  # isort: skip

from actors import handles
from actors.session import Session
from bench import evidence
from bench.evidence import say
from bench.flood import stand_still
from bench.load import Readers, servers_of
from connect.replay import Replay, demo
from connect.stream import Client
from forecast.config import Config
from forecast.config_files import load
from serve_app import build

_HEAD_CPUS, _WORKER_CPUS = 3.0, 1.0
_READERS, _PAUSE_S = 6, 0.1
_RECOVERY_S = 120.0
_FLAT_MB = 150
"""What all workers together may gain while the buffer stands still; a flood sends about 10 MB/s."""
_SETTLE_S = (0.3, 2.0)
_REPLICAS = {"Gateway": 2, "Ingest": 1, "Forecaster": 2}
_SERVE = (*_REPLICAS, "ProxyActor", "ServeController")
_NODE = "node"


class Killer:
    """Chooses victims in turn, kills, and waits until what was killed answers again."""

    def __init__(self, nodes: Nodes, config: Config, seed: int) -> None:
        self._nodes, self._config = nodes, config
        self._random = random.Random(seed)
        kinds = [*handles.ROLES, *_SERVE]
        self._random.shuffle(kinds)
        self._kinds = cycle([*kinds, *handles.ROLES])
        self.recoveries: dict[str, list[float]] = {}

    def placed(self) -> dict[str, int]:
        """How many of the actors that keep state run beside it, and Forecasters elsewhere."""
        raylets = {one.pid: one.raylet for one in self._nodes.workers()}
        kept = [role for role in handles.ROLES if role != handles.TRAINER]
        found = [raylets[pid] for role in kept if (pid := self.pid(role)) is not None]
        others = [one for one in self._named("Forecaster") if one.raylet != found[0]]
        return {
            "state_actors_together": sum(raylet == found[0] for raylet in found),
            "forecasters_on_other_nodes": len(others),
        }

    def strike(self) -> str:
        """Kill the next victim and wait for its recovery; what it was."""
        kind = next(self._kinds)
        self._timed(kind, self._actor if kind in handles.ROLES else self._worker)
        time.sleep(self._random.uniform(*_SETTLE_S))
        return kind

    def lose_node(self) -> None:
        """Kill a node with all that runs on it, and add another."""

        def lose(_kind: str) -> Callable[[], bool]:
            self._nodes.lose()
            self._nodes.add(_WORKER_CPUS)
            return self._all_run

        self._timed(_NODE, lose)

    def _timed(self, kind: str, kill: Callable[[str], Callable[[], bool]]) -> None:
        recovered = kill(kind)
        began = time.monotonic()
        while not recovered():
            if time.monotonic() - began > _RECOVERY_S:
                why = self._missing()
                raise TimeoutError(f"{kind} did not come back in {_RECOVERY_S:.0f} s: {why}")
            time.sleep(0.05)
        self.recoveries.setdefault(kind, []).append(time.monotonic() - began)

    def _actor(self, role: str) -> Callable[[], bool]:
        before = self.pid(role)
        assert before is not None
        os.kill(before, signal.SIGKILL)

        def recovered() -> bool:
            now = self.pid(role)
            return now is not None and now != before

        return recovered

    def pid(self, role: str) -> int | None:
        """The process of an actor; None while it does not answer."""
        actor = handles.find(self._config.fleet, self._config.panel.name, role)
        if actor is None:
            return None
        try:
            return int(ray.get(actor.identity.remote(), timeout=2.0)["pid"])
        except ray.exceptions.RayError:
            return None

    def _worker(self, kind: str) -> Callable[[], bool]:
        self._random.choice(self._named(kind)).kill()
        return self._all_run

    def _named(self, kind: str) -> list[Process]:
        mark = f":{kind}" if kind in _REPLICAS else kind
        return [one for one in self._nodes.workers() if mark in one.title]

    def _all_run(self) -> bool:
        """Whether every process is there, and Serve says that all of them are well."""
        return not self._missing()

    def _missing(self) -> str:
        """What is not as it should be; empty when all is."""
        found = {kind: self._named(kind) for kind in _SERVE}
        # A proxy stands on the head and wherever a replica runs: after a node was lost, all of them
        # may have come back on the head before there was another.
        homes = {one.raylet for kind, ones in found.items() if kind != "ProxyActor" for one in ones}
        wanted = {**_REPLICAS, "ProxyActor": len(homes), "ServeController": 1}
        if any(len(found[kind]) < count for kind, count in wanted.items()):
            counts = {kind: len(ones) for kind, ones in found.items()}
            return f"processes: {counts}, wanted {wanted}"
        try:
            status = serve.status()
        except (ray.exceptions.RayError, TimeoutError) as error:
            return f"serve.status: {error}"
        apps = {name: app.status for name, app in status.applications.items()}
        if any(proxy != "HEALTHY" for proxy in status.proxies.values()) or any(
            said != "RUNNING" for said in apps.values()
        ):
            return f"proxies: {status.proxies}, applications: {apps}"
        return ""


def main() -> int:
    options = _arguments().parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fc-state-") as folder:
        replay = demo(seed=options.seed, servers_per_role=2, history_days=2)
        config = _config(replay, Path(folder), options.port)
        with Nodes(head_cpus=_HEAD_CPUS, worker_cpus=[_WORKER_CPUS]) as nodes:
            serve.start(
                proxy_location="EveryNode",
                http_options={"host": "127.0.0.1", "port": options.port},
                logging_config={"enable_access_log": False},
            )
            serve.run(build(config), name=f"fleetcast-{config.fleet}", route_prefix="/")
            url = f"http://127.0.0.1:{options.port}"
            session = Session(Client(url), replay)
            for _ in session.feed_history():
                pass
            for _ in session.wait_for_model():
                pass
            say(f"chaos: a trained version answers after {time.monotonic() - began:.0f} s")
            figures = _drill(nodes, config, replay, url, options)
            serve.shutdown()
    wanted_none = ("lost", "failed", "wrong", "stopped_other", "stopped_without_retry_after")
    problems = [name for name in wanted_none if figures[name]]
    # What was not looked at proves nothing.
    wanted_some = ("read_back", "forecasts", "compared_with_ledger", "forecasters_on_other_nodes")
    problems += [name for name in wanted_some if not figures[name]]
    problems += [] if figures["stopped_503"] or not options.stop_seconds else ["stopped_503"]
    problems += ["stopped_memory_drift_mb"] if figures["stopped_memory_drift_mb"] > _FLAT_MB else []
    figures["seconds"] = round(time.monotonic() - began, 1)
    figures["problems"] = "; ".join(problems) or None
    print(json.dumps(figures))
    return 1 if problems else 0


def _drill(
    nodes: Nodes, config: Config, replay: Replay, url: str, options: argparse.Namespace
) -> dict[str, Any]:
    servers = servers_of(replay)
    readers = Readers(
        url,
        servers,
        replay.schema.targets[0],
        count=_READERS,
        pause_s=_PAUSE_S,
        patience_s=options.patience,
    )
    feed = evidence.Feed(url, replay, options.patience)
    killer = Killer(nodes, config, options.seed)
    placed = killer.placed()
    readers.start()
    feed.start()
    began = time.monotonic()
    for number in range(options.kills):
        if number == options.kills // 2:
            killer.lose_node()
            kind = _NODE
        else:
            kind = killer.strike()
        took = killer.recoveries[kind][-1]
        say(
            f"chaos: {number + 1}: {kind} back after {took:.1f} s; {feed.slots} slots, "
            f"{readers.account.forecasts} forecasts, {readers.account.failed} failed"
        )
    hanging = killer.pid(handles.BUFFER)
    assert hanging is not None
    stopped = stand_still(nodes, url, replay, hanging, options.stop_seconds)
    feed.stop()
    account = readers.stop()
    for failure in account.failures[:5]:
        say(f"chaos: failed: {failure}")
    lost, compared = evidence.lost(config, feed)
    wrong, matched = evidence.wrong(config, account.of_record, replay.schema.targets[0])
    recoveries = [one for found in killer.recoveries.values() for one in found]
    longest = {kind: round(max(found), 1) for kind, found in killer.recoveries.items()}
    return {
        **placed,
        "kills": len(recoveries),
        "drill_s": round(time.monotonic() - began, 1),
        "streamed_slots": feed.slots,
        "acknowledged": len(feed.acknowledged),
        "read_back": compared,
        "lost": lost,
        "ingest_retries": feed.retries,
        "forecasts": account.forecasts,
        "failed": account.failed,
        "retries": account.retries,
        "longest_s": round(max(end - start for start, end in account.spans), 2),
        "versions_served": len(account.versions),
        "compared_with_ledger": matched,
        "wrong": wrong + account.contradictions,
        "recovery_p50_s": round(float(np.quantile(recoveries, 0.5)), 2),
        "recovery_p99_s": round(float(np.quantile(recoveries, 0.99)), 2),
        **stopped,
        **{f"recovery_{kind.lower()}_s": seconds for kind, seconds in sorted(longest.items())},
    }


def _config(replay: Replay, state: Path, port: int) -> Config:
    overrides = {
        "state_dir": str(state),
        "serve": {
            "port": port,
            "allow_anonymous_loopback": True,
            "gateway_replicas": 2,
            "forecaster_replicas": 2,
        },
    }
    return load([Path("configs/drill.toml")], data=replay.config(), overrides=overrides).config


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--port", type=int, default=8124)
    parser.add_argument(
        "--stop-seconds", type=float, default=30.0, help="How long the buffer hangs."
    )
    parser.add_argument("--patience", type=float, default=60.0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
