"""What drift is told by, and what is told of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from train.cusum import Cusum
from train.detector import Detector
from train.detectors import KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRules:
    """What drift is told by. Lengths are in slots unless the name says hours."""

    detector: str
    targets: tuple[str, ...]
    resolutions: tuple[float, ...]
    """The smallest difference of each target worth telling apart."""
    step_seconds: int
    block: int
    """At least a horizon."""
    window: int = 1000
    """Of the window rule."""
    threshold: float = 0.15
    """Of the window rule: a share."""
    false_alarm_slots: int = 20_000
    """Wanted mean time between false alarms of one server and channel (`cusum`)."""
    fleet_share: float = 0.5
    """Of the servers, which must drift within a day for the fleet to drift."""
    update_share: float = 0.25
    """Of the servers, whose drift within a day, and since the last that did, asks for an update."""
    input_hours: int = 96
    loss_hours: int = 48
    """Warm-up before a first alarm, and after each."""
    seed: int = 7

    def detectors(self, count: int) -> tuple[Detector, Detector]:
        """New detectors of the inputs' series and of the losses, for so many servers."""
        made = KINDS[self.detector]
        per_hour = 3600 / (self.step_seconds * self.block)
        inputs, losses = (
            max(12, round(hours * per_hour)) for hours in (self.input_hours, self.loss_hours)
        )
        series = 2 * len(self.targets)
        if made is Cusum:
            wanted = self.false_alarm_slots / self.block
            usual: dict[str, Any] = {"seed": self.seed, "shifts": True, "floor": 1.0}
            return (
                Cusum(count * series, wanted=wanted * series, warmup=inputs, **usual),
                Cusum(count, wanted=wanted, warmup=losses, upward=True, **usual),
            )
        if self.detector == "window":
            settings = {"window": max(12, self.window // self.block), "threshold": self.threshold}
            return made(count * series, **settings), made(count, **settings)
        return made(count * series, warmup=inputs), made(count, warmup=losses)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Drift that was confirmed with one block: where, since when, by which channel."""

    slot: int
    """When it was confirmed: the last slot of the block."""
    servers: tuple[str, ...]
    since: tuple[int, ...]
    """The slot with which each of them began to be another."""
    channels: tuple[str, ...]
    """`loss`, or `level` or `spread` and the target: what said so first."""
    share: float
    """Of the fleet, that drifted within a day and since the fleet's last drift."""
    fleet_wide: bool
    fleet_since: int | None
    """The median of those that drifted; None unless fleet-wide."""
    acts: bool
    """Whether it asks for an update at once."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; the first servers only, with how many there are."""
        shown = {"servers": self.servers[:20], "since": self.since[:20]}
        tree = asdict(self) | shown | {"channels": self.channels[:20]}
        return tree | {"count": len(self.servers)}
