"""Requests of a made-up fleet, for the buffer's bench: 8 metrics a server, two of them counters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from forecast.schema import Metric, SampleBlock, Schema

STEP_S = 300
HOUR, DAY = 12, 288
"""Slots in them."""
FIRST = 5_900_000
"""A slot of the year 2026."""
METRICS = 8
SCHEMA = Schema(
    panel="servers",
    step_seconds=STEP_S,
    metrics=tuple(
        Metric(f"metric_{at}", kind="counter" if at >= METRICS - 2 else "gauge")
        for at in range(METRICS)
    ),
    targets=("metric_0",),
)


def block(
    slots: Sequence[int], servers: Sequence[int], rng: np.random.Generator, late: float = 0.0
) -> SampleBlock:
    """One sample of every metric for each slot and server; a share of them comes an hour late."""
    count = len(slots) * len(servers)
    rows = np.arange(count, dtype=np.int32)
    time_s = np.repeat(np.asarray(slots, np.int64), len(servers)) * STEP_S
    time_s -= np.where(rng.random(count) < late, 3600 - 30, 0)
    samples = count * METRICS
    return SampleBlock(
        servers=tuple(f"web-{at:05d}" for at in servers),
        infos=(None,) * len(servers),
        metrics=SCHEMA.names,
        server_index=np.repeat(rows % len(servers), METRICS).astype(np.int32),
        metric_index=np.tile(np.arange(METRICS, dtype=np.int16), count),
        time_ms=np.repeat(time_s * 1000, METRICS),
        value=rng.random(samples) + np.repeat(time_s, METRICS),
        row_index=np.repeat(rows, METRICS),
    )


def fleet(count: int, begin: int, slots: int, late: float = 0.0) -> list[SampleBlock]:
    """So many slots of `count` servers, each as one request; `begin` counts from the first."""
    rng = np.random.default_rng(begin)
    return [block([FIRST + at], range(count), rng, late) for at in range(begin, begin + slots)]


def frame_of(each: SampleBlock) -> pd.DataFrame:
    """A slot of a fleet as a data frame: one row a server, as the deque takes it."""
    values = each.value.reshape(-1, METRICS).astype(np.float32)
    frame = pd.DataFrame(values, columns=list(SCHEMA.names))
    frame.insert(0, "server", each.servers)
    frame.insert(0, "timestamp", pd.to_datetime(each.time_ms[::METRICS], unit="ms"))
    return frame
