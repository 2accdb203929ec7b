"""From a snapshot to what HTTP answers: pure functions, no clock, no network.

A series is (server, metric). Whoever was asked answers for it if they can; else seasonal naive,
then copy-last, and the answer says so. What nobody can answer is a series without quantiles, with
a status that says why: one series never fails the others.

Legend: H horizon steps, T targets, Q quantile levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.clock import SILENT_SLOTS
from forecast.config import seconds
from forecast.errors import Unprocessable
from forecast.http.api import Fallback, ForecastAnswer, SeriesForecast, SeriesStatus
from forecast.http.queries import SeriesKey, Threshold
from forecast.http.series import (
    Standing,
    Wanted,
    forecast_of,
    moment,
    seen_slots,
    standing_of,
    unknown,
)
from forecast.record import CHAMPION, ForecastBlock, ServerStatus, Snapshot
from forecast.windows import RawWindows

Series = tuple[str, str | None]
"""(server, metric); the metric is None only for a server that nobody knows."""

BASELINES: tuple[Fallback, ...] = ("seasonal_naive", "copy_last")


def wanted(
    snapshot: Snapshot,
    *,
    horizon: str | None = None,
    levels: Sequence[float] | None = None,
    thresholds: Sequence[Threshold] = (),
) -> Wanted:
    """The request in terms of this snapshot; raises Unprocessable where it asks for more."""
    steps = snapshot.horizon
    if horizon is not None:
        steps = math.ceil(seconds(horizon) / snapshot.step_seconds)
    if steps > snapshot.horizon:
        farthest = snapshot.horizon * snapshot.step_seconds
        raise Unprocessable(f"horizon {horizon} is too far: the model looks {farthest} s ahead")
    asked = snapshot.levels if levels is None else tuple(sorted(set(levels)))
    if asked[0] < snapshot.levels[0] or asked[-1] > snapshot.levels[-1]:
        raise Unprocessable(
            f"quantiles must lie between the model's outer levels {snapshot.levels[0]:g} and "
            f"{snapshot.levels[-1]:g}, got {asked[0]:g} to {asked[-1]:g}"
        )
    return Wanted(steps=steps, levels=asked, thresholds=tuple(thresholds))


def series_of(
    snapshot: Snapshot, servers: Iterable[str] | None = None, metrics: Iterable[str] | None = None
) -> list[Series]:
    """Every metric (None: target) of every server (None: of the fleet), each series once."""
    names = [server.name for server in snapshot.servers] if servers is None else list(servers)
    columns = snapshot.targets if metrics is None else tuple(metrics)
    return list(dict.fromkeys((name, column) for name in names for column in columns))


def series_asked(snapshot: Snapshot, keys: Iterable[SeriesKey]) -> list[Series]:
    """The series of a request, each once; a key without a metric is every target."""
    known = {server.name for server in snapshot.servers}
    found: list[Series] = []
    for key in keys:
        if key.metric is not None or key.server not in known:
            found.append((key.server, key.metric))
        else:
            found += [(key.server, target) for target in snapshot.targets]
    return list(dict.fromkeys(found))


def from_snapshot(
    snapshot: Snapshot,
    series: Iterable[Series],
    want: Wanted,
    *,
    now_s: float,
    model: str = CHAMPION,
    computed: ForecastBlock | None = None,
    warnings: Sequence[str] = (),
) -> ForecastAnswer:
    """The forecast of record; `computed` stands in for the champion's where it has a server.

    `model` is the champion or a baseline.
    """
    reader = _Reader(snapshot, model=model, computed=computed, stalled=is_stalled(snapshot, now_s))
    answers = [reader.series(server, metric, want) for server, metric in series]
    return envelope(snapshot, answers, want, now_s=now_s, warnings=warnings)


def from_windows(
    snapshot: Snapshot,
    raw: RawWindows,
    block: ForecastBlock,
    series: Iterable[Series],
    want: Wanted,
) -> list[SeriesForecast]:
    """Series forecast from windows that are not of record: an earlier moment, or a what-if.

    `block` holds what a version computed from `raw`. A server that `raw` lacks is unknown.
    """
    rows = {name: row for row, name in enumerate(raw.servers)}
    found = []
    for server, metric in series:
        row = rows.get(server)
        if row is None or metric not in block.targets:
            found.append(unknown(snapshot, server, metric, server_known=row is not None))
            continue
        seen = seen_slots(raw, row, metric)
        values = block.values[row, :, block.targets.index(metric)]
        usable = block if seen.any() and np.isfinite(values).all() else None
        standing = standing_of(int(raw.origin[row]), seen)
        found.append(forecast_of(snapshot, server, metric, standing, usable, values, None, want))
    return found


def envelope(
    snapshot: Snapshot,
    series: Sequence[SeriesForecast],
    want: Wanted,
    *,
    now_s: float,
    warnings: Sequence[str] = (),
) -> ForecastAnswer:
    """The whole answer around its series."""
    return ForecastAnswer(
        fleet=snapshot.fleet,
        panel=snapshot.panel,
        revision=snapshot.revision,
        version=snapshot.version,
        as_of=moment(snapshot.slot + 1, snapshot.step_seconds),
        age_seconds=age_s(snapshot, now_s),
        step_seconds=snapshot.step_seconds,
        horizon_seconds=want.steps * snapshot.step_seconds,
        context_slots=snapshot.raw.context,
        series=list(series),
        warnings=list(warnings),
    )


def age_s(snapshot: Snapshot, now_s: float) -> float:
    """Wall-clock seconds since the snapshot was published."""
    return round(max(0.0, now_s - snapshot.published_at), 3)


def is_stalled(snapshot: Snapshot, now_s: float) -> bool:
    """Whether the stream stands still: no step for three steps of wall-clock time."""
    return age_s(snapshot, now_s) > SILENT_SLOTS * snapshot.step_seconds


class _Reader:
    """Reads series off one snapshot by name."""

    def __init__(
        self, snapshot: Snapshot, *, model: str, computed: ForecastBlock | None, stalled: bool
    ) -> None:
        self._snapshot, self._model, self._stalled = snapshot, model, stalled
        blocks = {block.member: block for block in snapshot.blocks}
        if computed is not None:
            blocks[CHAMPION] = computed
        self._blocks = blocks
        self._rows = {
            member: {name: row for row, name in enumerate(block.servers)}
            for member, block in blocks.items()
        }
        self._windows = {name: row for row, name in enumerate(snapshot.raw.servers)}
        self._servers = {
            server.name: (server, member)
            for server, member in zip(snapshot.servers, snapshot.served, strict=True)
        }
        self._computed = frozenset(computed.servers if computed is not None else ())

    def series(self, server: str, metric: str | None, want: Wanted) -> SeriesForecast:
        """One series: whoever can answer first does."""
        known = self._servers.get(server)
        if known is None or metric not in self._snapshot.targets:
            return unknown(self._snapshot, server, metric, server_known=known is not None)
        state, served = known
        block, values = self._answering(self._chain(server, served), server, metric)
        fallback = self._fallback(block)
        status, detail = self._status(state, fallback)
        seen = seen_slots(self._snapshot.raw, self._windows.get(server), metric)
        standing = Standing(
            self._snapshot.slot, status, detail, state.missing_slots, int((~seen).sum())
        )
        return forecast_of(self._snapshot, server, metric, standing, block, values, fallback, want)

    def _chain(self, server: str, served: str | None) -> list[str]:
        first = CHAMPION if server in self._computed else served
        if self._model != CHAMPION:
            first = self._model
        return [*(() if first is None else (first,)), *BASELINES]

    def _answering(
        self, chain: Sequence[str], server: str, metric: str
    ) -> tuple[ForecastBlock | None, NDArray[Any] | None]:
        """The first member's block that has every value of the series, and those [H, Q]."""
        for member in chain:
            block, row = self._blocks.get(member), self._rows.get(member, {}).get(server)
            if block is not None and row is not None and metric in block.targets:
                values = block.values[row, :, block.targets.index(metric)]
                if np.isfinite(values).all():
                    return block, values
        return None, None

    def _fallback(self, block: ForecastBlock | None) -> Fallback | None:
        """The baseline that answers in place of who was asked; None when nobody has to."""
        stepped_in = (name for name in BASELINES if block is not None and name == block.member)
        return next((name for name in stepped_in if name != self._model), None)

    def _status(
        self, state: ServerStatus, fallback: Fallback | None
    ) -> tuple[SeriesStatus, str | None]:
        step = self._snapshot.step_seconds
        if self._stalled:
            return "stale", "the stream stands still; this was forecast from the last data"
        if state.state in ("stale", "retired"):
            return "stale", f"silent since {moment(state.last_slot + 1, step)}"
        if state.state == "warming_up":
            return "warming_up", (
                f"{state.missing_slots} more slots of {step} s until a version answers"
            )
        if fallback is not None:
            reason = "no trained version yet" if self._snapshot.version is None else "not issued"
            return "fallback", reason if self._model == CHAMPION else f"{self._model} cannot answer"
        return "ok", None
