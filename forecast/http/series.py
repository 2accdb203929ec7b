"""How a series stands: what is asked of it, what it was forecast from, and what that means for it.

Legend: N windows, L context, M metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from forecast.clock import SILENT_SLOTS
from forecast.http.api import SeriesStatus, rfc3339
from forecast.http.queries import Threshold
from forecast.record import Snapshot
from forecast.windows import RawWindows


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of every series: how far, which levels, which limits."""

    steps: int
    levels: tuple[float, ...]
    thresholds: tuple[Threshold, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """What a forecast was made from, and what that means for it."""

    origin: int
    status: SeriesStatus
    detail: str | None
    missing_slots: int
    gap_slots: int


@lru_cache(maxsize=4096)
def moment(slot: int, step_seconds: int) -> str:
    """Begin of a slot as text."""
    return rfc3339(slot * step_seconds)


def begin_of(slot: int | None, snapshot: Snapshot | None) -> str | None:
    """Begin of a slot as text; None without one, or while nothing says how long it is."""
    return None if slot is None or snapshot is None else moment(slot, snapshot.step_seconds)


def end_of(slot: int | None, snapshot: Snapshot | None) -> str | None:
    """End of a slot as text; None as for `begin_of`."""
    return None if slot is None else begin_of(slot + 1, snapshot)


def seen_slots(raw: RawWindows, row: int, metric: str) -> NDArray[np.bool_]:
    """Which context slots [L] hold a value of the metric."""
    if metric not in raw.metrics:
        return np.zeros(raw.context, dtype=bool)
    return np.isfinite(raw.values[row, : raw.context, raw.metrics.index(metric)])


def standing_of(origin: int, seen: NDArray[np.bool_]) -> Standing:
    """Status, detail and missing slots of a window, judged by its own values alone."""
    if seen.all():
        return Standing(origin, "ok", None, 0, 0)
    at = np.flatnonzero(seen)
    gaps = int((~seen).sum())
    if not at.size:
        said = "the context holds no value of this metric"
        return Standing(origin, "warming_up", said, len(seen), gaps)
    first, silent = int(at[0]), len(seen) - 1 - int(at[-1])
    if silent > SILENT_SLOTS:
        said = f"the last {silent} slots of the context hold no value"
        return Standing(origin, "stale", said, first, gaps)
    if first > SILENT_SLOTS:
        said = f"the first {first} slots of the context hold no value"
        return Standing(origin, "warming_up", said, first, gaps)
    return Standing(origin, "ok", None, 0, gaps)
