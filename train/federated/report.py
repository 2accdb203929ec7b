"""What became of a round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from train.federated.admission import Admission
from train.federated.rounds import OpenRound

Outcome = Literal["stepped", "held"]
"""A new version, or a candidate for one; or nothing, and the round goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """One round's end. The same updates give the same report, so it holds no duration."""

    round: int
    outcome: Outcome
    reason: str
    """Why it was held; "" for a step."""
    version: int
    """The number of the version that was made; when held, of the last accepted one."""
    base_version: int
    """The last accepted version, which the step was made from."""
    sites: tuple[str, ...]
    """Who took part, by name; of a tree's leaves their own names."""
    updates: int
    samples: int
    verdicts: Mapping[str, int]
    """Updates of the round by verdict."""
    median_norm: float
    """Of the deltas as they were sent."""
    most_staleness: int
    quarantined: tuple[str, ...]
    """Sites that are not heard now."""
    step_norm: float
    """Of the step, after its cap."""
    capped: bool
    """Whether the step was longer than its cap."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        names = ("sites", "quarantined")
        return {**asdict(self), **{name: list(getattr(self, name)) for name in names}}

    @classmethod
    def of(
        cls,
        now: OpenRound,
        admission: Admission,
        *,
        outcome: Outcome,
        reason: str,
        version: int,
        base_version: int,
        step_norm: float = 0.0,
        capped: bool = False,
    ) -> Self:
        """Of a round that ends now."""
        median = admission.norms.quantile(0.5, fresh=True)
        return cls(
            round=now.number,
            outcome=outcome,
            reason=reason,
            version=version,
            base_version=base_version,
            sites=tuple(sorted(now.sites)),
            updates=now.updates,
            samples=now.samples,
            verdicts=dict(sorted(now.verdicts.items())),
            median_norm=median if math.isfinite(median) else 0.0,
            most_staleness=now.stalest,
            quarantined=admission.sites.quarantined(now.number),
            step_norm=step_norm,
            capped=capped,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        names = {name: tuple(data[name]) for name in ("sites", "quarantined")}
        return cls(**{**data, **names})
