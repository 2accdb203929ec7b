"""How fast and how far a run adapts to drifts, against a model that was trained on what came after.

The oracle is the base recipe on the days after the first drift, labels included: no forecaster
could know it in time. Between the frozen model and it lies what learning can win.

    closed       (frozen - row) / (frozen - oracle), of the WQL of drifted servers while they drift
    hours        first hour from which the row's loss, the mean of 6 hours, stays within 1.1 times
                 the oracle's for 12 hours; by drift and server, the median and the worst
    revisit      what comes back: WQL / frozen WQL after the return, over the same before the first
                 drift

Legend: E hours, T targets, F sums per cell (`forecast.metrics`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.scenarios import Change
from forecast.metrics import Float64Array, Score, known_mean
from forecast.tally import Tally

_MEAN_HOURS, _STAY_HOURS, _WITHIN = 6, 12, 1.1
_DAY_HOURS = 24
FIGURES = ("headroom", "closed", "adaptation_h", "never_adapted", "revisit_ratio")


@dataclass(frozen=True, slots=True)
class Hours:
    """Sums of one member by hour [E] and server, over the servers that drift."""

    first: int
    """The first hour since 1970."""
    sums: dict[str, Float64Array]
    """[E, T, F] by server."""
    levels: tuple[float, ...]
    slots: int
    """Slots in an hour."""

    @classmethod
    def of(cls, tally: Tally, member: str) -> Hours:
        """What a tally whose "days" are hours holds of a member."""
        hours = tally.days
        first = hours[0] if hours else 0
        found: dict[str, Float64Array] = {}
        for hour in hours:
            for server, sums_THF in tally.by_server(member, (hour,)).items():
                if server not in found:
                    shape = (hours[-1] - first + 1, sums_THF.shape[0], sums_THF.shape[2])
                    found[server] = np.zeros(shape)
                found[server][hour - first] = sums_THF.sum(1)
        return cls(first, found, tally.levels, tally.day_slots)

    @classmethod
    def together(cls, several: Sequence[Hours]) -> Hours:
        """The same hours of several seeds, added up."""
        first = several[0]
        sums = {name: np.sum([one.sums[name] for one in several], axis=0) for name in first.sums}
        return cls(first.first, sums, first.levels, first.slots)

    def within(self, server: str, from_slot: int, to_slot: int | None) -> Float64Array:
        """Sums [E, T, F] of whole hours in slots [from_slot, to_slot)."""
        begin = max(0, -(-from_slot // self.slots) - self.first)
        end = None if to_slot is None else to_slot // self.slots - self.first
        return self.sums[server][begin:end]

    def wql(self, sums_ETF: Float64Array) -> float:
        """WQL over these hours, the mean over targets; NaN when nothing was compared."""
        found = known_mean(Score(sums_ETF.sum(0), self.levels).wql)
        return math.nan if found is None else found


def figures(
    row: Hours, frozen: Hours, oracle: Hours | None, drifts: Sequence[Change]
) -> dict[str, float | None]:
    """All of `FIGURES`; None without an oracle to compare with, or where there is no number."""
    told: dict[str, float | None] = dict.fromkeys(FIGURES)
    told["revisit_ratio"] = revisit(row, frozen, drifts)
    if oracle is None:
        return told
    told["headroom"] = headroom(frozen, oracle, drifts)
    told["closed"] = closed(row, frozen, oracle, drifts)
    if hours := adaptation(row, oracle, drifts):
        told["adaptation_h"] = finite(float(np.median(hours)))
        told["never_adapted"] = float(np.isinf(hours).sum())
    return told


def finite(value: float) -> float | None:
    """The number; None where it is none: JSON knows no infinity."""
    return value if np.isfinite(value) else None


def closed(row: Hours, frozen: Hours, oracle: Hours, drifts: Sequence[Change]) -> float | None:
    """The share of the gap between frozen and oracle that the row closed.

    None where there is no gap, or no drift.
    """
    losses = [_drifted(one, drifts) for one in (row, frozen, oracle)]
    gap = losses[1] - losses[2]
    return (losses[1] - losses[0]) / gap if gap > 0 else None


def headroom(frozen: Hours, oracle: Hours, drifts: Sequence[Change]) -> float | None:
    """How far the oracle lies below the frozen model, as a share of the latter."""
    before, best = _drifted(frozen, drifts), _drifted(oracle, drifts)
    return 1 - best / before if before > 0 else None


def adaptation(row: Hours, oracle: Hours, drifts: Sequence[Change]) -> list[float]:
    """Hours of each drift of each server until the row is as good as the oracle; inf if never."""
    return [
        _hours(
            row,
            row.within(server, drift.from_slot, drift.to_slot),
            oracle.within(server, drift.from_slot, drift.to_slot),
        )
        for drift in drifts
        for server in drift.servers
        if server in row.sums and server in oracle.sums
    ]


def days_after(row: Hours, drifts: Sequence[Change], horizon_hours: int) -> Float64Array:
    """Sums [D, F] of each whole day from a horizon after the first drift on, over its servers."""
    first = drifts[0]
    begin = first.from_slot + horizon_hours * row.slots
    sums_EF = np.sum(
        [row.within(name, begin, first.to_slot).sum(1) for name in first.servers], axis=0
    )
    days = len(sums_EF) // _DAY_HOURS
    return np.asarray(
        sums_EF[: days * _DAY_HOURS].reshape(days, _DAY_HOURS, sums_EF.shape[-1]).sum(1)
    )


def revisit(row: Hours, frozen: Hours, drifts: Sequence[Change]) -> float | None:
    """After the first return against before the first drift, each over frozen; None without one."""
    back = [drift for drift in drifts if drift.to_slot is not None]
    if not back:
        return None
    first = back[0]
    assert first.to_slot is not None
    again = [drift.from_slot for drift in drifts if drift.from_slot >= first.to_slot]
    spans = ((0, first.from_slot), (first.to_slot, min(again, default=None)))
    ratios = []
    for begin, end in spans:
        mine, theirs = (
            one.wql(np.concatenate([one.within(name, begin, end) for name in first.servers]))
            for one in (row, frozen)
        )
        ratios.append(mine / theirs)
    return ratios[1] / ratios[0]


def _drifted(one: Hours, drifts: Sequence[Change]) -> float:
    parts = [
        one.within(server, drift.from_slot, drift.to_slot)
        for drift in drifts
        for server in drift.servers
        if server in one.sums
    ]
    return one.wql(np.concatenate(parts)) if parts else math.nan


def _hours(hours: Hours, mine_ETF: Float64Array, best_ETF: Float64Array) -> float:
    count = min(len(mine_ETF), len(best_ETF)) - _MEAN_HOURS + 1
    good = [
        hours.wql(mine_ETF[at : at + _MEAN_HOURS])
        <= _WITHIN * hours.wql(best_ETF[at : at + _MEAN_HOURS])
        for at in range(max(0, count))
    ]
    for at in range(len(good) - _STAY_HOURS + 1):
        if all(good[at : at + _STAY_HOURS]):
            # The mean that is good first ends here.
            return float(at + _MEAN_HOURS)
    return math.inf
