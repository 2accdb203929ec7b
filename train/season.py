"""The time of day in many series, learned with forgetting, and what is left without it.

Working days and weekends have a mean each for every hour of the local day, so neither a clock
change nor a weekend is news. A holiday is a working day on which most of the fleet does what it
does at weekends: then the weekend's means hold for everybody.

N rows (servers), D series of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from forecast.places import moved
from train.detector import Bools, Floats, Ints

_HOURS = 24
_MOST = 14
"""A mean never counts more than so many days: older ones are forgotten."""
_ENOUGH = 3
"""From so many days on a mean can be held."""
_HOLIDAY = 0.7
"""The share of the fleet that must look like the other kind of day."""


class Season:
    """Means [N, D, 2, 24] by kind of day and hour, and of how many days they are."""

    def __init__(self, count: int, series: int) -> None:
        self.mean = np.zeros((count, series, 2, _HOURS), np.float32)
        self.days = np.zeros(self.mean.shape, np.float32)

    def removed(self, x: Floats, hours: Ints, weekends: Ints, by: Bools, held: Bools) -> Floats:
        """The values [N, D] without their season, which then learns them, but for `held` ones.

        `by` [D] are the series by which a holiday is recognised. There is no value (NaN) as long
        as the hour of such a day is unknown.
        """
        kinds = self._kinds(x, hours, weekends, by)
        left = self._left(x, hours, kinds)
        known = self.days[np.arange(len(hours)), :, kinds, hours] >= _ENOUGH
        rows, series = np.nonzero(np.isfinite(x) & ~(held & known))
        place = (rows, series, kinds[rows], hours[rows])
        days = np.minimum(self.days[place] + 1, _MOST)
        self.mean[place] += (x[rows, series].astype(np.float32) - self.mean[place]) / days
        self.days[place] = days
        return left

    def move(self, rows: Ints, series: Ints, by: Floats) -> None:
        """These series lie higher by so much from now on, at every hour."""
        self.mean[rows, series] += by[:, None, None].astype(np.float32)

    def taken(self, rows: Ints) -> Self:
        """The rows in another order; -1 is a new one."""
        made = type(self)(0, self.mean.shape[1])
        made.mean, made.days = moved(self.mean, rows), moved(self.days, rows)
        return made

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """All that was learned."""
        return {"season_mean": self.mean, "season_days": self.days}

    def restore(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Take over what `arrays` gave."""
        self.mean = arrays["season_mean"].copy()
        self.days = arrays["season_days"].copy()

    def _kinds(self, x: Floats, hours: Ints, weekends: Ints, by: Bools) -> Ints:
        """Which kind of day's means hold for each row [N]."""
        own = np.abs(self._left(x, hours, weekends)[:, by])
        other = np.abs(self._left(x, hours, 1 - weekends)[:, by])
        both = np.isfinite(own) & np.isfinite(other)
        rows = both.any(axis=1)
        nearer = np.where(both, other - own, 0.0).sum(axis=1) < 0
        holiday = rows.any() and nearer[rows].mean() >= _HOLIDAY
        return 1 - weekends if holiday else weekends

    def _left(self, x: Floats, hours: Ints, kinds: Ints) -> Floats:
        """What is left of the values by the means of these kinds of day."""
        place = (np.arange(len(hours)), slice(None), kinds, hours)
        left = np.where(self.days[place] > 0, x - self.mean[place], np.nan)
        return np.asarray(left, np.float64)
