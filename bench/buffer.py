"""`make bench-buffer`: how fast the buffer takes samples in, with its log and without; its size.

The other side is a deque of pandas rows (`bench/row_deque.py`), which takes turns with it. The last
line is one JSON line; see `bench/README.md` for what its figures mean.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from actors.buffer import BufferActor
from bench.row_deque import RowDeque
from bench.samples import DAY, FIRST, HOUR, METRICS, SCHEMA, block, fleet, frame_of
from forecast.schema import SampleBlock
from train.buffer import Buffer

_WINDOW = 2 * HOUR + 6
"""Slots until the out-of-order window is full, and a few more."""
_FRAMES = 5
"""Slots of which the deque's bytes are measured."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured, and how often."""

    servers: int
    """Of the fleet whose samples come in."""
    sized: int
    """Servers of the fleet whose memory is measured."""
    days: int
    """Of history."""
    blocks: int
    """Slots that are appended on both sides, in turns."""
    durable: int
    """Slots that are appended with the log; enough of them for a snapshot in between."""
    in_flight: int
    """Appends that wait at once."""


def main() -> int:
    options = _arguments().parse_args()
    setting = Setting(
        servers=1000,
        sized=200 if options.quick else 1000,
        days=options.days,
        blocks=20 if options.quick else 100,
        durable=60 if options.quick else 500,
        in_flight=options.in_flight,
    )
    figures: dict[str, Any] = {"servers": setting.servers, "metrics": METRICS}
    figures["history_days"] = setting.days
    figures |= in_turns(setting) | other_streams(setting)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures |= disk(Path(folder), setting)
        figures |= durable(Path(folder) / "write", setting, "write")
        figures |= durable(Path(folder) / "fsync", setting, "fsync")
    figures |= sizes(setting)
    print(json.dumps(figures))
    return 0


