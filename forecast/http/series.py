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


class Standings:
    """How the series of windows stand, judged by each window's own values alone."""

    def __init__(self, raw: RawWindows) -> None:
        self._raw = raw
        self._column = {name: column for column, name in enumerate(raw.metrics)}
        # Nearly all have no gap; those are found in one go.
        whole: NDArray[np.bool_] = np.all(np.isfinite(raw.values[:, : raw.context]), axis=1)
        self._whole: list[list[bool]] = whole.tolist()
        origins = set(raw.origin.tolist())
        self._without = {origin: Standing(origin, "ok", None, 0, 0) for origin in origins}

    def of(self, row: int, metric: str) -> Standing:
        """The standing of one series by its window; all gaps where the windows lack the metric."""
        column, origin = self._column.get(metric), int(self._raw.origin[row])
        if column is None:
            return _with_gaps(origin, np.zeros(self._raw.context, bool))
        if self._whole[row][column]:
            return self._without[origin]
        values = self._raw.values[row, : self._raw.context, column]
        return _with_gaps(origin, np.isfinite(values))


def _with_gaps(origin: int, seen: NDArray[np.bool_]) -> Standing:
    """Of a context [L] of which these slots were seen."""
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
