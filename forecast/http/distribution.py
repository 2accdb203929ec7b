"""What quantiles say beyond their own levels: other levels, and the chance of a breach.

Between neighbouring levels the predictive distribution is taken as linear. Outside the outer ones
the nearest slope goes on until probability 0 or 1 is reached, so tails end: the chance of a value
far beyond what was forecast is 0, not small.

Legend: H horizon steps, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def at_levels(q_HQ: NDArray[Any], levels: Sequence[float], wanted: Sequence[float]) -> FloatArray:
    """Quantiles [H, len(wanted)] at other levels, not crossing.

    Raises ValueError for a level outside the known ones.

    >>> at_levels(np.array([[10.0, 20.0, 40.0]]), (0.1, 0.5, 0.9), (0.3, 0.9))
    array([[15., 40.]])
    """
    if min(wanted) < levels[0] or max(wanted) > levels[-1]:
        raise ValueError(f"levels must lie between {levels[0]} and {levels[-1]}")
    known_HQ = ordered(np.asarray(q_HQ, np.float64))
    if len(levels) == 1:
        return np.repeat(known_HQ, len(wanted), axis=-1)
    if tuple(wanted) == tuple(levels):
        return known_HQ
    upper = np.clip(np.searchsorted(levels, wanted), 1, len(levels) - 1)
    known = np.asarray(levels, np.float64)
    share = (np.asarray(wanted) - known[upper - 1]) / (known[upper] - known[upper - 1])
    return known_HQ[..., upper - 1] * (1 - share) + known_HQ[..., upper] * share


def above(q_HQ: NDArray[Any], levels: Sequence[float], limit: float) -> FloatArray:
    """Probability [H] of a value above `limit`.

    >>> above(np.array([[10.0, 20.0, 30.0]]), (0.25, 0.5, 0.75), 25.0)
    array([0.375])
    """
    return 1 - _below(q_HQ, levels, limit, included=True)


def below(q_HQ: NDArray[Any], levels: Sequence[float], limit: float) -> FloatArray:
    """Probability [H] of a value below `limit`."""
    return _below(q_HQ, levels, limit, included=False)


def _below(
    q_HQ: NDArray[Any], levels: Sequence[float], limit: float, *, included: bool
) -> FloatArray:
    """P(X <= limit) or P(X < limit); they differ where neighbouring quantiles are equal."""
    rising = np.sort(np.asarray(q_HQ, np.float64), axis=-1)
    known = np.asarray(levels, np.float64)
    if len(known) > 1:
        slope = (rising[:, 1] - rising[:, 0]) / (known[1] - known[0])
        first = rising[:, :1] - (slope * known[0])[:, None]
        slope = (rising[:, -1] - rising[:, -2]) / (known[-1] - known[-2])
        last = rising[:, -1:] + (slope * (1 - known[-1]))[:, None]
        rising = np.concatenate([first, rising, last], axis=1)
        known = np.concatenate([[0.0], known, [1.0]])
    else:
        rising, known = np.repeat(rising, 2, axis=1), np.array([0.0, 1.0])
    passed = rising <= limit if included else rising < limit
    count = passed.sum(axis=1)
    inside = np.clip(count, 1, len(known) - 1)
    steps = np.arange(len(rising))
    low, high = rising[steps, inside - 1], rising[steps, inside]
    width = np.where(high > low, high - low, 1.0)
    with np.errstate(all="ignore"):  # a limit far outside, which the counts below decide
        between = known[inside - 1] + (limit - low) / width * (known[inside] - known[inside - 1])
    chance: FloatArray = np.where(count == 0, 0.0, np.where(count == len(known), 1.0, between))
    return chance


def ordered(values: FloatArray) -> FloatArray:
    """The values in order over the last axis; nearly always they are, which is quicker seen."""
    if (values[..., 1:] >= values[..., :-1]).all():
        return values
    found: FloatArray = np.sort(values, axis=-1)
    return found