def settings(setting: Setting, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """What a buffer is made from; but for the history, the defaults of the config."""
    return {
        "schema": SCHEMA,
        "history_days": setting.days,
        "context": 288,
        "horizon": 96,
        "max_servers": setting.servers,
        "allowed_lateness_s": 300,
        "out_of_order_s": 7200,
        "snapshot_every_bytes": 64 << 20,
        **changes,
    }


def timed(append: Callable[[str, SampleBlock], object], blocks: Sequence[SampleBlock]) -> float:
    """Samples per second of these requests, one after the other."""
    requests = [(f"request-{id(append)}-{at}", each) for at, each in enumerate(blocks)]
    start = time.perf_counter()
    for request_id, each in requests:
        append(request_id, each)
    return sum(map(len, blocks)) / (time.perf_counter() - start)


def filled(setting: Setting, directory: Path | None = None, **changes: Any) -> Buffer:  # noqa: ANN401
    """A buffer that has just seen so many slots that its out-of-order window is full."""
    buffer = Buffer(directory=directory, **settings(setting, **changes))
    for at, each in enumerate(fleet(setting.servers, 0, _WINDOW)):
        buffer.append(f"before-{at}", each)
    return buffer


def in_turns(setting: Setting) -> dict[str, Any]:
    """Slots of the fleet into the buffer without its log and into the deque, one each by turns."""
    buffer, rows = filled(setting), RowDeque(24 * setting.days)
    ours, theirs, cpu_s = [], [], 0.0
    for at, each in enumerate(fleet(setting.servers, _WINDOW, setting.blocks)):
        frame = frame_of(each)
        start, began_s = time.perf_counter(), time.process_time()
        buffer.append(f"request-{at}", each)
        middle = time.perf_counter()
        cpu_s += time.process_time() - began_s
        rows.append(frame)
        ours.append(middle - start)
        theirs.append(time.perf_counter() - middle)
    assert buffer.status().closed_slot == FIRST + _WINDOW + setting.blocks - 2
    assert len(rows) == setting.servers * setting.blocks
    samples = setting.servers * METRICS * setting.blocks
    p50, p99 = np.quantile(ours, [0.5, 0.99]) * 1e3
    print(f"a slot of the fleet without the log: p50 {p50:.2f} ms, p99 {p99:.2f} ms", flush=True)
    return {
        "append_samples_per_s": round(samples / sum(ours)),
        "append_samples_per_cpu_s": round(samples / cpu_s),
        "deque_samples_per_s": round(samples / sum(theirs)),
        "speedup_vs_deque": round(sum(theirs) / sum(ours), 1),
        "append_p50_ms": round(p50, 2),
        "append_p99_ms": round(p99, 2),
    }


def other_streams(setting: Setting) -> dict[str, Any]:
    """Samples per second, without the log, of requests that are not a slot of the whole fleet."""
    rng, buffer = np.random.default_rng(1), filled(setting)
    begin, count = _WINDOW, max(10, setting.blocks // 2)
    late = fleet(setting.servers, begin, count, late=0.05)
    now = FIRST + begin + count
    day = range(now - 3 * DAY, now - 2 * DAY)
    days = [block(day, [at], rng) for at in range(2 * count)]
    small = [block([now], [at], rng) for at in range(setting.servers)]
    figures = {
        "late_samples_per_s": round(timed(buffer.append, late)),
        "backfill_samples_per_s": round(timed(buffer.append, days)),
        "small_requests_per_s": round(timed(buffer.append, small) / METRICS),
    }
    print(f"other requests without the log: {figures}", flush=True)
    return figures


def disk(folder: Path, setting: Setting) -> dict[str, Any]:
    """What the disk itself takes to append a slot's bytes and make sure of them."""
    data, took = bytes(24 * setting.servers * METRICS), []
    with (folder / "probe").open("ab", buffering=0) as file:
        for _ in range(30):
            start = time.perf_counter()
            file.write(data)
            os.fsync(file.fileno())
            took.append(time.perf_counter() - start)
    return {"disk_fsync_p50_ms": round(float(np.median(took)) * 1e3, 2)}


def durable(
    folder: Path, setting: Setting, acknowledge: Literal["write", "fsync"]
) -> dict[str, Any]:
    """The same slots through the actor's own code, with the log and group commit."""
    filled(setting, folder, acknowledge=acknowledge).close()
    actor = BufferActor(
        directory=folder, owner="bench", **settings(setting, acknowledge=acknowledge)
    )
    blocks = iter(enumerate(fleet(setting.servers, _WINDOW, setting.durable)))
    begin, began_s = time.perf_counter(), time.process_time()
    took = asyncio.run(_flights(actor, blocks, setting.in_flight))
    wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - began_s
    snapshot = any(folder.glob("snapshot-*"))
    asyncio.run(actor.close())
    samples = setting.servers * METRICS * setting.durable
    rate = samples / wall_s
    p50, p99 = np.quantile(took, [0.5, 0.99]) * 1e3
    print(
        f"with the log, {acknowledge}, {setting.in_flight} in flight: {rate:,.0f} samples/s, "
        f"acknowledged after p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {max(took) * 1e3:.0f} ms",
        flush=True,
    )
    name = "durable" if acknowledge == "write" else "durable_fsync"
    return {
        f"{name}_samples_per_s": round(rate),
        f"{name}_samples_per_cpu_s": round(samples / cpu_s),
        f"ack_{acknowledge}_p50_ms": round(p50, 2),
        f"ack_{acknowledge}_p99_ms": round(p99, 2),
        f"ack_{acknowledge}_longest_ms": round(max(took) * 1e3, 1),
        f"snapshot_in_{acknowledge}": snapshot,
    }


async def _flights(
    actor: BufferActor, blocks: Iterator[tuple[int, SampleBlock]], count: int
) -> list[float]:
    """Seconds from each request to its acknowledgement, so many under way at once."""
    took: list[float] = []

    async def one() -> None:
        for at, each in blocks:
            start = time.perf_counter()
            await actor.append(f"request-{at}", each)
            took.append(time.perf_counter() - start)

    await asyncio.gather(*(one() for _ in range(count)))
    return took


def sizes(setting: Setting) -> dict[str, Any]:
    """Bytes that tracemalloc counts for a buffer full to its history, per byte of its values.

    All of it counts: the day beside the history, the out-of-order window, the deviations of the
    last hours, the reports of the requests (one for each hour, in the last day for each slot).
    """
    sized = range(setting.sized)
    slots, rng = setting.days * DAY, np.random.default_rng(2)
    begins = [*range(0, slots - DAY, HOUR), *range(slots - DAY, slots)]
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    buffer = Buffer(directory=None, **settings(setting, max_servers=len(sized)))
    for at, end in itertools.pairwise([*begins, slots]):
        buffer.append(f"request-{at}", block(range(FIRST + at, FIRST + end), sized, rng))
        if at % HOUR == 0 and at >= slots - 48 * HOUR:
            buffer.fleet(FIRST + at)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    raw = 4 * len(sized) * METRICS * slots
    assert buffer.status().rows == len(sized) * slots
    frames = [frame_of(block([FIRST + at], sized, rng)) for at in range(_FRAMES)]
    before, _ = tracemalloc.get_traced_memory()
    rows = RowDeque(24 * setting.days)
    for frame in frames:
        rows.append(frame)
    gc.collect()
    deque_held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    figures = {
        "bytes_ratio": round(held / raw, 3),
        "grid_bytes_ratio": round(buffer.status().memory_bytes / raw, 3),
        "deque_bytes_ratio": round(deque_held / (4 * METRICS * len(rows)), 1),
    }
    print(f"{held / 1e6:.1f} MB for {raw / 1e6:.1f} MB of values: {figures}", flush=True)
    return figures


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.buffer", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer slots, a smaller fleet sized")
    parser.add_argument("--days", type=int, default=14, help="of history (default: 14)")
    parser.add_argument("--in-flight", type=int, default=8, help="appends at once (default: 8)")
    parser.add_argument("--folder", type=Path, help="where the log goes (default: a temporary one)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
