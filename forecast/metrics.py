"""How good quantile forecasts are: pinball loss, WQL, coverage, and sums of them that add up.

WQL = 2 * sum of pinball losses / sum of |y|, averaged over the levels (Salinas et al., DeepAR,
Int. J. Forecasting 36, 2020, there "quantile loss"). Everything is in natural units. Point errors
are those of the median. Q quantile levels, K central intervals; `...` any leading axes.

F sums per cell, F = 5 + K + Q: the cells counted, those inside each central interval, those at or
below each level (all of them whole numbers); |error|, error^2, |y|, mean pinball loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_COUNT, _INSIDE = 0, 1
_ABSOLUTE, _SQUARED, _SIZE, _PINBALL = -4, -3, -2, -1
AMOUNTS = 4
"""The last so many of a cell's sums are amounts, all before them are counts."""


def pinball(y: FloatArray, quantiles: FloatArray, levels: Sequence[float]) -> Float64Array:
    """Loss [..., Q] of quantiles [..., Q] against y [...]; NaN where either is.

    >>> pinball(np.array([3.0]), np.array([[1.0, 5.0]]), (0.1, 0.9))
    array([[0.2, 0.2]])
    """
    error: Float64Array = np.asarray(y, np.float64)[..., None] - quantiles
    share = np.asarray(levels, np.float64)
    loss: Float64Array = np.maximum(share * error, (share - 1) * error)
    return loss


def wql(y: FloatArray, quantiles: FloatArray, levels: Sequence[float]) -> float:
    """Weighted quantile loss over all cells in which y and every quantile are known.

    NaN when there is no such cell or every y is 0.

    >>> wql(np.array([3.0]), np.array([[1.0, 5.0]]), (0.1, 0.9))
    0.13333333333333333
    """
    loss = pinball(y, quantiles, levels).mean(-1)
    known = np.isfinite(loss)
    size = float(np.abs(y[known], dtype=np.float64).sum())
    return 2 * float(loss[known].sum()) / size if size > 0 else float("nan")


def coverage(y: FloatArray, quantiles: FloatArray, levels: Sequence[float]) -> dict[float, float]:
    """Share of known cells inside each central interval, ends included, by nominal coverage.

    Empty when no cell is known.

    >>> coverage(np.array([3.0, 9.0]), np.array([[1.0, 5.0], [1.0, 5.0]]), (0.1, 0.9))
    {0.8: 0.5}
    """
    known = np.isfinite(y) & np.isfinite(quantiles).all(-1)
    seen, band = y[known], quantiles[known]
    return {
        nominal: float(np.mean((band[:, low] <= seen) & (seen <= band[:, high])))
        for nominal, low, high in central_intervals(levels)
        if seen.size
    }


def central_intervals(levels: Sequence[float]) -> tuple[tuple[float, int, int], ...]:
    """(nominal coverage, index of the lower level, index of the upper one), widest first.

    >>> central_intervals((0.1, 0.5, 0.9))
    ((0.8, 0, 2),)
    """
    found = []
    for low, level in enumerate(levels):
        for high in range(low + 1, len(levels)):
            if abs(level + levels[high] - 1) < 1e-9:
                found.append((round(levels[high] - level, 9), low, high))
    return tuple(found)


def sums_width(levels: Sequence[float]) -> int:
    """F, the number of sums per cell."""
    return _INSIDE + len(central_intervals(levels)) + len(levels) + AMOUNTS


def cell_sums(
    y: FloatArray,
    quantiles: FloatArray,
    levels: Sequence[float],
    where: BoolArray | None = None,
) -> Float64Array:
    """What each cell adds to the sums: [..., F]; add them up and read them as a `Score`.

    A cell counts where y [...] and all its quantiles [..., Q] are finite and `where` [...] is true;
    any other adds zeros. Raises ValueError without a level 0.5.
    """
    if 0.5 not in levels:
        raise ValueError(f"point errors need the level 0.5, got {tuple(levels)}")
    loss = pinball(y, quantiles, levels).mean(-1)  # not finite where one of them is not
    counted = np.isfinite(loss) if where is None else where & np.isfinite(loss)
    error = np.asarray(y, np.float64) - quantiles[..., list(levels).index(0.5)]
    intervals = central_intervals(levels)
    below = _INSIDE + len(intervals)
    cells = np.empty((*loss.shape, sums_width(levels)), np.float64)
    cells[..., _COUNT] = 1
    for place, (_, low, high) in enumerate(intervals, _INSIDE):
        cells[..., place] = (quantiles[..., low] <= y) & (y <= quantiles[..., high])
    cells[..., below:-AMOUNTS] = np.asarray(y)[..., None] <= quantiles
    cells[..., _ABSOLUTE] = np.abs(error)
    cells[..., _SQUARED] = error**2
    cells[..., _SIZE] = np.abs(y)
    cells[..., _PINBALL] = loss
    cells[~counted] = 0
    return cells


@dataclass(frozen=True, slots=True)
class Score:
    """Sums [..., F] over cells made with `levels`, and what they say. Two of them add up.

    A read-out is NaN where its sums hold no cell, `wql` also where every y was 0.

    >>> levels = (0.1, 0.5, 0.9)
    >>> cells = cell_sums(np.array([3.0]), np.array([[1.0, 2.0, 5.0]]), levels)
    >>> once = Score(cells.sum(0), levels)
    >>> twice = once + once
    >>> int(twice.n), float(twice.mae), float(twice.coverage[0]), twice.below.tolist()
    (2, 1.0, 1.0, [0.0, 0.0, 1.0])
    """

    sums: Float64Array
    levels: Sequence[float]

    def __add__(self, other: Score) -> Score:
        return Score(self.sums + other.sums, self.levels)

    @property
    def n(self) -> NDArray[np.int64]:
        """Number of cells [...]."""
        return np.asarray(self.sums[..., _COUNT], np.int64)

    @property
    def mae(self) -> Float64Array:
        """Mean absolute error of the median [...]."""
        return _ratio(self.sums[..., _ABSOLUTE], self.sums[..., _COUNT])

    @property
    def rmse(self) -> Float64Array:
        """Root of the mean squared error of the median [...]."""
        return np.sqrt(_ratio(self.sums[..., _SQUARED], self.sums[..., _COUNT]))

    @property
    def pinball(self) -> Float64Array:
        """Mean pinball loss over cells and levels [...]."""
        return _ratio(self.sums[..., _PINBALL], self.sums[..., _COUNT])

    @property
    def wql(self) -> Float64Array:
        """Weighted quantile loss [...]."""
        return _ratio(2 * self.sums[..., _PINBALL], self.sums[..., _SIZE])

    @property
    def coverage(self) -> Float64Array:
        """Share of cells inside each central interval [..., K]."""
        end = -AMOUNTS - len(self.levels)
        return _ratio(self.sums[..., _INSIDE:end], self.sums[..., _COUNT, None])

    @property
    def below(self) -> Float64Array:
        """Share of actuals at or below each quantile [..., Q]: its level where it is calibrated."""
        inside = self.sums[..., -AMOUNTS - len(self.levels) : -AMOUNTS]
        return _ratio(inside, self.sums[..., _COUNT, None])


def known_mean(values: Float64Array) -> float | None:
    """Mean of the values that are not NaN; None when there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _ratio(over: FloatArray, under: FloatArray) -> Float64Array:
    under = np.broadcast_to(under, over.shape)
    shares = np.full(over.shape, np.nan)
    np.divide(over, under, out=shares, where=under > 0)
    return shares
