"""A real Prometheus that holds a few hours of a fleet's metrics, as Ray's exporter names them."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from actors import telemetry
from actors.local import LocalFleet
from actors.telemetry import Durations
from tests.actors.scenario import blocks, small_config, small_replay
from tests.train.drift_scene import Scene

BEGIN, END, EVERY_S = 1_767_225_600, 1_767_225_600 + 7 * 3600, 60
"""The hours that it holds, from the start of 2026 on."""
SESSION = {"SessionName": "session_2026", "ray_io_cluster": "ours"}
_DEADLINE_S = 60.0
_TICK_S = 0.05


async def trees(folder: Path) -> list[dict[str, Any]]:
    """Status trees of the small fleet after each slot of its stream, a rollback among them."""
    replay = small_replay()
    fleet = LocalFleet(small_config(folder, replay))
    drift = Scene(days=15).watched().to_json()
    took, found = Durations(), []
    for number, (request_id, block) in enumerate(blocks(replay)):
        steps = await fleet.append(request_id, block)
        if number < 8:
            continue
        took.observe(0.2)
        parts = {
            part: await getattr(getattr(fleet, role), method).remote()
            for part, (role, method) in telemetry.PARTS.items()
            if part != "controller"
        }
        slot = fleet.controller.state.slot
        parts["controller"] = {
            "stepped_slot": slot,
            "steps": steps,
            "learning": fleet.controller.settings.learning,
            "drift_level": drift["levels"],
            "drift_watching": drift["watching"],
            "restarts": {"buffer": 0, "trainer": number // 20},
            "step_duration": took.to_json(),
            **fleet.controller.safety,
            "notices": {"waiting": 0, "sent": number, "failed": number // 30},
        }
        parts["forecast"] = telemetry.published(await fleet.ledger.latest.remote())
        head = {"fleet": "web", "panel": "servers", "step_seconds": replay.schema.step_seconds}
        found.append(telemetry.tree_of(head, parts))
    await fleet.close()
    return found


def open_metrics(told: list[dict[str, Any]], more: Mapping[str, float]) -> str:
    """The trees as samples of Ray's names, a minute apart, and `more` series that stay as they are.

    The trees last for all of the time: each stands for a stretch of it.
    """
    lines: dict[str, list[str]] = {}
    moments = range(BEGIN, END + 1, EVERY_S)
    for at, moment in enumerate(moments):
        text = telemetry.exposition(told[at * len(told) // len(moments)])
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = f"ray_{sample.name}{_labels({**sample.labels, **SESSION})}"
                lines.setdefault(name, []).append(f"{name} {sample.value} {moment}")
        for series, value in more.items():
            name, _, inside = series.partition("{")
            known = dict(re.findall(r'(\w+)="([^"]*)"', inside))
            key = f"{name}{_labels({**known, **SESSION})}"
            lines.setdefault(key, []).append(f"{key} {value} {moment}")
    # A backfill takes series one by one, each of them in the order of time.
    return "\n".join(line for series in lines.values() for line in series) + "\n# EOF\n"


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in sorted(labels.items())) + "}"


@contextmanager
def prometheus(folder: Path, text: str) -> Iterator[httpx.Client]:
    """A Prometheus of this text, and a client of its API; ended afterwards."""
    (folder / "samples").write_text(text)
    data, config = folder / "data", folder / "prometheus.yml"
    config.write_text("{}\n")
    backfill = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "samples", str(data)]
    done = subprocess.run(backfill, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = shutil.which("prometheus")
    assert program is not None
    command = [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            _wait(client, server, folder / "log")
            yield client
    finally:
        server.terminate()
        server.wait(timeout=_DEADLINE_S)


def _wait(client: httpx.Client, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if client.get("/-/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass  # it is not listening yet
        time.sleep(_TICK_S)  # polls a condition with a deadline


def answers(client: httpx.Client, query: str) -> list[Any]:
    """What a query gives at the end of the time."""
    answer = client.get("/api/v1/query", params={"query": query, "time": END})
    told = answer.json()
    assert told["status"] == "success", f"{query}: {told}"
    found: list[Any] = told["data"]["result"]
    return found
