"""Strata of windows: which season and which regime each one shows, and what is usual for a server.

A stratum is a quarter of the local day, a working day or weekend, and the third of the server's own
levels so far in which the window lies. A new week of load does not push a quiet month out of a
table that keeps strata alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forecast.local_time import local_times
from forecast.schema import Schema
from forecast.windows import RawWindows

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Floats = NDArray[np.float64]

REGIMES = 3
STRATA = 4 * 2 * REGIMES

_THIRD = 0.43
"""Standard deviations from the mean between which a third of a normal distribution lies."""
_MOST = 2000
"""Windows that a server's usual level remembers: about a month of hourly ones of a small fleet."""
_MOST_LOSSES = 64
"""The same of its usual loss: that changes with each version."""
_MOST_PRIORITY = 5.0


def phases(raw: RawWindows) -> IntArray:
    """[N] 0 to 7: the quarter of the local day of each origin, 4 more at weekends."""
    hours, weekends = local_times(raw.origin, raw.timezones, raw.step_seconds)
    found: IntArray = hours // 6 + 4 * weekends
    return found


def levels(raw: RawWindows, schema: Schema) -> FloatArray:
    """[N] how high the targets stand over the context, as one number without a unit.

    The mean over targets of log(1 + |mean value| / resolution); 0 where nothing is known.
    """
    columns = schema.target_columns
    finest = np.array([schema.metrics[column].resolution for column in columns])
    context = raw.values[:, : raw.context, columns].astype(np.float64)
    seen = np.isfinite(context)
    total = np.where(seen, context, 0.0).sum(axis=1)
    mean = np.abs(total) / np.maximum(seen.sum(axis=1), 1)
    found: FloatArray = np.log1p(mean / finest).mean(axis=1).astype(np.float32)
    return found


class Usual:
    """Per server: mean and deviation of its levels, and its typical loss; one row each.

    Plain running moments of the last so many windows; a loss counts at most 5 times the typical one
    so that a single spike does not make what follows look harmless.

    >>> usual = Usual()
    >>> usual.ensure(1)
    >>> [usual.regime(0, level) for level in (1.0, 3.0, 2.0, 2.0, 9.0, 0.0)]
    [1, 2, 1, 1, 2, 0]
    >>> [usual.priority(0, loss) for loss in (0.2, 0.4, 9.0)]
    [1.0, 2.0, 5.0]
    """

    def __init__(self) -> None:
        self.rows: Floats = np.zeros((0, 5))
        """[I, 5] levels counted, their mean and variance, losses counted, the typical one."""

    def ensure(self, count: int) -> None:
        """Make room for so many servers."""
        if count > len(self.rows):
            more = np.zeros((count - len(self.rows), self.rows.shape[1]))
            self.rows = np.concatenate([self.rows, more])

    def regime(self, server: int, level: float) -> int:
        """0, 1 or 2: low, usual or high for this server so far; then counts the level in."""
        count, mean, variance = self.rows[server, :3].tolist()
        off, deviation = level - mean, variance**0.5
        found = 1 if count == 0 else int(off > -_THIRD * deviation) + int(off > _THIRD * deviation)
        if count and off == 0:
            found = 1
        count = min(count + 1, _MOST)
        mean += off / count
        variance += (off * (level - mean) - variance) / count
        self.rows[server, :3] = count, mean, variance
        return found

    def priority(self, server: int, loss: float) -> float:
        """A loss over the server's typical one, at most 5; then counts the loss in."""
        count, typical = self.rows[server, 3:].tolist()
        typical = typical if count else loss
        found = min(_MOST_PRIORITY, loss / typical) if typical > 0 else 1.0
        count = min(count + 1, _MOST_LOSSES)
        counted = min(loss, _MOST_PRIORITY * typical) if typical > 0 else loss
        self.rows[server, 3:] = count, typical + (counted - typical) / count
        return found
