"""The local time of slots, as the features of a window that tell the hour and the weekday.

Legend: N windows, K slots of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Ints = NDArray[np.int64]

_DAY = 86_400
_WEEK = 7 * _DAY
_THURSDAY = 3 * _DAY
"""Weekday of 1970-01-01, in seconds: weeks are counted from Monday."""


def calendar(first: Ints, count: int, timezones: Sequence[str], step_seconds: int) -> FloatArray:
    """Sine and cosine of the local time of day and of week, [N, K, 4].

    Of K = `count` slots from each slot of `first` [N] on. Each row is read in its own zone, so that
    a clock change moves the 06:00 job with the clock. Raises KeyError (zoneinfo's) for a zone
    nobody knows.
    """
    places, grain = _places(first, count, timezones, step_seconds)
    # Where a week has fewer places than there are slots, each of them is worked out once.
    end = _WEEK + (count - 1) * step_seconds
    if places.size * grain < end:
        return _waves(places)
    return _waves(np.arange(0, end + 1, grain)).take(places // grain, axis=0)


def local_times(slots: Ints, timezones: Sequence[str], step_seconds: int) -> tuple[Ints, Ints]:
    """The local hour [N], 0 to 23, and whether it is a weekend [N], 0 or 1, as each slot begins.

    Raises KeyError as `calendar`.

    >>> local_times(np.array([72, 72]), ["UTC", "Asia/Tokyo"], 300)  # a Thursday
    (array([ 6, 15]), array([0, 0]))
    """
    seconds = _places(slots, 1, timezones, step_seconds)[0][:, 0]
    return seconds % _DAY // 3600, (seconds // _DAY >= 5).astype(np.int64)


def _places(
    first: Ints, count: int, timezones: Sequence[str], step_seconds: int
) -> tuple[Ints, int]:
    """Seconds [N, K] since a local Monday's midnight, and a number that divides all of them."""
    start, rise = first * step_seconds, np.arange(count) * step_seconds
    places = np.empty((len(start), count), np.int64)
    grain = math.gcd(step_seconds, _THURSDAY, _WEEK)
    numbers = {zone: number for number, zone in enumerate(sorted(set(timezones)))}
    number_of = np.array([numbers[zone] for zone in timezones], dtype=np.int64)
    for zone, number in numbers.items():
        rows = np.flatnonzero(number_of == number)
        clock = _Clock(start[rows], start[rows] + rise[-1], ZoneInfo(zone))
        places[rows] = clock.places(start[rows], rise)
        grain = math.gcd(grain, *clock.offsets.tolist())
    return places, grain


def _waves(places: Ints) -> FloatArray:
    """[..., 4] calendar features of seconds [...] since a local Monday's midnight."""
    waves = np.empty((*places.shape, 4), np.float32)
    for at, length in enumerate((_DAY, _WEEK)):
        angle = 2.0 * np.pi * (places % length / length)
        waves[..., 2 * at] = np.sin(angle)
        waves[..., 2 * at + 1] = np.cos(angle)
    return waves


class _Clock:
    """A zone's offsets from UTC on all days that [first, last] [N] touch, in epoch seconds.

    Takes for granted that no zone changes its offset twice within a day of UTC.
    """

    def __init__(self, first: Ints, last: Ints, zone: ZoneInfo) -> None:
        most = int((last - first).max()) // _DAY + 2
        days = np.unique(first[:, None] // _DAY + np.arange(most))
        found: list[tuple[int, int]] = []
        for begin in (days * _DAY).tolist():
            before, after = _offset(begin, zone), _offset(begin + _DAY, zone)
            found.append((begin, before))
            if before != after:
                found.append((_change(begin, zone), after))
        self._begins, self.offsets = np.array(found, dtype=np.int64).T
        """From when on there is which offset, rising."""
        changed = self.offsets[1:] != self.offsets[:-1]
        self._changes = self._begins[1:][changed]
        """When another offset begins."""

    def places(self, start: Ints, rise: Ints) -> Ints:
        """Seconds [N, K] since the Monday before the local `start` [N], `rise` [K] after it."""
        before = self._at(start)
        places: Ints = ((start + before + _THURSDAY) % _WEEK)[:, None] + rise
        passed = np.searchsorted(self._changes, [start, start + rise[-1]], side="right")
        # Its window sees the clocks change, perhaps there and back.
        for row in np.flatnonzero(passed[0] != passed[1]):
            shifts = self._at(start[row] + rise) - before[row]
            places[row] = (places[row] + shifts) % _WEEK
        return places

    def _at(self, seconds: Ints) -> Ints:
        found: Ints = self.offsets[np.searchsorted(self._begins, seconds, side="right") - 1]
        return found


def _change(day: int, zone: ZoneInfo) -> int:
    """The second of the day that begins at `day` from which its last offset holds."""
    before, low, high = _offset(day, zone), day, day + _DAY
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(middle, zone) == before else (low, middle)
    return high


def _offset(second: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(second, zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())
