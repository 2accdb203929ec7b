"""What a model reads and forecasts: the definition of its windows, as plain values.

Legend: C real columns, K categorical columns, T targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from forecast.schema import Metric

RELATIVE_TIME = "relative_time_idx"
"""Position in the window over its context length; the name pytorch-forecasting gives it."""

_CALENDAR = ("cal_day_sin", "cal_day_cos", "cal_week_sin", "cal_week_cos")
_ROLE = "static_role"


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """What a model reads and forecasts; part of every artifact's manifest.

    Feature names carry a prefix, so that a metric called `cpu` or `training` cannot collide with
    an attribute of `torch.nn.Module`. Raises ValueError for targets the model does not read.
    """

    step_seconds: int
    context: int
    horizon: int
    metrics: tuple[Metric, ...]
    """Every metric the model reads, targets included."""
    targets: tuple[str, ...]
    roles: tuple[str, ...] = ("",)
    """Category of each role by position; the first, "", stands for every role not listed."""
    scale_floor_share: float = 0.1
    """Share of the long-run deviation below which a window's scale never falls."""
    most_growth: float = 2.0
    """A log1p target's forecast stays under this multiple of the highest value its window knows."""

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) < len(names) or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"a metric or target is named twice: {names}, {list(self.targets)}")
        if not self.targets or not set(self.targets) <= set(names):
            raise ValueError(f"targets {list(self.targets)} are not all among metrics {names}")
        if len(set(self.roles)) < len(self.roles) or self.roles[:1] != ("",):
            raise ValueError(f"roles start with '' and differ, got {list(self.roles)}")
        if not self.scale_floor_share >= 0 or not self.most_growth >= 1:
            raise ValueError(
                f"scale_floor_share {self.scale_floor_share} starts at 0, "
                f"most_growth {self.most_growth} at 1"
            )
        if self.context < 2 or self.horizon < 1 or self.step_seconds < 1:
            raise ValueError(
                f"context {self.context} needs 2 slots, horizon {self.horizon} needs 1, "
                f"step_seconds {self.step_seconds} needs 1"
            )

    @property
    def static_reals(self) -> tuple[str, ...]:
        """Per target: scale over long-run deviation, and long-run deviation over resolution."""
        kinds = ("static_scale_", "static_spread_")
        return tuple(kind + _escaped(target) for kind in kinds for target in self.targets)

    @property
    def static_categoricals(self) -> tuple[str, ...]:
        """The server's role."""
        return (_ROLE,)

    @property
    def known_reals(self) -> tuple[str, ...]:
        """What is known of the horizon too: calendar, lagged targets, position."""
        lags = [kind + _escaped(t) for kind in ("lagd_", "lagw_") for t in self.targets]
        return (*_CALENDAR, *lags, "seen_lagd", "seen_lagw", RELATIVE_TIME)

    @property
    def unknown_reals(self) -> tuple[str, ...]:
        """What is known of the context only: values and how much of them is missing."""
        values = [f"val_{_escaped(metric.name)}" for metric in self.metrics]
        return (*values, "gap_age", "gap_share")

    @property
    def reals(self) -> tuple[str, ...]:
        """All real columns [C] in the order of `Windows.encoder_cont`."""
        return (*self.static_reals, *self.known_reals, *self.unknown_reals)

    @property
    def target_columns(self) -> tuple[int, ...]:
        """[T] position of each target among `metrics`."""
        names = [metric.name for metric in self.metrics]
        return tuple(names.index(target) for target in self.targets)

    def to_json(self) -> dict[str, Any]:
        """The definition as plain JSON values."""
        return {
            "step_seconds": self.step_seconds,
            "context": self.context,
            "horizon": self.horizon,
            "metrics": [metric.to_json() for metric in self.metrics],
            "targets": list(self.targets),
            "roles": list(self.roles),
            "scale_floor_share": self.scale_floor_share,
            "most_growth": self.most_growth,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The definition that `to_json` wrote."""
        metrics = tuple(Metric.from_json(metric) for metric in data["metrics"])
        sequences = {"targets": tuple(data["targets"]), "roles": tuple(data["roles"])}
        return cls(**{**data, "metrics": metrics, **sequences})


def _escaped(name: str) -> str:
    """The name as part of a module's name, where a dot cannot stand; different names stay so."""
    return name.replace("%", "%25").replace(".", "%2E")
