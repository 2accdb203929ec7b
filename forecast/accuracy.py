"""How good the forecasts of record were: the ledger's sums as numbers a person reads.

T targets, H horizon, F sums per cell (`metrics`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from forecast.metrics import Float64Array, Score, central_intervals, known_mean
from forecast.record import CHAMPION, ENSEMBLE


@dataclass(frozen=True, slots=True)
class TargetScores:
    """Errors of one target in its unit; None where nothing was compared."""

    n: int
    mae: float | None
    rmse: float | None
    wql: float | None
    coverage: Mapping[str, float | None]
    """Share of actuals inside each central interval, by its nominal coverage (`0.8`)."""


@dataclass(frozen=True, slots=True)
class HorizonScores:
    """Errors so many steps ahead, or of all steps together where `horizon` is None.

    `wql`, `mae` and `rmse` are the mean over targets; the latter two mix units, so read them with
    one target. `coverage` is pooled.
    """

    horizon: int | None
    n: int
    mae: float | None
    rmse: float | None
    wql: float | None
    coverage: Mapping[str, float | None]
    targets: Mapping[str, TargetScores]


@dataclass(frozen=True, slots=True)
class MemberAccuracy:
    """One member's errors by steps ahead, and all of them together."""

    member: str
    pooled: HorizonScores
    horizons: tuple[HorizonScores, ...]


@dataclass(frozen=True, slots=True)
class VersionAccuracy:
    """The members while one version was champion; all of them on the same rows."""

    version: int
    members: tuple[MemberAccuracy, ...]
    """Pooled only: `horizons` is empty unless this version was asked for."""


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """Errors of the members from `since_slot` (begin of a day) to `through_slot`.

    As soon as a champion was scored in that time, `members` holds the origins with a champion
    only, so that the baselines are measured on its rows. `versions` is empty for one server.
    """

    since_slot: int | None
    through_slot: int | None
    server: str | None
    target: str | None
    members: tuple[MemberAccuracy, ...]
    versions: tuple[VersionAccuracy, ...]

    def member(self, name: str) -> MemberAccuracy | None:
        """One member's errors; None when it was never scored."""
        return next((member for member in self.members if member.member == name), None)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)


@dataclass(slots=True)
class Totals:
    """Sums [T, H, F] by member, collected day by day; apart for each champion."""

    first_day: int | None = None
    paired: dict[str, Float64Array] = field(default_factory=dict)
    """Of the origins with a champion."""
    alone: dict[str, Float64Array] = field(default_factory=dict)
    """Of the origins without one."""
    versions: dict[int, dict[str, Float64Array]] = field(default_factory=dict)

    def add(
        self,
        day: int,
        member: str,
        paired: bool,
        sums_THF: Float64Array,
        *,
        version: int | None = None,
    ) -> None:
        """Add one day's sums of a member; `version` is the champion's where it is known."""
        self.first_day = day if self.first_day is None else min(day, self.first_day)
        places = [self.paired if paired else self.alone]
        if version is not None:
            places.append(self.versions.setdefault(version, {}))
        for place in places:
            place[member] = place[member] + sums_THF if member in place else sums_THF


def report_accuracy(
    totals: Totals,
    *,
    since_slot: int | None,
    through_slot: int | None,
    server: str | None,
    target: str | None,
    targets: Sequence[str],
    levels: Sequence[float],
    versions_by_horizon: bool,
) -> AccuracyReport:
    """The report on some totals, of one target or of all."""
    rows = [row for row, name in enumerate(targets) if target in (None, name)]
    chosen = [targets[row] for row in rows]

    def members(sums: Mapping[str, Float64Array], by_horizon: bool) -> tuple[MemberAccuracy, ...]:
        order = sorted(sums, key=lambda member: (member != ENSEMBLE, member != CHAMPION, member))
        return tuple(_member(name, sums[name][rows], chosen, levels, by_horizon) for name in order)

    return AccuracyReport(
        since_slot=since_slot,
        through_slot=through_slot,
        server=server,
        target=target,
        members=members(totals.paired or totals.alone, True),
        versions=tuple(
            VersionAccuracy(version, members(sums, versions_by_horizon))
            for version, sums in sorted(totals.versions.items())
        ),
    )


def _member(
    member: str,
    sums_THF: Float64Array,
    targets: Sequence[str],
    levels: Sequence[float],
    by_horizon: bool,
) -> MemberAccuracy:
    steps = range(sums_THF.shape[1]) if by_horizon else ()
    return MemberAccuracy(
        member=member,
        pooled=_scores(None, sums_THF.sum(1), targets, levels),
        horizons=tuple(_scores(h + 1, sums_THF[:, h], targets, levels) for h in steps),
    )


def _scores(
    horizon: int | None, sums_TF: Float64Array, targets: Sequence[str], levels: Sequence[float]
) -> HorizonScores:
    names = [f"{nominal:g}" for nominal, _, _ in central_intervals(levels)]
    score, pooled = Score(sums_TF, levels), Score(sums_TF.sum(0), levels)
    return HorizonScores(
        horizon=horizon,
        n=int(pooled.n),
        mae=known_mean(score.mae),
        rmse=known_mean(score.rmse),
        wql=known_mean(score.wql),
        coverage=dict(zip(names, map(_number, pooled.coverage), strict=True)),
        targets={
            target: TargetScores(
                n=int(score.n[row]),
                mae=_number(score.mae[row]),
                rmse=_number(score.rmse[row]),
                wql=_number(score.wql[row]),
                coverage=dict(zip(names, map(_number, score.coverage[row]), strict=True)),
            )
            for row, target in enumerate(targets)
        },
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
