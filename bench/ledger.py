"""`make bench-ledger`: a slot of a large fleet stored, scored, published; bytes written and kept.

3,000 servers, 4 targets, 12 steps, 9 levels, 5 members, against one row for each forecast in SQLite
(a part of the fleet, extrapolated). The last line is one JSON line; see `bench/README.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.fleet_forecasts import LEVELS, FleetForecasts
from bench.plain_ledger import PlainLedger
from bench.streams import Stream, demo, from_file
from forecast.ledger import Ledger

_DAY = 288
_TARGETS = ("cpu_usage_ratio", "memory_usage_ratio", "network_receive_kb_per_s")
_RETAIN_DAYS = 35
"""What `buffer.history_days` is unless told otherwise; blocks are kept for a day."""
_PART = 100
"""Servers of the plain way."""


def main() -> int:
    options = _arguments().parse_args()
    fleet = FleetForecasts(_stream(options.data), options.servers, options.members)
    timed = 6 if options.quick else 24
    figures: dict[str, Any] = {
        "servers": options.servers,
        "members": options.members,
        "targets": len(fleet.targets),
        "horizon": fleet.horizon,
        "levels": len(LEVELS),
        "data": fleet.name,
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        figures |= ours(folder, fleet, timed)
        figures |= plain(folder, fleet, 2 if options.quick else 4)
    figures["speedup"] = round(figures["plain_step_s"] / figures["step_s"], 1)
    print(json.dumps(figures))
    return 0


def ours(folder: Path, fleet: FleetForecasts, timed: int) -> dict[str, Any]:
    """Steps through the real ledger: first until every origin is open, then on the clock."""
    path, slots = folder / "ours" / "ledger.sqlite", iter(fleet.slots)
    book = _ledger(path, fleet, "write")
    _steps(book, fleet, slots, fleet.horizon + 1)
    before = _written()
    took = _steps(book, fleet, slots, timed)
    after = _written()
    written = None if before is None or after is None else (after - before) / timed
    figures: dict[str, Any] = {}
    for name, seconds in took.items():
        figures[f"{name}_s"] = round(float(np.median(seconds)), 3)
        figures[f"{name}_longest_s"] = round(max(seconds), 3)
    figures |= _reads(book, fleet)
    killed = folder / "killed"
    shutil.copytree(path.parent, killed)
    begin, began_s = time.perf_counter(), time.process_time()
    _ledger(killed / path.name, fleet, "write").close()
    figures["start_after_kill_s"] = round(time.perf_counter() - begin, 2)
    figures["start_after_kill_cpu_s"] = round(time.process_time() - began_s, 2)
    shutil.rmtree(killed)
    book.close()
    figures["memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    figures |= _sizes(path, fleet)
    figures["written_gb_per_day"] = None if written is None else round(written * _DAY / 1e9, 2)
    book = _ledger(path, fleet, "fsync")
    synced = _steps(book, fleet, slots, max(3, timed // 4))
    book.close()
    figures["fsync_step_s"] = round(float(np.median(synced["step"])), 3)
    print(f"{timed} steps: {figures}", flush=True)
    return figures


def plain(folder: Path, fleet: FleetForecasts, timed: int) -> dict[str, Any]:
    """The same steps with a row for each forecast, for the first servers, times all of them."""
    rows = PlainLedger(folder / "plain.sqlite", LEVELS)
    slots, took = iter(fleet.slots), []
    part = min(_PART, len(fleet.servers))
    for turn in range(fleet.horizon + timed):
        slot = next(slots)
        actuals, blocks = fleet.actuals(slot), fleet.blocks(slot)
        begin = time.perf_counter()
        rows.score(slot, actuals[:part])
        for block in blocks:
            rows.issue(slot, block.member, block.values[:part])
        if turn >= fleet.horizon:
            took.append(time.perf_counter() - begin)
    per_slot = rows.close() / (fleet.horizon + timed)
    times = len(fleet.servers) / part
    print(f"plain: {part} servers a step {[round(one, 2) for one in took]} s", flush=True)
    return {
        "plain_servers": part,
        "plain_step_s": round(float(np.median(took)) * times, 2),
        "plain_gb_per_day": round(per_slot * times * _DAY / 1e9, 1),
    }


def _ledger(path: Path, fleet: FleetForecasts, acknowledge: Literal["write", "fsync"]) -> Ledger:
    return Ledger(
        path=path,
        targets=fleet.targets,
        levels=LEVELS,
        horizon=fleet.horizon,
        step_seconds=86400 // _DAY,
        retain_slots=_DAY,
        retain_days=_RETAIN_DAYS,
        acknowledge=acknowledge,
    )


def _steps(
    book: Ledger, fleet: FleetForecasts, slots: Iterator[int], count: int
) -> dict[str, list[float]]:
    """Seconds of each call, in the controller's order; `step` is score and issue, its CPU all."""
    names = ("score", "issue", "publish", "step", "step_cpu")
    took: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(count):
        slot = next(slots)
        actuals, blocks = fleet.actuals(slot), fleet.blocks(slot)
        snapshot = fleet.snapshot(slot, blocks)
        calls: list[tuple[str, Callable[[], object]]] = [
            ("score", lambda: book.score(slot, fleet.servers, actuals)),  # noqa: B023
            ("issue", lambda: book.issue(blocks)),  # noqa: B023
            ("publish", lambda: book.publish(snapshot)),  # noqa: B023
        ]
        begin, began_s = time.perf_counter(), time.process_time()
        for name, call in calls:
            start = time.perf_counter()
            call()
            took[name].append(time.perf_counter() - start)
        took["step"].append(took["score"][-1] + took["issue"][-1])
        took["step_cpu"].append(time.process_time() - began_s)
        print(f"slot {slot}: {time.perf_counter() - begin:.2f} s", flush=True)
    return took


