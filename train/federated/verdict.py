"""The gate without raw data: sites score a merged model at home and send the scores alone.

Each site composes the candidate with its own private parts and compares it with what it has, on
held-out windows of its own, with the arithmetic of `train.paired`. The centre sees a few numbers a
site. A site may lie about them: none counts for more than `most_change`, nor for more windows than
`most_samples` times those of the site in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from train.paired import LEAST_BLOCKS, compare, measure

if TYPE_CHECKING:
    from forecast.metrics import FloatArray
    from forecast.windows import RawWindows

CANDIDATE, CURRENT = "candidate", "current"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteScore:
    """What a site says of a candidate: all that leaves it."""

    site: str
    version: int
    """The candidate's number."""
    samples: int
    """Label cells that were compared; 0: the site could not tell."""
    change: float
    """How far the candidate's WQL lies above that of what the site has now; 0.01: 1 % worse."""
    lower: float
    upper: float
    """One-sided bounds of the change; see `train.paired.Change`."""
    blocks: int
    finite: bool = True
    """Whether all of the candidate's forecasts were finite."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; what is not finite is null."""
        plain = asdict(self)
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in plain.items()
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """What `to_json` made; raises ValueError for anything else."""
        if not isinstance(data, Mapping) or set(data) != set(cls.__dataclass_fields__):
            raise ValueError(f"a score has {sorted(cls.__dataclass_fields__)}")
        numbers = ("change", "lower", "upper")
        plain = {**data, **{name: _number(name, data[name]) for name in numbers}}
        for name in ("version", "samples", "blocks"):
            if isinstance(plain[name], bool) or not isinstance(plain[name], int) or plain[name] < 0:
                raise ValueError(f"{name} {plain[name]!r} is no count")
        if not isinstance(plain["site"], str) or not isinstance(plain["finite"], bool):
            raise ValueError("site is a name, and finite true or false")
        return cls(**plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRules:
    """What the verdict goes by. Raises ValueError for numbers that make no sense."""

    quorum: int = 2
    """Sites that must tell, and that must not be worse."""
    worse: float = 0.02
    """A site for which the candidate is worse by more is not asked to take it."""
    most_change: float = 0.05
    """A larger change, up or down, counts as this one."""
    most_samples: float = 2.0
    """How many times the median site's samples one site may stand for."""

    def __post_init__(self) -> None:
        if self.quorum < 1 or not 0 <= self.worse <= self.most_change:
            raise ValueError(
                f"quorum {self.quorum} starts at 1, worse {self.worse} lies in "
                f"[0, most_change {self.most_change}]"
            )
        if self.most_samples < 1:
            raise ValueError(f"most_samples {self.most_samples} starts at 1, the median site's")


@dataclass(frozen=True, slots=True)
class GlobalDecision:
    """What becomes of a merged model, and why (JSON-able)."""

    accept: bool
    reasons: tuple[str, ...]
    keep_previous: tuple[str, ...]
    """Sites that go on with the global model they have."""
    change: float | None
    """The sample-weighted change over the sites; None when none could tell."""
    sites: int
    """How many could tell."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        lists = {"reasons": list(self.reasons), "keep_previous": list(self.keep_previous)}
        return {**asdict(self), **lists}


def score(
    site: str,
    version: int,
    holdout: RawWindows,
    *,
    targets: Sequence[str],
    levels: Sequence[float],
    candidate: FloatArray,
    current: FloatArray,
    seed: int,
) -> SiteScore:
    """A site's own comparison of two models' forecasts [N, H, T, Q] of its held-out windows."""
    losses = measure(holdout, targets, levels, {CANDIDATE: candidate, CURRENT: current})
    finite = CANDIDATE in losses.pinball
    change = compare(losses, CANDIDATE, CURRENT, seed=seed) if len(losses.pinball) == 2 else None
    told = change is not None and losses.blocks >= LEAST_BLOCKS
    return SiteScore(
        site=site,
        version=version,
        samples=losses.n if told else 0,
        change=change.change if change else math.nan,
        lower=change.lower if change else math.nan,
        upper=change.upper if change else math.nan,
        blocks=losses.blocks,
        finite=finite,
    )


def decide(scores: Sequence[SiteScore], rules: VerdictRules, *, version: int) -> GlobalDecision:
    """Whether the candidate with this number becomes the global model.

    It does when its sample-weighted change over the sites is not positive, and at least a quorum
    of them is not worse by more than `rules.worse`; each that is keeps what it has. Scores of
    another candidate, and all but the first of a site, are left out. The order changes nothing.
    """
    first: dict[str, SiteScore] = {}
    for one in sorted(scores, key=lambda each: (each.site, each.change)):
        if one.version == version:
            first.setdefault(one.site, one)
    broken = tuple(one.site for one in first.values() if not one.finite)
    able = [one for one in first.values() if _told(one)]
    keep = tuple(one.site for one in able if one.change > rules.worse)
    change = _weighted(able, rules) if able else None
    refusals = []
    if broken:
        refusals.append(f"its forecasts are not finite at {len(broken)} sites, first {broken[0]}")
    if len(able) < rules.quorum:
        refusals.append(f"{len(able)} sites could tell, {rules.quorum} are needed")
    elif len(able) - len(keep) < rules.quorum:
        refusals.append(
            f"it is more than {rules.worse:.1%} worse at {len(keep)} of {len(able)} sites, "
            f"and {rules.quorum} must be left"
        )
    if change is not None and change > 0:
        refusals.append(f"WQL changes by {change:+.2%} over {len(able)} sites")
    granted = () if change is None else (f"WQL changes by {change:+.2%} over {len(able)} sites",)
    return GlobalDecision(
        accept=not refusals,
        reasons=tuple(refusals) or granted,
        keep_previous=() if refusals else keep,
        change=change,
        sites=len(able),
    )


def _told(one: SiteScore) -> bool:
    return one.finite and one.samples > 0 and not math.isnan(one.change)


def _weighted(able: Sequence[SiteScore], rules: VerdictRules) -> float:
    """The mean change; no site counts for more than it may."""
    samples = np.array([one.samples for one in able], np.float64)
    weight = np.minimum(samples, rules.most_samples * np.median(samples))
    changes = np.clip([one.change for one in able], -rules.most_change, rules.most_change)
    return float((weight * changes).sum() / weight.sum())


def _number(name: str, value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} {value!r} is no number")
    return float(value)
