"""The circuit breaker of learning: after repeated failures no training starts for a while.

    closed ── `failures` within `window` ──► open ── `cooldown` later ──► half open
      ▲                                        ▲                             │
      │                                        └───── the probe fails ───────┤
      └──────────── the probe succeeds, or a person resets it ───────────────┘

A failure is a training that failed, a challenger that could not be used, or a rollback. Half open,
one training is let through: the probe. Serving goes on in all three. Time is event time, in slots.
"Circuit Breaker": Nygard, Release It! (2007).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

State = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRules:
    """When it opens, and for how long. Lengths are in slots."""

    failures: int
    window: int
    cooldown: int


@dataclass(frozen=True, slots=True)
class Breaker:
    """A value: each change gives a new one.

    >>> rules = BreakerRules(failures=2, window=100, cooldown=50)
    >>> breaker = Breaker().failed(10, rules).failed(20, rules)
    >>> [breaker.state(slot, rules) for slot in (20, 69, 70)]
    ['open', 'open', 'half_open']
    >>> breaker.failed(71, rules).state(71, rules), breaker.succeeded(71, rules).opened
    ('open', None)
    """

    failures: tuple[int, ...] = ()
    """The slots of the failures that count still, the oldest first."""
    opened: int | None = None
    """Since when it is open, or half open; None: it is closed."""

    def state(self, slot: int, rules: BreakerRules) -> State:
        """What it is at a slot."""
        if self.opened is None:
            return "closed"
        return "half_open" if slot - self.opened >= rules.cooldown else "open"

    def allows(self, slot: int, rules: BreakerRules, *, probe: bool = True) -> bool:
        """Whether a training may start at a slot; half open it is the probe, if it can be one."""
        state = self.state(slot, rules)
        return state == "closed" or (state == "half_open" and probe)

    def failed(self, slot: int, rules: BreakerRules) -> Breaker:
        """After a failure at a slot. A failed probe opens it for another cool-down.

        Failures while it is open, of a training that had begun before, change nothing.
        """
        state = self.state(slot, rules)
        if state == "half_open":
            return Breaker(opened=slot)
        if state == "open":
            return self
        known = (*(at for at in self.failures if slot - at < rules.window), slot)
        if len(known) >= rules.failures:
            return Breaker(opened=slot)
        return replace(self, failures=known)

    def succeeded(self, slot: int, rules: BreakerRules) -> Breaker:
        """After a training that ended with a usable challenger, accepted or not."""
        return Breaker() if self.state(slot, rules) == "half_open" else self

    def reset(self) -> Breaker:
        """Closed by a person."""
        return Breaker()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended, as the breaker counts it."""

    failure: str | None
    """Why it failed, or its challenger could not be used; None for one that could."""


def fault_of(report: Mapping[str, Any]) -> str | None:
    """What made a challenger unusable, by the gate's report on it; None: it could have served.

    To be refused for its accuracy is no fault: that is what the gate is for.
    """
    if report.get("fault") is not None:
        return str(report["fault"])
    if (report.get("challenger") or {}).get("finite") is False:
        return "its forecasts are not finite"
    moved, most = report.get("weight_move"), report.get("most_weight_move")
    # In the audit log a number that is not finite stands as its name.
    if moved is not None and most is not None and not float(moved) <= most:
        return f"the update moved the weights by {float(moved):.3g} of their norm"
    return None
