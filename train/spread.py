"""A server's long-run deviation per metric: how far its values usually lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast.schema import Metric
from train.grid import Grid

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


_MOST_HOURS = 48


@dataclass(frozen=True, slots=True)
class _Hour:
    """What is known as of one hour, by server row."""

    spread: FloatArray
    """[S, M]"""
    known: NDArray[np.bool_]
    """[S]"""


class Spread:
    """Standard deviation [M] in each metric's transformed space, over the history of a server.

    As of a slot it covers the last `history` slots up to the end of the last full hour at or before
    that slot, so that it changes once an hour and not with every step. NaN where less than an
    hour's worth of values is known. It is a function of the grid and the slot: what a late sample
    changes is computed again.
    """

    def __init__(
        self, grid: Grid, metrics: Sequence[Metric], *, step_seconds: int, history: int
    ) -> None:
        self._grid = grid
        self._log = np.array([metric.transform == "log1p" for metric in metrics])
        self._hour_slots = max(1, 3600 // step_seconds)
        self._history = history
        self._hours: dict[int, _Hour] = {}

    def hour(self, slot: int) -> int:
        """The last slot of the last hour that is over by the end of `slot`."""
        return (slot + 1) // self._hour_slots * self._hour_slots - 1

    def of(self, rows: IntArray, slot: int) -> FloatArray:
        """Deviations [N, M] of server rows [N] as of a slot; nothing after it is read."""
        hour = self.hour(slot)
        known = self._hours.get(hour)
        if known is None or len(known.known) < self._grid.capacity:
            capacity = self._grid.capacity
            spread = np.full((capacity, len(self._log)), np.nan, np.float32)
            known = self._hours[hour] = _Hour(spread, np.zeros(capacity, np.bool_))
            if len(self._hours) > _MOST_HOURS:
                del self._hours[min(other for other in self._hours if other != hour)]
        for row in np.unique(rows):
            if not known.known[row]:
                known.spread[row] = self._compute(int(row), hour)
                known.known[row] = True
        found: FloatArray = known.spread[rows]
        return found

    def changed(self, rows: IntArray | int, first: IntArray | int, last: IntArray | int) -> None:
        """Forget what writes in the slots from `first` to `last` of each row may have changed.

        That is every hour it lies before, and every hour whose history the ring has let go of for
        it.
        """
        rows, first, gone = np.broadcast_arrays(
            np.atleast_1d(rows), first, np.asarray(last) - self._grid.ring + self._history
        )
        for hour, known in self._hours.items():
            changed = (hour >= first) | (hour < gone)
            known.known[rows[changed & (rows < len(known.known))]] = False

    def forget(self, row: int) -> None:
        """Forget everything about a row that another server, or another life, now has."""
        for known in self._hours.values():
            if row < len(known.known):
                known.known[row] = False

    def _compute(self, row: int, hour: int) -> FloatArray:
        slots = self._grid.held(row)
        inside = (slots <= hour) & (slots > hour - self._history)
        values = self._grid.values[row][inside].astype(np.float64)
        values[:, self._log] = np.log1p(values[:, self._log])
        seen = ~np.isnan(values)
        count = seen.sum(axis=0)
        total = np.maximum(count, 1)
        mean = np.where(seen, values, 0.0).sum(axis=0) / total
        square = np.where(seen, (values - mean) ** 2, 0.0).sum(axis=0) / total
        enough = count >= max(2, self._hour_slots)
        return np.where(enough, np.sqrt(square), np.nan).astype(np.float32)
