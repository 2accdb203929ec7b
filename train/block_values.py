"""Slots summed up in blocks: one value of each of a server's series that are watched for drift.

Series of a server: the level of each target, the spread of each, and the log of what the served
forecast loses over what seasonal naive loses, the mean over targets.

N servers, T targets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.places import moved
from train.detector import Floats, Ints

FLOORS = (0.05, 0.1, 0.05)
"""The least deviation taken for real: 5 % of a level, 10 % of a spread, 5 % of a loss, about."""

_FULL = 0.5
"""The share of a block's slots that must have come."""
_SUMS = 6


class BlockSums:
    """Sums [N, 6, T] of a block of slots; levels in a space where a factor is a difference."""

    def __init__(self, count: int, *, resolutions: tuple[float, ...], block: int) -> None:
        self._resolutions, self._block = resolutions, block
        self.sums: Floats = np.zeros((count, _SUMS, len(resolutions)))

    @property
    def floors(self) -> Floats:
        """The least deviation [2T + 1] of each series that is taken for real."""
        count = len(self._resolutions)
        return np.repeat(FLOORS, (count, count, 1))

    def add(
        self,
        rows: Ints,
        actuals: NDArray[Any],
        served: NDArray[Any],
        naive: NDArray[Any],
    ) -> None:
        """Add the actuals and losses [n, T] of a slot to those rows; NaN is unknown."""
        served, naive = np.asarray(served, np.float64), np.asarray(naive, np.float64)
        level = np.arcsinh(np.asarray(actuals, np.float64) / np.array(self._resolutions))
        came, both = np.isfinite(level), np.isfinite(served) & np.isfinite(naive)
        parts = (came, level, np.square(level), both, served, naive)
        for at, (part, known) in enumerate(zip(parts, (came,) * 3 + (both,) * 3, strict=True)):
            self.sums[rows, at] += np.where(known, part, 0.0)

    def values(self) -> Floats:
        """The value of each series [N, 2T + 1]; NaN where too little came."""
        enough = _FULL * self._block
        count, total, square, pairs, served, naive = np.moveaxis(self.sums, 1, 0)
        n = np.maximum(count, 1)
        level = total / n
        spread = np.log(np.sqrt(np.maximum(square / n - np.square(level), 0.0)) + FLOORS[0])
        least = 0.1 * np.array(self._resolutions) * np.maximum(pairs, 1)
        ratio = np.log((served + least) / (naive + least))
        known = pairs >= enough
        loss = np.where(known, ratio, 0.0).sum(1) / np.maximum(known.sum(1), 1)
        came = count >= enough
        parts = (
            np.where(came, level, np.nan),
            np.where(came, spread, np.nan),
            np.where(known.any(1), loss, np.nan)[:, None],
        )
        return np.concatenate(parts, axis=1)

    def clear(self) -> None:
        """Begin another block."""
        self.sums[:] = 0.0

    def arrange(self, rows: Ints) -> None:
        """The servers in another order; -1 is a new one."""
        self.sums = moved(self.sums, rows)
