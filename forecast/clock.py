"""Event time: which slot the fleet has reached, which slots are closed, and who takes part.

Slots are int64 counts of `step_seconds` since 1970. Everything here is decided by the timestamps
of the data; only `StallWatch`, which tells people that nothing moves, looks at a wall clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SILENT_SLOTS = 3
"""A server this many slots behind is still taken for present; one more and it is stale."""

DAY_SECONDS = 86_400

Life = Literal["warming_up", "active", "stale", "retired"]


def slots_per_day(step_seconds: int) -> int:
    """Slots in 24 hours, rounded up.

    >>> slots_per_day(300)
    288
    """
    return -(-DAY_SECONDS // step_seconds)


class EventClock:
    """The slot that at least half of the voting servers have reached; it never goes back.

    Unretired servers, those heard in the 24 h before the clock, vote, but for the silent ones: more
    than 3 slots behind the slot that the leading quarter has reached. Without that exception half a
    fleet dying would stop time. One server far ahead moves nothing while four others take part; in
    a smaller fleet the leader is a quarter by itself, and there only the refusal of samples from
    the future bounds what a wrong clock does.

    When more than three quarters die at once, time stands still until the survivors have moved on
    for 24 h; then the dead count as retired.

    >>> clock = EventClock(step_seconds=300, allowed_lateness_s=300)
    >>> clock.observe({"web-01": 100, "web-02": 100, "db-01": 99, "db-02": 99, "ahead": 2404})
    True
    >>> clock.slot, clock.closed_slot
    (100, 99)
    """

    def __init__(self, *, step_seconds: int, allowed_lateness_s: int) -> None:
        self._behind = max(1, -(-allowed_lateness_s // step_seconds))
        self._day = slots_per_day(step_seconds)
        self._slot: int | None = None
        self._leader: int | None = None
        self._led_alone = 0

    @property
    def slot(self) -> int | None:
        """The latest slot reached; None before any data."""
        return self._slot

    @property
    def closed_slot(self) -> int | None:
        """The latest slot that is not waited for any longer; None before any data."""
        return None if self._slot is None else self._slot - self._behind

    def observe(self, last_slots: Mapping[str, int] | NDArray[np.int64]) -> bool:
        """Take in the last slot of every known server; True when the clock moved."""
        given = last_slots if isinstance(last_slots, np.ndarray) else list(last_slots.values())
        lasts = np.sort(np.asarray(given, dtype=np.int64))[::-1]
        if lasts.size == 0:
            return False
        self._follow_leader(int(lasts[0]))
        candidate = self._candidate(lasts)
        if candidate is None or (self._slot is not None and candidate <= self._slot):
            return False
        self._slot, self._led_alone = candidate, 0
        return True

    def _follow_leader(self, leader: int) -> None:
        """Count how far the leader went since the clock moved; a jump counts as silence at most."""
        if self._leader is not None and leader > self._leader:
            self._led_alone += min(leader - self._leader, SILENT_SLOTS)
        self._leader = leader if self._leader is None else max(leader, self._leader)

    def _candidate(self, lasts: NDArray[np.int64]) -> int | None:
        """The slot half of the voters have reached; `lasts` holds the leader first."""
        present = lasts
        if self._slot is not None:
            stuck = self._led_alone > self._day
            reference = int(lasts[0]) if stuck else self._slot
            present = lasts[lasts >= reference - self._day]
        if present.size == 0:
            return None
        leading = present[(present.size + 3) // 4 - 1]
        voters = present[present >= leading - SILENT_SLOTS]
        return int(voters[(voters.size + 1) // 2 - 1])

    def to_json(self) -> dict[str, Any]:
        """The state as plain JSON values."""
        return {"slot": self._slot, "leader": self._leader, "led_alone": self._led_alone}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take over the state that `to_json` wrote."""
        self._slot, self._leader = data["slot"], data["leader"]
        self._led_alone = data["led_alone"]


def life(
    *, first_slot: int, last_slot: int, missed_slots: int, slot: int, context: int, day_slots: int
) -> Life:
    """Where a server stands as of `slot`.

    | state      | when                                                               |
    |------------|--------------------------------------------------------------------|
    | retired    | it missed more than a day of slots in which the fleet was heard    |
    | stale      | its last slot lies more than 3 slots back                          |
    | warming_up | fewer than `context` slots since it was first seen in this life    |
    | active     | otherwise                                                          |

    `missed_slots` leaves out slots in which nobody was heard, so that an outage of the whole
    collection retires nobody. A retired name that speaks again begins a new life, which inherits
    nothing.
    """
    if missed_slots > day_slots:
        return "retired"
    if slot - last_slot > SILENT_SLOTS:
        return "stale"
    if missing_slots(first_slot=first_slot, slot=slot, context=context):
        return "warming_up"
    return "active"


def missing_slots(*, first_slot: int, slot: int, context: int) -> int:
    """Slots still to come until a server first seen in `first_slot` has a whole context."""
    return max(0, context - (slot - first_slot + 1))


class StallWatch:
    """Says when the clock stands still, by a wall clock that the caller passes in.

    >>> watch = StallWatch(step_seconds=300, now_s=0.0)
    >>> watch.observe(7, now_s=100.0)
    >>> watch.stalled(900.0), watch.stalled(1001.0), watch.age_s(1001.0)
    (False, True, 901.0)
    """

    def __init__(self, *, step_seconds: int, now_s: float) -> None:
        self._patience_s = SILENT_SLOTS * step_seconds
        self._moved_s = now_s
        self._slot: int | None = None

    def observe(self, slot: int | None, *, now_s: float) -> None:
        """Note the clock's slot; only a later one than before counts as progress."""
        if slot is not None and (self._slot is None or slot > self._slot):
            self._slot, self._moved_s = slot, now_s

    def age_s(self, now_s: float) -> float:
        """Seconds since the last progress."""
        return now_s - self._moved_s

    def stalled(self, now_s: float) -> bool:
        """Whether there was no progress for more than 3 steps."""
        return self.age_s(now_s) > self._patience_s
