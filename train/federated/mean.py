"""The weighted mean, as sums that updates are added to one by one: memory does not grow with them.

Legend: P numbers of the vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

CHUNK = 1 << 17
"""Numbers that are worked on at once: they and their doubles stay in a cache."""


def norm_of(delta: FloatArray) -> float:
    """The Euclidean norm [P]; not finite when a number is not, or when it is beyond float32.

    One pass that reads: a sum of squares is finite only if every number is.
    """
    total = 0.0
    with np.errstate(all="ignore"):
        for part in chunks(len(delta)):
            some = delta[part]
            total += float(np.dot(some, some))
    return math.sqrt(total) if total >= 0 else math.nan


class Mean:
    """`sum(scale x delta) / sum(samples)`: in float64, as deltas are as small as float32's errors.

    It is divided by the samples themselves and not by their discounted weights: else a buffer of
    updates that are all stale would not be damped at all.
    """

    def __init__(self) -> None:
        self.sums: DoubleArray | None = None
        """[P]; none before the first update."""
        self.samples = 0

    def __bool__(self) -> bool:
        return self.samples > 0

    def add(self, delta: FloatArray, *, scale: float, samples: int) -> None:
        """Add a delta [P], `scale` being its samples, discounted; it is only read."""
        sums = self._sums(len(delta))
        scaled = np.empty(min(CHUNK, len(delta)), np.float64)
        for part in chunks(len(delta)):
            some = scaled[: part.stop - part.start]
            np.copyto(some, delta[part])
            if scale != 1:
                some *= scale
            sums[part] += some
        self.samples += samples

    def merge(self, sums: DoubleArray, samples: int, *, scale: float) -> None:
        """Add the sums [P] of a part of the round that were made elsewhere."""
        own = self._sums(len(sums))
        for part in chunks(len(sums)):
            own[part] += sums[part] * scale
        self.samples += samples

    def take(self) -> DoubleArray:
        """The mean [P]; afterwards there is nothing in it. Raises ValueError when nothing is."""
        if self.sums is None:
            raise ValueError("a mean of no update")
        mean, self.sums = self.sums, None
        mean /= self.samples
        self.samples = 0
        return mean

    def _sums(self, size: int) -> DoubleArray:
        if self.sums is None:
            self.sums = np.zeros(size, np.float64)
        return self.sums


def chunks(size: int) -> Iterator[slice]:
    """The parts of a vector of this size, one after the other."""
    for start in range(0, size, CHUNK):
        yield slice(start, min(start + CHUNK, size))
