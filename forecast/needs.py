"""What is needed of machines, part by part, against its limits: how a plan is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from forecast.errors import ConfigError

Need = Literal["memory_mb", "disk_mb_per_day", "disk_mb", "metric_series", "cpu_seconds_per_step"]
NEEDS: tuple[Need, ...] = get_args(Need)
"""In the order shown; each but `disk_mb`, which is what stays on disk at most, is a key of
`[limits]`."""

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """One part of a need, and where it arises."""

    need: Need
    what: str
    amount: float
    where: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a config needs, part by part, and its limits."""

    items: tuple[Item, ...]
    limits: Mapping[str, float | None]

    def total(self, need: Need) -> float:
        """The sum of one need's parts."""
        return sum(item.amount for item in self.items if item.need == need)

    def over(self) -> tuple[str, ...]:
        """One line for each need above its limit."""
        return tuple(
            f"limits.{need}: needs {shown(self.total(need))}, the limit is {shown(limit)}"
            for need in NEEDS
            if (limit := self.limits.get(need)) is not None and self.total(need) > limit
        )

    def refuse(self) -> None:
        """Raise ConfigError naming every limit that is passed, the need and the limit."""
        if lines := self.over():
            raise ConfigError("\n".join([*lines, "`fleetcast plan` shows where it goes"]))

    def line(self) -> str:
        """All needs in one line."""
        memory, written, kept, series, cpu = (shown(self.total(need)) for need in NEEDS)
        return (
            f"needs up to {memory} MB of memory, {kept} MB of disk ({written} MB written a day), "
            f"{series} metric series, {cpu} CPU seconds a step"
        )

    def to_json(self) -> dict[str, Any]:
        """Flat: each need, its limit (null: none), and its parts by their words."""
        flat: dict[str, Any] = {}
        for need in NEEDS:
            flat[need] = round(self.total(need), 3)
            flat[f"{need}.limit"] = self.limits.get(need)
            for item in self.items:
                if item.need == need:
                    part = re.sub(r"\W+", "_", item.what.lower()).strip("_")
                    flat[f"{need}.{part}"] = round(item.amount, 3)
        return flat


def shown(number: float) -> str:
    """A number as a person reads it: three digits of a small one, whole large ones.

    >>> shown(12345.6), shown(0.01234)
    ('12,346', '0.0123')
    """
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
