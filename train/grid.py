"""The stream as a grid: one float32 value per server row, slot and metric; NaN is a gap.

A row is a ring of W slots. Beside each ring cell stands the absolute slot it holds, so what the
ring has overwritten, or never held, reads as a gap and not as another day's value.

Axes: S server rows, W ring slots, M metrics; N and K are those of the reader's own index arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

EMPTY = -1


class Grid:
    """Slot values of all servers.

    >>> grid = Grid(ring=4, metrics=1)
    >>> grid.ensure_rows(1, most=8)
    >>> at = np.array([0])
    >>> grid.write(at, np.array([9]), at, np.array([0.5], np.float32), only_gaps=False)
    array([ True])
    >>> grid.gather(at, np.array([[8, 9]]))[0, :, 0]
    array([nan, 0.5], dtype=float32)
    """

    def __init__(self, *, ring: int, metrics: int) -> None:
        self.ring = ring
        self.metrics = metrics
        self.values: FloatArray = np.empty((0, ring, metrics), np.float32)
        self.slots: IntArray = np.empty((0, ring), np.int64)
        self.heard: IntArray = np.full(ring, EMPTY, np.int64)
        """The absolute slot in which some server was heard, by ring slot."""
        self.cells = 0
        """Slots that servers were heard in, over all rows."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self.values.nbytes + self.slots.nbytes + self.heard.nbytes

    @property
    def capacity(self) -> int:
        """Rows there is room for."""
        return len(self.slots)

    def ensure_rows(self, rows: int, *, most: int) -> None:
        """Make room for so many rows, doubling what there was up to `most`."""
        if rows <= self.capacity:
            return
        more = max(rows, min(2 * self.capacity, most)) - self.capacity
        gaps = np.full((more, self.ring, self.metrics), np.nan, np.float32)
        self.values = np.concatenate([self.values, gaps])
        nothing = np.full((more, self.ring), EMPTY, np.int64)
        self.slots = np.concatenate([self.slots, nothing])

    def wipe(self, row: int) -> None:
        """Make a row all gaps."""
        self.cells -= int((self.slots[row] != EMPTY).sum())
        self.values[row] = np.nan
        self.slots[row] = EMPTY

    def write(
        self,
        rows: IntArray,
        slots: IntArray,
        columns: IntArray,
        values: NDArray[np.floating],
        *,
        only_gaps: bool,
    ) -> BoolArray:
        """Put values at (row, slot, column); True for those that were taken.

        Where two slots share a ring cell the later one holds it, whichever came first. With
        `only_gaps` a value that is there stays.
        """
        cells = slots % self.ring
        held = self.slots[rows, cells]
        np.maximum.at(self.slots, (rows, cells), slots)
        taken: BoolArray = self.slots[rows, cells] == slots
        fresh = taken & (held != slots)
        self.values[rows[fresh], cells[fresh]] = np.nan
        first_heard = np.unique(rows[held == EMPTY] * self.ring + cells[held == EMPTY])
        self.cells += len(first_heard)
        if only_gaps:
            taken &= np.isnan(self.values[rows, cells, columns])
        self.values[rows[taken], cells[taken], columns[taken]] = values[taken]
        np.maximum.at(self.heard, cells, slots)
        return taken

    def holds(self, rows: IntArray, slots: IntArray) -> BoolArray:
        """Whether the servers were heard in these slots; `rows` [N], `slots` [N, K] or [K]."""
        found: BoolArray = self.slots[rows[:, None], slots % self.ring] == slots
        return found

    def gather(self, rows: IntArray, slots: IntArray) -> FloatArray:
        """Values [N, K, M] of `rows` [N] in `slots` [N, K] or [K]; NaN where there is none."""
        cells = slots - slots // self.ring * self.ring  # several times faster than a remainder
        cells = rows[:, None] * self.ring + cells
        values: FloatArray = self.values.reshape(-1, self.metrics).take(cells, axis=0)
        others = self.slots.reshape(-1).take(cells) != slots
        if others.any():
            values[others] = np.nan
        return values

    def heard_after(self, after: IntArray, upto: int) -> IntArray:
        """How many slots in (after, upto] somebody was heard in; no more than the ring holds."""
        slots = np.arange(upto - self.ring + 1, upto + 1)
        heard = self.heard[slots % self.ring] == slots
        before = np.concatenate([[0], np.cumsum(heard)])
        counts: IntArray = before[-1] - before[np.clip(after + 1 - slots[0], 0, self.ring)]
        return counts

    def rows_between(self, after: int, upto: int) -> int:
        """Servers times slots in (after, upto] in which at least one metric has a value."""
        slots = np.arange(max(after + 1, upto - self.ring + 1), upto + 1)
        count = 0
        for row in range(self.capacity):  # row by row: a whole grid's mask would double the memory
            values = self.gather(np.array([row]), slots)
            count += int((~np.isnan(values)).any(axis=2).sum())
        return count
