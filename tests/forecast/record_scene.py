"""A block, windows and a snapshot of two servers and a retired third."""

from __future__ import annotations

import numpy as np

from forecast.record import ForecastBlock, ServerStatus, Snapshot
from forecast.windows import RawWindows

SERVERS = ("web-1", "db-1")
LEVELS = (0.1, 0.5, 0.9)


def block(member="champion", version=3, servers=SERVERS):
    values = np.arange(len(servers) * 4 * 2 * 3, dtype=np.float32).reshape(-1, 4, 2, 3)
    return ForecastBlock(7, member, version, servers, ("cpu", "mem"), LEVELS, values)


def windows():
    values = np.arange(2 * 9 * 3, dtype=np.float32).reshape(2, 9, 3)
    values[0, 2, 1] = np.nan
    return RawWindows(
        servers=SERVERS,
        roles=("web", ""),
        timezones=("UTC", "Europe/Berlin"),
        metrics=("cpu", "mem", "net"),
        context=5,
        horizon=4,
        step_seconds=300,
        origin=np.array([7, 7]),
        values=values,
        daily=values - 1,
        weekly=values - 2,
        spread=np.ones((2, 3), np.float32),
    )


def snapshot():
    return Snapshot(
        revision=7,
        slot=7,
        fleet="demo",
        panel="servers",
        step_seconds=300,
        horizon=4,
        version=3,
        targets=("cpu", "mem"),
        units=("ratio", ""),
        levels=LEVELS,
        servers=(
            ServerStatus("db-1", "db", "Europe/Berlin", "warming_up", 5, 7, 69),
            ServerStatus("web-1", "web", "UTC", "active", -90, 7, 0),
            ServerStatus("old", "web", "UTC", "retired", -900, -800, 0),
        ),
        served=("seasonal_naive", "champion", None),
        blocks=(block(), block("seasonal_naive", None)),
        raw=windows(),
        published_at=12.5,
    )
