"""Windows for the replay table: any server, any level, as many as are asked for."""

from __future__ import annotations

import numpy as np

from forecast.schema import Metric, Schema
from forecast.windows import RawWindows
from train.offer import Offer
from train.replay import ReplayTable

CONTEXT, HORIZON, DAY = 4, 2, 288
SCHEMA = Schema(
    "servers", 300, (Metric("cpu"), Metric("sent", transform="log1p", resolution=0.1)), ("cpu",)
)


def windows(origins, *, level=0.5, server="web-01", seed=0) -> RawWindows:
    """One window for each origin, around a level."""
    origins = np.asarray(origins, np.int64)
    shape = (len(origins), CONTEXT + HORIZON, 2)
    noise = np.random.default_rng([seed, int(origins[0])]).normal(1, 0.05, (3, *shape))
    values = (level * noise * np.array([1.0, 100.0])).astype(np.float32)
    return RawWindows(
        servers=(server,) * len(origins),
        roles=("web",) * len(origins),
        timezones=("UTC",) * len(origins),
        metrics=SCHEMA.names,
        context=CONTEXT,
        horizon=HORIZON,
        step_seconds=300,
        origin=origins,
        values=values[0],
        daily=values[1],
        weekly=values[2],
        spread=np.full((len(origins), 2), 0.1, np.float32),
    )


def table(capacity, **changes) -> ReplayTable:
    """An empty table."""
    return ReplayTable(
        schema=SCHEMA, context=CONTEXT, horizon=HORIZON, capacity=capacity, **changes
    )


def take(into: ReplayTable, raw: RawWindows, *, losses=None, seed=0) -> None:
    """Put windows into a table."""
    given = None if losses is None else np.asarray(losses, np.float32)
    into.insert(Offer.of(raw, SCHEMA), losses=given, seed=seed)
