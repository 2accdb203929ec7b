"""One series of an answer: its quantiles, who made them, what they say of limits.

Legend: H horizon steps, L context, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.clock import SILENT_SLOTS
from forecast.http import distribution
from forecast.http.api import Breach, Fallback, Member, SeriesForecast, SeriesStatus, rfc3339
from forecast.http.queries import Threshold
from forecast.record import ForecastBlock, Snapshot
from forecast.windows import RawWindows


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of every series: how far, which levels, which limits."""

    steps: int
    levels: tuple[float, ...]
    thresholds: tuple[Threshold, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """What a forecast was made from, and what that means for it."""

    origin: int
    status: SeriesStatus
    detail: str | None
    missing_slots: int
    gap_slots: int


@lru_cache(maxsize=4096)
def moment(slot: int, step_seconds: int) -> str:
    """Begin of a slot as text."""
    return rfc3339(slot * step_seconds)


def unknown(
    snapshot: Snapshot, server: str, metric: str | None, *, server_known: bool
) -> SeriesForecast:
    """The answer for a series that does not exist."""
    detail = (
        f"no server {server!r:.80} here as of {moment(snapshot.slot + 1, snapshot.step_seconds)}"
    )
    if server_known:
        detail = f"{metric!r:.80} is not forecast; forecast are {', '.join(snapshot.targets)}"
    return SeriesForecast(
        server=server,
        metric=metric,
        unit=None,
        status="unknown",
        detail=detail,
        fallback=None,
        members=[],
        as_of=None,
        timestamps=[],
        quantiles={},
        missing_slots=None,
        gap_slots=None,
        breaches=[],
    )


def forecast_of(
    snapshot: Snapshot,
    server: str,
    metric: str,
    standing: Standing,
    block: ForecastBlock | None,
    values: NDArray[Any] | None,
    fallback: Fallback | None,
    want: Wanted,
) -> SeriesForecast:
    """The answer for a known series; without values [H, Q] it only says how things stand.

    `block` says who made the values and at which levels, `fallback` whether in another's place.
    """
    members: list[Member] = []
    quantiles: dict[str, list[float]] = {}
    breaches: list[Breach] = []
    if block is not None and values is not None:
        q_HQ = values[: want.steps].astype(np.float64)
        members = [Member(member=block.member, version=block.version, weight=1.0)]
        shown = distribution.tidy(distribution.at_levels(q_HQ, block.levels, want.levels))
        quantiles = {
            f"{level:.10g}": column
            for level, column in zip(want.levels, shown.T.tolist(), strict=True)
        }
        breaches = [
            _breach(limit, q_HQ, block.levels)
            for limit in want.thresholds
            if limit.metric in (None, metric)
        ]
    step = snapshot.step_seconds
    slots = range(standing.origin + 1, standing.origin + 1 + want.steps)
    return SeriesForecast(
        server=server,
        metric=metric,
        unit=snapshot.units[snapshot.targets.index(metric)],
        status=standing.status,
        detail=standing.detail,
        fallback=fallback,
        members=members,
        as_of=moment(standing.origin + 1, step),
        timestamps=[moment(slot, step) for slot in slots] if members else [],
        quantiles=quantiles,
        missing_slots=standing.missing_slots,
        gap_slots=standing.gap_slots,
        breaches=breaches,
    )


def _breach(limit: Threshold, q_HQ: NDArray[Any], levels: Sequence[float]) -> Breach:
    if limit.above is not None:
        chance = distribution.above(q_HQ, levels, limit.above)
    else:
        assert limit.below is not None
        chance = distribution.below(q_HQ, levels, limit.below)
    rounded = [round(share, 6) for share in chance.tolist()]
    return Breach(
        above=limit.above,
        below=limit.below,
        probability=rounded,
        any_step_at_least=max(rounded),
    )


def seen_slots(raw: RawWindows, row: int | None, metric: str) -> NDArray[np.bool_]:
    """Which context slots [L] hold a value of the metric."""
    if row is None or metric not in raw.metrics:
        return np.zeros(raw.context, dtype=bool)
    return np.isfinite(raw.values[row, : raw.context, raw.metrics.index(metric)])


def standing_of(origin: int, seen: NDArray[np.bool_]) -> Standing:
    """Status, detail and missing slots of a window, judged by its own values alone."""
    at = np.flatnonzero(seen)
    gaps = int((~seen).sum())
    if not at.size:
        said = "the context holds no value of this metric"
        return Standing(origin, "warming_up", said, len(seen), gaps)
    first, silent = int(at[0]), len(seen) - 1 - int(at[-1])
    if silent > SILENT_SLOTS:
        said = f"the last {silent} slots of the context hold no value"
        return Standing(origin, "stale", said, first, gaps)
    if first > SILENT_SLOTS:
        said = f"the first {first} slots of the context hold no value"
        return Standing(origin, "warming_up", said, first, gaps)
    return Standing(origin, "ok", None, 0, gaps)