def _reads(book: Ledger, fleet: FleetForecasts) -> dict[str, float]:
    found = {}
    for name, query in (("accuracy", {}), ("accuracy_server", {"server": fleet.servers[0]})):
        begin = time.perf_counter()
        assert book.accuracy(**query).members  # type: ignore[arg-type]
        found[f"{name}_s"] = round(time.perf_counter() - begin, 4)
    return found


def _sizes(path: Path, fleet: FleetForecasts) -> dict[str, float]:
    """Bytes of the closed file by what they are, and what they come to in a day and at most."""
    with closing(sqlite3.connect(path)) as db:
        slots, blocks = db.execute(
            "SELECT count(DISTINCT slot), sum(length(data)) FROM blocks"
        ).fetchone()
        ((reports,),) = db.execute("SELECT avg(length(data)) FROM reports")
        sums = 0.0
        for table in ("fleet_sums", "server_sums"):
            query = f"SELECT sum(length(data)) * 1.0 / count(DISTINCT day) FROM {table}"
            sums += db.execute(query).fetchone()[0] or 0.0
        ((snapshot,),) = db.execute("SELECT length(data) FROM snapshot")
    a_day = (blocks / slots + reports) * _DAY
    values = fleet.horizon * len(fleet.targets) * len(LEVELS) * len(fleet.servers)
    return {
        "bytes_per_value": round(blocks / slots / values / fleet.members, 3),
        "blocks_mb_per_step": round(blocks / slots / 1e6, 2),
        "report_mb_per_step": round(reports / 1e6, 2),
        "sums_mb_per_day": round(sums / 1e6, 1),
        "snapshot_mb": round(snapshot / 1e6, 1),
        "gb_per_day": round((a_day + sums) / 1e9, 2),
        "kept_gb": round((a_day + _RETAIN_DAYS * sums + snapshot) / 1e9, 2),
        "file_mb": round(path.stat().st_size / 1e6, 1),
    }


def _written() -> int | None:
    """Bytes this process has given to the file system so far; None where nothing counts them."""
    counters = Path("/proc/self/io")
    if not counters.exists():
        return None
    lines = dict(line.split(": ") for line in counters.read_text().splitlines())
    return int(lines["wchar"])


def _stream(data: Path | None) -> Stream:
    if data is None:
        return demo(days=9, drift_day=None)
    targets = (*_TARGETS, "disk_write_kb_per_s")
    return from_file(data / "bitbrains.parquet", targets, servers=100, days=9)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--servers", type=int, default=3000)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files go (default: temporary)")
    folder = os.environ.get("FLEETCAST_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=None if folder is None else Path(folder),
        help="the folder of bitbrains.parquet (default: FLEETCAST_DATA; without: the demo fleet)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
