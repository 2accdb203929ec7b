"""Small streams for the buffer's tests, and a picture of all that can be read from a buffer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forecast.schema import Metric, SampleBlock, Schema
from tests.bits import bits
from train.buffer import Buffer

STEP_S = 300
DAY = 288

SCHEMA = Schema(
    panel="servers",
    step_seconds=STEP_S,
    metrics=(Metric("cpu"), Metric("sent", kind="counter"), Metric("peak", slot_rule="max")),
    targets=("cpu", "peak"),
)

SETTINGS = {
    "directory": None,
    "schema": SCHEMA,
    "history_days": 2,
    "context": 6,
    "horizon": 3,
    "max_servers": 8,
    "allowed_lateness_s": 300,
    "snapshot_every_bytes": 1 << 20,
}


def buffer_of(directory=None, **changes) -> Buffer:
    """A small buffer: two days of history, windows of 6 and 3 slots."""
    return Buffer(**{**SETTINGS, "directory": directory, **changes})


def block_of(samples, *, metrics=SCHEMA.names, infos=None) -> SampleBlock:
    """A block of (server, seconds, metric, value) samples."""
    servers = tuple(sorted({server for server, *_ in samples}))
    return SampleBlock(
        servers=servers,
        infos=tuple((infos or {}).get(server) for server in servers),
        metrics=metrics,
        server_index=np.array([servers.index(s[0]) for s in samples], dtype=np.int32),
        metric_index=np.array([metrics.index(s[2]) for s in samples], dtype=np.int16),
        time_ms=np.array([round(s[1] * 1000) for s in samples], dtype=np.int64),
        value=np.array([s[3] for s in samples], dtype=np.float64),
    )


def steady(servers, slots, *, metrics=SCHEMA.names, seed=0) -> SampleBlock:
    """One sample for each server, slot and metric, in that order; counters rise."""
    rng = np.random.default_rng(seed)
    samples = []
    for server in servers:
        for slot in slots:
            for metric in metrics:
                value = slot * 100.0 + 50 * rng.random() if metric == "sent" else rng.random()
                samples.append((server, slot * STEP_S, metric, float(value)))
    return block_of(samples, metrics=metrics)


def picture(buffer: Buffer) -> dict[str, object]:
    """Everything a buffer answers, as values that compare bit by bit."""
    status = buffer.status()
    sizes = {"memory_bytes": 0, "log_bytes": 0, "torn_bytes": 0}
    shown: dict[str, object] = {"status": replace(status, **sizes), "servers": buffer.servers()}
    if status.clock_slot is None:
        return shown
    slots = np.arange(status.clock_slot - 3 * DAY, status.clock_slot + 20)
    for name in (state.name for state in buffer.servers(status.clock_slot + 10 * DAY)):
        origins = slots[::9]
        shown[name] = bits(buffer.cut([name] * len(origins), origins, labels=True))
    closed = status.closed_slot
    shown["fleet"] = bits(buffer.fleet(closed))
    shown["rows"] = buffer.new_rows_since(0, status.clock_slot)
    shown["draw"] = bits(buffer.draw(as_of=closed, hours=24, count=9, seed=1, holdout_hours=1))
    return shown


def value(buffer: Buffer, server: str, slot: int, metric: str) -> float:
    """One cell; NaN for a gap."""
    raw = buffer.cut([server], np.array([slot]), labels=False)
    return float(raw.values[0, raw.context - 1, raw.metrics.index(metric)])
