"""The time of day in many series, learned with forgetting, and what is left without it.

Working days and weekends have a mean each for every hour of the local day, so neither a clock
change nor a weekend is news. A holiday is a working day on which most of the fleet does what it
does at weekends: then the weekend's means hold for everybody.

N rows (servers), D series of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Self
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from train.detector import Floats, Ints

_HOURS = 24
_MOST = 14
"""A mean never counts more than so many days: older ones are forgotten."""
_OWN = 0.5
"""So many days of the whole day's mean stand beside an hour's own ones."""
_HOLIDAY = 0.7
"""The share of the fleet that must look like the other kind of day."""


def local_times(slot: int, step_seconds: int, timezones: Sequence[str]) -> tuple[Ints, Ints]:
    """The local hour (0 to 23) and whether it is a weekend (0, 1) at a slot's begin, for each zone.

    >>> local_times(6 * 12, 300, ["UTC", "Asia/Tokyo"])  # a Thursday
    (array([ 6, 15]), array([0, 0]))
    """
    known: dict[str, tuple[int, int]] = {}
    for zone in sorted(set(timezones)):
        there = datetime.fromtimestamp(slot * step_seconds, ZoneInfo(zone))
        known[zone] = (there.hour, int(there.weekday() >= 5))
    found = np.array([known[zone] for zone in timezones], np.int64).reshape(-1, 2)
    return found[:, 0].copy(), found[:, 1].copy()


class Season:
    """Means [N, D, 2, 24] by kind of day and hour. `patient` [D] series first see a day."""

    def __init__(self, count: int, patient: NDArray[np.bool_]) -> None:
        self._patient = patient
        self.mean = np.zeros((count, len(patient), 2, _HOURS), np.float32)
        self.days = np.zeros(self.mean.shape, np.float32)

    def removed(self, x: Floats, hours: Ints, weekends: Ints, by: NDArray[np.bool_]) -> Floats:
        """The values [N, D] without their season, which then learns them; NaN stays NaN.

        `by` [D] are the series by which a holiday is recognised. A patient series has no value
        as long as its hour on that kind of day is unknown.
        """
        kinds = self._kinds(x, hours, weekends, by)
        left = x - self._expected(hours, kinds)
        unknown = self._patient & (self._at(self.days, hours, kinds) == 0)
        left[unknown] = np.nan
        self._learn(x, hours, kinds)
        return left

    def forget(self, rows: Ints) -> None:
        """Begin anew with these rows."""
        self.mean[rows] = 0.0
        self.days[rows] = 0.0

    def taken(self, rows: Ints) -> Self:
        """The rows in another order; -1 is a new one."""
        made = type(self)(len(rows), self._patient)
        old = rows >= 0
        made.mean[old], made.days[old] = self.mean[rows[old]], self.days[rows[old]]
        return made

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """All that was learned."""
        return {"season_mean": self.mean, "season_days": self.days}

    def restore(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Take over what `arrays` gave."""
        self.mean = arrays["season_mean"].copy()
        self.days = arrays["season_days"].copy()

    def _kinds(self, x: Floats, hours: Ints, weekends: Ints, by: NDArray[np.bool_]) -> Ints:
        """Which kind of day's means hold for each row [N]."""
        own, other = (
            np.where(
                self._at(self.days, hours, kinds) > 0,
                np.abs(x - self._whole() - self._expected(hours, kinds)),
                np.nan,
            )[:, by]
            for kinds in (weekends, 1 - weekends)
        )
        both = np.isfinite(own) & np.isfinite(other)
        rows = both.any(axis=1)
        nearer = np.where(both, other - own, 0.0).sum(axis=1) < 0
        holiday = rows.any() and nearer[rows].mean() >= _HOLIDAY
        return 1 - weekends if holiday else weekends

    def _expected(self, hours: Ints, kinds: Ints) -> Floats:
        """The season [N, D]: an hour's mean off the overall one, less while days are few."""
        mine = self._at(self.days, hours, kinds)
        weight = mine / (mine + _OWN)
        return np.asarray(weight * (self._at(self.mean, hours, kinds) - self._whole()), np.float64)

    def _whole(self) -> NDArray[np.float32]:
        """The mean over all that is known of a series [N, D]."""
        days = self.days.sum(axis=(2, 3))
        whole: NDArray[np.float32] = (self.mean * self.days).sum(axis=(2, 3)) / np.maximum(days, 1)
        return whole

    def _learn(self, x: Floats, hours: Ints, kinds: Ints) -> None:
        rows, series = np.nonzero(np.isfinite(x))
        place = (rows, series, kinds[rows], hours[rows])
        days = np.minimum(self.days[place] + 1, _MOST)
        self.mean[place] += (x[rows, series].astype(np.float32) - self.mean[place]) / days
        self.days[place] = days

    @staticmethod
    def _at(array: NDArray[np.float32], hours: Ints, kinds: Ints) -> NDArray[np.float32]:
        return array[np.arange(len(hours)), :, kinds, hours]
