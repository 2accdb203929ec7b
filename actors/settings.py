"""What the controller decides by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from forecast.hours import Hours
from forecast.members import Members
from forecast.schema import Schema
from train.breaker import BreakerRules
from train.drift_rules import DriftRules
from train.gain import GainRules
from train.gate import Rules
from train.rollout import RolloutRules
from train.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every length is in slots unless its name says hours."""

    fleet: str
    schema: Schema
    levels: tuple[float, ...]
    context: int
    horizon: int
    learning: bool
    bootstrap: int
    base_windows: int
    update_every: int
    online: bool = True
    """Off: full retrains alone, no updates between them."""
    update_window: str | None = None
    """When trainings may start; see `forecast.hours`."""
    retrain_every: int = 0
    """0: no retrain by itself."""
    retrain_start: Literal["scratch", "warm"] = "scratch"
    lookback_hours: int = 0
    """What a retrain reads."""
    min_samples: int
    window_hours: int
    windows_per_update: int
    replay_ratio: float = 0.0
    """Share of them that comes from the replay table; 0: none, and there is no table."""
    holdout_hours: int
    history_hours: int
    validate: bool
    validation_threshold: float = 0.05
    """How much worse, as a share, a challenger may be at the bound."""
    max_weight_move: float = 0.25
    """How far an update may move the weights, as a share of their norm."""
    latency: int
    when_late: Literal["continue", "wait"]
    seed: int
    beside: int = 0
    """How many accepted versions before the champion issue beside it, and the base; 0: none."""
    label_delay: int = 0
    """How much later than its value a slot is scored and learned from; 0 outside of backtests."""
    drift: DriftRules | None = None
    """What drift is told by; None: nobody looks."""
    rollout: RolloutRules | None = None
    """How an accepted version goes to everyone; None: at once."""
    twin_share: float = 0.0
    """Of each role's servers, for which the base goes on issuing; 0: no twin."""
    twin_hours: int = 72
    """Below the twin for so long, the anchor is restored; 0: it is only told."""
    breaker: BreakerRules | None = None
    """When learning stops after failures; None: never."""
    network_every: int = 0
    """How often the quantile network is fitted anew; 0: there is none."""
    precision: Literal["float32", "int8"] = "float32"
    """Of the serving form that issues forecasts of record."""

    def network_slots(self, hour: int) -> tuple[int, ...]:
        """As of which slots the quantile network is wanted in an hour; the first is in use.

        A new one is used from an hour after its slot on, as its fit takes a while.
        """
        every = self.network_every
        if not every:
            return ()
        newest = hour - hour % every
        return (newest,) if hour >= newest + self.per_hour else (newest - every, newest)

    def members(self) -> Members:
        """An empty set of members for this panel."""
        return Members(
            schema=self.schema,
            context=self.context,
            horizon=self.horizon,
            levels=self.levels,
            precision=self.precision,
        )

    def rules(self) -> Rules:
        """What the gate goes by."""
        return Rules(
            validate=self.validate,
            threshold=self.validation_threshold,
            weight_move=self.max_weight_move,
        )

    def way(self, champion: Mapping[str, Any] | None, *, fast: bool) -> dict[str, Any] | None:
        """How a version that the gate lets pass goes to everyone, as `accept` takes it.

        None: at once. So it does where no champion answers that it could be compared with:
        `champion` is what the gate's report says of it.
        """
        rules = self.rollout
        if rules is None or champion is None or not champion["finite"]:
            return None
        stage = rules.first(fast=fast)
        return {"stage": stage, "canary_share": rules.canary_share, "fast": fast}

    def gain(self) -> GainRules:
        """What is told of the twin, and decided by it."""
        return GainRules(
            targets=self.schema.targets,
            horizon=self.horizon,
            per_hour=self.per_hour,
            hours=self.twin_hours,
            seed=self.seed,
        )

    def schedule(self) -> Schedule:
        """When trainings are due, but for the first one."""
        window = self.update_window
        hours: Hours | Literal["learned"] | None = None
        if window is not None:
            hours = "learned" if window == "learned" else Hours.parse(window)
        return Schedule(
            step_seconds=self.schema.step_seconds,
            every=self.update_every if self.online else 0,
            retrain_every=self.retrain_every,
            min_samples=self.min_samples,
            hours=hours,
        )

    def holdout_since(self, slot: int, since: int | None) -> int:
        """Hours that the gate holds out at a slot: after a drift of the fleet only what came since.

        At least three, and three horizons: with fewer blocks there is nothing to compare on.
        """
        if since is None:
            return self.holdout_hours
        least = max(3, -(-3 * self.horizon // self.per_hour))
        return min(self.holdout_hours, max(least, (slot - since) // self.per_hour))

    def before_holdout(self, slot: int, hours: int | None = None) -> int:
        """The last slot that a model may have seen to be judged at `slot`.

        Between that and the held-out windows, of these hours or the usual ones, lies a horizon.
        """
        hours = self.holdout_hours if hours is None else hours
        return slot - hours * self.per_hour - self.horizon

    @property
    def per_hour(self) -> int:
        """Slots in an hour, at least one."""
        return max(1, 3600 // self.schema.step_seconds)
