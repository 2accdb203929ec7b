"""Hours of the day: a stretch by the clock of a time zone, written down or learned from load."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Self
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

_QUIET_HOURS = 8
_FLAT = 0.95
"""Hours at more than this share of the mean load are not quiet: then any hour will do."""


@dataclass(frozen=True, slots=True)
class Hours:
    """A stretch of the day in a time zone, from one minute of the day up to another.

    >>> from datetime import UTC
    >>> night = Hours.parse("22:00-06:00 Europe/Berlin")
    >>> night.contains(datetime(2026, 1, 1, 21, 0, tzinfo=UTC)), night.contains(
    ...     datetime(2026, 7, 1, 5, 0, tzinfo=UTC))
    (True, False)
    """

    begin: int
    end: int
    zone: str = "UTC"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The hours of `22:00-06:00`, in UTC, or with an IANA zone after them; else ValueError."""
        match = re.fullmatch(r"(\d\d):(\d\d)-(\d\d):(\d\d)(?: (\S+))?", text)
        if match is None:
            raise ValueError(
                f"write hours as 22:00-06:00 or 22:00-06:00 Europe/Berlin, not {text!r}"
            )
        hour, minute, last_hour, last_minute = (int(part) for part in match.groups()[:4])
        begin, end = 60 * hour + minute, 60 * last_hour + last_minute
        if max(minute, last_minute) > 59 or max(begin, end) > 1440 or begin % 1440 == end % 1440:
            raise ValueError(f"{text!r} is no stretch of a day")
        zone = match[5] or "UTC"
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"time zone {zone!r:.40} is not an IANA name") from error
        return cls(begin % 1440, end % 1440, zone)

    @classmethod
    def quietest(cls, load: NDArray[np.float64] | None) -> Self | None:
        """The 8 hours in a row with the least load [24]; None where no hours are quieter.

        >>> busy = np.where(np.arange(24) % 21 > 4, 1.2, 0.5)
        >>> Hours.quietest(busy), Hours.quietest(np.ones(24))
        (Hours(begin=1260, end=300, zone='UTC'), None)
        """
        if load is None:
            return None
        sums = [float(np.roll(load, -hour)[:_QUIET_HOURS].sum()) for hour in range(24)]
        best = int(np.argmin(sums))
        if sums[best] > _FLAT * _QUIET_HOURS * float(load.mean()):
            return None
        return cls(60 * best, 60 * (best + _QUIET_HOURS) % 1440)

    def contains(self, moment: datetime) -> bool:
        """Whether an aware moment lies in them, by the zone's own clock."""
        local = moment.astimezone(ZoneInfo(self.zone))
        minute = 60 * local.hour + local.minute
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end
