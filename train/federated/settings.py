"""How updates are merged: the rule, the server's optimiser, when a round ends, what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rule = Literal["mean", "median", "trimmed_mean"]
Optimizer = Literal["plain", "momentum", "adam", "yogi"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorSettings:
    """Settings of one aggregator. Raises ValueError for numbers that make no sense.

    With `updates` at the number of sites, `quorum` and `deadline_s` rounds are synchronous; with
    a smaller `updates` they are asynchronous, as FedBuff's. Either way what comes late counts as
    stale, up to `most_staleness`.
    """

    rule: Rule = "mean"
    trim: float = 0.2
    """Share of the sites that a trimmed mean drops at each end of every coordinate."""
    optimizer: Optimizer = "plain"
    learning_rate: float = 1.0
    momentum: float = 0.9
    """Of what moved before; for Adam and Yogi the decay of the first moment."""
    beta2: float = 0.99
    """Decay of the second moment of Adam and Yogi."""
    tau: float = 0.1
    """Their adaptivity, as a share of the root mean square of the first aggregate."""
    updates: int = 10
    """A step is made when so many updates were accepted."""
    quorum: int = 2
    """Sites that must have sent one, at the deadline and before."""
    deadline_s: float = 600.0
    """A round that has its quorum ends so long after its first update."""
    most_staleness: int = 5
    """Accepted versions that an update's base may lie back."""
    staleness_power: float = 0.5
    """An update counts `(1 + staleness) ** -power` of its delta."""
    clip_quantile: float = 0.8
    """A delta longer than this quantile of the norms is shortened to it; 0: none is."""
    outlier_quantile: float = 0.98
    outlier_factor: float = 4.0
    """One longer than so many times that quantile is refused; 0: none is."""
    samples_cap: float = 10.0
    """One with more samples than so many times the median counts as that many; 0: as its own."""
    step_cap: float = 2.0
    """A step is at most so many times as long as the median delta; 0: as long as it is."""
    per_site: int = 4
    """Updates of one site that a round takes: no site may fill a round by itself."""
    gated: bool = False
    """Whether a step is a candidate until `accept_step` or `reject_step` says what it is."""
    most_sites: int = 10_000
    """Sites that are kept account of; a further one is refused."""
    forget_after: int = 200
    """A site that was silent for so many rounds is kept account of no longer."""
    most_roles: int = 32
    """Roles with a part of their own."""
    reservoir: int = 32
    """Deltas that order statistics hold: of more sites a fair sample of so many decides."""
    seed: int = 0
    """Draws that sample."""

    def __post_init__(self) -> None:
        if not 0 < self.trim < 0.5:
            raise ValueError(f"trim {self.trim} is not between 0 and 0.5")
        if not 0 <= self.momentum < 1 or not 0 <= self.beta2 < 1:
            raise ValueError(f"momentum {self.momentum} and beta2 {self.beta2} are in [0, 1)")
        if min(self.learning_rate, self.tau, self.deadline_s) <= 0:
            raise ValueError(
                f"learning_rate {self.learning_rate}, tau {self.tau} and "
                f"deadline_s {self.deadline_s} must be above 0"
            )
        sizes = ("most_sites", "most_roles", "reservoir", "forget_after")
        for name in ("updates", "quorum", "per_site", *sizes):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} starts at 1")
        if not 0 <= self.clip_quantile < 1 or not 0 < self.outlier_quantile < 1:
            raise ValueError(
                f"clip_quantile {self.clip_quantile} is in [0, 1), outlier_quantile "
                f"{self.outlier_quantile} between 0 and 1"
            )
        for name in ("outlier_factor", "samples_cap", "step_cap"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} starts at 0")
        if self.most_staleness < 0 or self.staleness_power < 0:
            raise ValueError(
                f"most_staleness {self.most_staleness} and staleness_power "
                f"{self.staleness_power} start at 0"
            )
