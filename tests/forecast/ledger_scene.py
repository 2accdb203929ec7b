"""A small fleet's ledger: three servers, two targets, three steps ahead, days of eight slots."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forecast.ledger import Ledger
from forecast.record import ForecastBlock

SERVERS = ("s0", "s1", "s2")
TARGETS = ("cpu", "mem")
LEVELS = (0.1, 0.5, 0.9)
HORIZON = 3
DAY = 8
MEMBERS = ("champion", "copy_last")


def ledger(path: Path, **changed) -> Ledger:
    settings = {
        "targets": TARGETS,
        "levels": LEVELS,
        "horizon": HORIZON,
        "step_seconds": 86400 // DAY,
        "retain_slots": 100,
        "lock_timeout_s": 0.0,
    }
    return Ledger(path=path / "ledger.sqlite", **{**settings, **changed})


def values(center, servers=SERVERS, spread=1.0):
    """Quantiles center - spread, center, center + spread, [S, H, T, Q]."""
    shape = (len(servers), HORIZON, len(TARGETS))
    band = np.array([-spread, 0, spread])
    return (np.broadcast_to(center, shape)[..., None] + band).astype(np.float32)


def block(slot, member="champion", center=0.0, *, version=1, servers=SERVERS, spread=1.0):
    """A block of one center, broadcast to [S, H, T]."""
    return ForecastBlock(
        slot=slot,
        member=member,
        version=version if member == "champion" else None,
        servers=tuple(servers),
        targets=TARGETS,
        levels=LEVELS,
        values=values(center, servers, spread),
    )


def actuals(value, servers=SERVERS):
    """Actuals [S, T] of one value, broadcast."""
    return np.broadcast_to(np.float32(value), (len(servers), len(TARGETS))).copy()


def random_blocks(rng, slot, servers=SERVERS, version=1):
    """A block per member with some cells not issued."""
    made = []
    for member in MEMBERS:
        center = rng.normal(size=(len(servers), HORIZON, len(TARGETS))) + 5
        center[rng.random(center.shape) < 0.15] = np.nan
        made.append(block(slot, member, center, version=version, servers=servers))
    return made


def random_actuals(rng, servers=SERVERS):
    """Actuals with some gaps."""
    found = rng.normal(size=(len(servers), len(TARGETS))) + 5
    found[rng.random(found.shape) < 0.1] = np.nan
    return found.astype(np.float32)
