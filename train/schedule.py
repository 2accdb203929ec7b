"""When the model may learn: how often, from how much, and in which hours of the day.

Everything here is decided in event time, from the slot and what was known at it, so a replay makes
the same updates as the live run. That is why quiet hours are learned from the fleet's own load and
not from the requests that the gateway counts: those come by the wall clock, are not logged, and a
replay has none. People look at a fleet when it works, and what an update takes from forecasts it
takes from them then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from forecast.clock import DAY_SECONDS
from forecast.hours import Hours


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The rules; lengths in slots. It holds no state: what was done last is given."""

    step_seconds: int
    every: int
    """Slots between updates; 0: none, only full retrains."""
    retrain_every: int
    """Slots between full retrains; 0: none by itself."""
    min_samples: int
    hours: Hours | Literal["learned"] | None = None
    """When trainings may start; None: at any time."""

    def due(
        self,
        slot: int,
        *,
        last: int | None,
        last_full: int | None,
        learned: Hours | None = None,
        urgent: bool = False,
    ) -> Literal["retrain", "update"] | None:
        """Which training it is time for; an update needs `enough` new samples besides.

        `last` and `last_full` are the slots at which any, and a full, training was last asked for.
        `learned` are the hours that were found quiet, None for any. An `urgent` update, after a
        confirmed drift, waits neither for its turn nor for quiet hours; where there are no updates
        it is a retrain.
        """
        quiet = self.quiet(slot, learned)
        every = self.retrain_every
        if quiet and every and last_full is not None and slot - last_full >= every:
            return "retrain"
        if last is None:
            return None
        if urgent and slot > last:
            return "update" if self.every else "retrain"
        if not self.every:
            return None
        return "update" if quiet and slot - last >= self.every else None

    def enough(self, fresh: int, *, urgent: bool = False) -> bool:
        """Whether so many new samples are worth an update; an urgent one takes any."""
        return fresh >= (1 if urgent else self.min_samples)

    def day_of(self, slot: int) -> int:
        """The last slot before the UTC day of a slot: as of then quiet hours are learned."""
        day = slot * self.step_seconds // DAY_SECONDS
        return day * DAY_SECONDS // self.step_seconds - 1

    def quiet(self, slot: int, learned: Hours | None = None) -> bool:
        """Whether a training may start at a slot by the hours; `learned` as in `due`."""
        hours = learned if self.hours == "learned" else self.hours
        if hours is None:
            return True
        assert isinstance(hours, Hours)
        # A slot's step is made when it is over: an update begins at its end.
        return hours.contains(datetime.fromtimestamp((slot + 1) * self.step_seconds, UTC))
