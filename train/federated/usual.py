"""What is usual of a number that updates have, such as their norm: counts in bins, over the rounds.

Thresholds follow from it that need no absolute number: what is clipped, what is refused, how long a
step may be, how much one site may count. Counts add up, so a tree of aggregators tracks what one
would, and no order of arrival changes them; within a round the thresholds stand still. A quantile
that is read off the counts of *all* norms cannot run away, as one can that is fed with the norms
after clipping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_PER_DOUBLING = 16
"""Bins between a number and its double: a quantile is told to 4.4 %."""
_LOWEST = -64
"""The first bin begins at two to this power; lower ones count there."""
_BINS = 128 * _PER_DOUBLING
_KEPT = 0.5
"""Of the weight of what came before, after each round."""


class Usual:
    """Positive numbers of the open round, and those before, which decide."""

    def __init__(self) -> None:
        self.fresh: NDArray[np.int64] = np.zeros(_BINS, np.int64)
        """Of the open round."""
        self._past: NDArray[np.float64] = np.zeros(_BINS, np.float64)

    def add(self, value: float) -> None:
        """Count one; the norm 0, of a delta of nothing, says nothing of the others."""
        if value > 0:
            place = math.floor((math.log2(value) - _LOWEST) * _PER_DOUBLING)
            self.fresh[min(max(place, 0), _BINS - 1)] += 1

    def merge(self, fresh: NDArray[np.int64]) -> None:
        """Count those of a part of the round that was merged elsewhere."""
        self.fresh += fresh

    def close(self) -> None:
        """The open round is one of those before now."""
        self._past = self._past * _KEPT + self.fresh
        self.fresh = np.zeros(_BINS, np.int64)

    def quantile(self, level: float, *, fresh: bool = False) -> float:
        """What this share of the rounds before stays under; infinite before the first one's end.

        With `fresh` the open round counts too.
        """
        counts = self._past + self.fresh if fresh else self._past
        below = np.cumsum(counts)
        if not below[-1]:
            return math.inf
        place = int(np.searchsorted(below, level * below[-1]))
        return float(2.0 ** ((place + 1) / _PER_DOUBLING + _LOWEST))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"fresh": _sparse(self.fresh), "past": _sparse(self._past)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        made = cls()
        for place, count in data["fresh"]:
            made.fresh[place] = count
        for place, count in data["past"]:
            made._past[place] = count
        return made


def _sparse(counts: NDArray[Any]) -> list[list[Any]]:
    return [[int(place), counts[place].item()] for place in np.flatnonzero(counts)]
