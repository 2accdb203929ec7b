"""The stream as a grid: one float32 value per server row, slot and metric; NaN is a gap.

A row is a ring of W slots. Beside each ring cell stands the turn of the ring it was filled in, and
so which absolute slot it holds: what the ring has overwritten, or never held, reads as a gap and
not as another day's value.

Axes: S server rows, W ring slots, M metrics; N and K are those of the reader's own index arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

EMPTY = -1
"""The slot, and the turn, of a cell that holds none. Slots before 1970 are not kept."""

_GROWTH = 8
"""Rows that are added one by one come an eighth of what there was at a time."""


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
        # Two bytes a cell: with a ring of two days they last until the year 2149.
        self.turns: NDArray[np.signedinteger] = np.empty((0, ring), np.int16)
        self.heard: IntArray = np.full(ring, EMPTY, np.int64)
        """The absolute slot in which some server was heard, by ring slot."""
        self.cells = 0
        """Slots that servers were heard in, over all rows."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self.values.nbytes + self.turns.nbytes + self.heard.nbytes

    @property
    def capacity(self) -> int:
        """Rows there is room for."""
        return len(self.turns)

    @property
    def slots(self) -> IntArray:
        """The absolute slot that each cell [S, W] holds, EMPTY where none."""
        return self.held(slice(None))

    def held(self, rows: slice | int) -> IntArray:
        """The absolute slots that the cells of some rows hold, EMPTY where none."""
        turns = self.turns[rows].astype(np.int64)
        slots: IntArray = turns * self.ring + np.arange(self.ring)
        slots[turns == EMPTY] = EMPTY
        return slots

    def ensure_rows(self, rows: int, *, most: int) -> None:
        """Make room for so many rows, and for an eighth more than there was up to `most`."""
        if rows <= self.capacity:
            return
        grown = self.capacity + self.capacity // _GROWTH
        more = max(rows, min(grown, most)) - self.capacity
        gaps = np.full((more, self.ring, self.metrics), np.nan, np.float32)
        self.values = np.concatenate([self.values, gaps])
        nothing = np.full((more, self.ring), EMPTY, self.turns.dtype)
        self.turns = np.concatenate([self.turns, nothing])

    def wipe(self, row: int) -> None:
        """Make a row all gaps."""
        self.cells -= int((self.turns[row] != EMPTY).sum())
        self.values[row] = np.nan
        self.turns[row] = EMPTY

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
        places, taken = self.claim(rows, slots)
        stored = self.values.reshape(-1)
        at = places * self.metrics + columns
        if only_gaps:
            taken &= np.isnan(stored[at])
        if taken.all():
            stored[at] = values
        else:
            stored[at[taken]] = values[taken]
        cells = slots % self.ring
        later = slots > self.heard[cells]
        np.maximum.at(self.heard, cells[later], slots[later])
        return taken

    def claim(self, rows: IntArray, slots: IntArray) -> tuple[IntArray, BoolArray]:
        """Let cells hold these slots where none holds a later one; row x W + cell, and which do.

        A cell that changes hands becomes a gap in every metric.
        """
        turn, cell = np.divmod(slots, self.ring)
        if len(turn) and turn.max() > np.iinfo(self.turns.dtype).max:
            self.turns = self.turns.astype(np.int64)
        places, turns = rows * self.ring + cell, self.turns.reshape(-1)
        ahead = turn > turns[places]
        if ahead.any():
            opened, turn_of = places[ahead], turn[ahead]
            again = np.zeros(len(opened), dtype=np.bool_)
            again[1:] = opened[1:] == opened[:-1]  # most of a block's cells stand side by side
            changing = np.unique(opened[~again])
            self.cells += int((turns[changing] == EMPTY).sum())
            self.values.reshape(-1, self.metrics)[changing] = np.nan
            turns[opened] = turn_of
            if (turns[opened] != turn_of).any():  # several turns of one cell: the last one holds it
                np.maximum.at(turns, opened, turn_of.astype(turns.dtype))
        taken: BoolArray = (turns[places] == turn) & (slots >= 0)
        return places, taken

    def holds(self, rows: IntArray, slots: IntArray) -> BoolArray:
        """Whether the servers were heard in these slots; `rows` [N], `slots` [N, K] or [K]."""
        turn, cell = np.divmod(slots, self.ring)
        found: BoolArray = (self.turns[rows[:, None], cell] == turn) & (slots >= 0)
        return found

    def gather(self, rows: IntArray, slots: IntArray) -> FloatArray:
        """Values [N, K, M] of `rows` [N] in `slots` [N, K] or [K]; NaN where there is none."""
        turns = slots // self.ring  # with a product: several times faster than a remainder
        cells = rows[:, None] * self.ring + (slots - turns * self.ring)
        values: FloatArray = self.values.reshape(-1, self.metrics).take(cells, axis=0)
        others = self.turns.reshape(-1).take(cells) != turns
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
