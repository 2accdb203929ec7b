"""`make demo-federated`: three sites as processes of their own, talking HTTP to one aggregator.

Everything that runs is the product: `fleetcast aggregator`, then `fleetcast site` three times, each
on a fleet of its own. Each site also learns alone, from the same windows, and the picture shows the
losses of both ways, and of each server's mix of them, on later days. The last line is the result as
flat JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from bench.callers import free_port
from bench.federated_picture import draw
from connect.files import FileSource
from forecast.errors import DataError

_ROOT = Path(__file__).resolve().parents[1]
_SITES = ("north", "south", "west")
_PER_SITE = 4
_TARGETS = "cpu_usage_percent,memory_usage_percent"
_START_S = 120.0

_CONFIG = """
[model]
hidden_size = 16

[clock]
out_of_order = "30m"

[serve]
allow_anonymous_loopback = true

[federated]
sites = ["north", "south", "west"]
quorum = 2
decay_rounds = {rounds}
deadline = "10m"
score_deadline = "10m"

[federated.site]
hours = 168
windows = {windows}
own_windows = {own}
"""


def main() -> int:
    options = _arguments().parse_args()
    began = time.monotonic()
    try:
        told = _demo(options)
    except (DataError, httpx.TransportError) as error:
        print(f"demo-federated: {error}", file=sys.stderr)
        return 1
    print(json.dumps({**told, "seconds": round(time.monotonic() - began, 1)}))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.demo_federated", description=__doc__)
    parser.add_argument("--data", type=Path, help="A file; its first servers, four a site.")
    parser.add_argument("--targets", default="", help="Its columns to forecast.")
    parser.add_argument("--rounds", type=int, help="Of learning; 12, or 6 with --quick.")
    parser.add_argument("--quick", action="store_true", help="Fewer rounds of fewer windows.")
    parser.add_argument("--picture", type=Path, default=Path(".fleetcast/demo-federated.svg"))
    return parser


def _demo(options: argparse.Namespace) -> dict[str, Any]:
    rounds = options.rounds or (6 if options.quick else 12)
    sizes = {"windows": 320 if options.quick else 640, "own": 512 if options.quick else 1024}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="federated-")))
        config = folder / "federated.toml"
        config.write_text(_CONFIG.format(rounds=rounds, **sizes), encoding="utf-8")
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        data = _data(options)
        center = _start(
            "aggregator", "--config", str(config), "--state-dir", str(folder / "centre"),
            "--port", str(port), *data[0],
        )  # fmt: skip
        stack.callback(_end, center)
        _wait_for(url, center)
        print(f"the aggregator answers at {url}; {len(_SITES)} sites start")
        sites = {}
        for name, given in zip(_SITES, data, strict=True):
            sites[name] = _start(
                "site", "--config", str(config), "--aggregator", url, "--name", name,
                "--state-dir", str(folder / name), "--rounds", str(rounds),
                "--every", "4h", "--compare-days", "2", *given,
            )  # fmt: skip
            stack.callback(_end, sites[name])
        done = {name: _finished(name, process) for name, process in sites.items()}
        told = _got(f"{url}/api/v1/federated/rounds?limit=1000").json()
        curves = {name: _curve(folder / name, name) for name in _SITES}
    return _result(options.picture, curves, told["rounds"], done)


def _data(options: argparse.Namespace) -> list[list[str]]:
    """Each site's own options that say which data it has."""
    if options.data is None:
        return [["--seed", str(seed)] for seed in (7, 8, 9)]
    targets = options.targets or _TARGETS
    names = tuple(name.strip() for name in targets.split(","))
    count = len(_SITES) * _PER_SITE
    source = FileSource.read(options.data, targets=names, servers=count, days=20)
    if len(source.servers) < count:
        raise DataError(f"{options.data}: {len(source.servers)} servers, need {count}")
    shared = ["--data", str(options.data), "--targets", targets, "--servers", str(count)]
    shared += ["--days", "20", "--history-days", "10"]
    groups = [source.servers[at : at + _PER_SITE] for at in range(0, count, _PER_SITE)]
    return [[*shared, "--only", ",".join(group)] for group in groups]


def _start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.Popen(
        command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )


def _wait_for(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DataError(f"the aggregator ended with {process.returncode}")
        try:
            _got(f"{url}/healthz")
        except httpx.TransportError:
            time.sleep(0.2)
        else:
            return
    raise DataError(f"the aggregator does not answer within {_START_S:.0f} s")


def _got(url: str) -> httpx.Response:
    answer = httpx.get(url)
    if not answer.is_success:
        raise DataError(f"{url} answers {answer.status_code}: {answer.text[:200]}")
    return answer


def _finished(name: str, process: subprocess.Popen[str]) -> Mapping[str, Any]:
    """What a site said last, once it is done."""
    said, _ = process.communicate()
    if process.returncode:
        raise DataError(f"site {name} ended with {process.returncode}")
    found: Mapping[str, Any] = json.loads(said.splitlines()[-1])
    return found


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _curve(folder: Path, name: str) -> list[dict[str, Any]]:
    [path] = folder.rglob(f"{name}.curve.jsonl")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _result(
    picture: Path,
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    rounds: Sequence[Mapping[str, Any]],
    done: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    draw(picture, curves)
    gains = {name: 1 - lines[-1]["personal"] / lines[-1]["alone"] for name, lines in curves.items()}
    decided = [each["decision"] for each in rounds if each["decision"] is not None]
    last = [lines[-1] for lines in curves.values()]
    told: dict[str, Any] = {
        "sites": len(curves),
        "rounds": len(rounds),
        "accepted": sum(each["accept"] for each in decided),
        "rejected": sum(not each["accept"] for each in decided),
        "updates": sum(each["updates"] for each in done.values()),
        "bytes_sent": sum(each["bytes_sent"] for each in done.values()),
    }
    for way in ("global", "personal", "alone", "mixed"):
        told[f"wql_{way}"] = round(sum(each[way] for each in last) / len(last), 4)
    told |= {f"gain_{name}": round(gain, 4) for name, gain in gains.items()}
    return {**told, "picture": str(picture)}


if __name__ == "__main__":
    sys.exit(main())
