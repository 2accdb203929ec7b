"""Two forecasts that need no model, with quantiles: copy-last and seasonal naive.

Copy-last repeats the newest value, seasonal naive the value one day before; each adds the
quantiles of the errors it made over the last days (empirical residual quantiles: Hyndman and
Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., §5.5). A version must beat both.

N windows, S servers, W slots of history, L context, H horizon, T targets, Q quantile levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forecast.places import places

if TYPE_CHECKING:
    from forecast.windows import RawWindows

FloatArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

MIN_RESIDUALS = 48
"""Below this many residuals of its own a server takes the pooled ones."""

_POOL_VALUES = 50_000
"""Residuals pooled per horizon and target; more would cost time and change nothing."""


@dataclass(frozen=True, slots=True)
class BaselineTables:
    """Quantiles of the baselines' errors as of a slot.

    `copy_last` and `seasonal` [S, H, T, Q] are in natural units. The pooled ones [H, T, Q] are for
    a server that `servers` does not name: in units of its deviation, or of `deviation` [T], the
    fleet's median, as long as it has too few values to know its own.
    """

    as_of: int
    servers: tuple[str, ...]
    targets: tuple[str, ...]
    levels: tuple[float, ...]
    copy_last: Float32Array
    seasonal: Float32Array
    pooled_copy_last: Float32Array
    pooled_seasonal: Float32Array
    deviation: Float32Array


def residual_tables(
    history_SWT: FloatArray,
    *,
    as_of: int,
    servers: Sequence[str],
    targets: Sequence[str],
    levels: Sequence[float],
    horizon: int,
    season: int,
    min_residuals: int = MIN_RESIDUALS,
) -> BaselineTables:
    """Residual quantiles per server, horizon and target from the history that ends at `as_of`.

    `history_SWT` [S, W, T] is in natural units, NaN = gap; `season` is one day in slots. Residuals
    are y[t + h] - y[t] for copy-last and y[t] - y[t - season] for seasonal naive, from pairs of
    which both were observed. A server with fewer than `min_residuals` of one kind takes the
    pooled ones: all servers' residuals, each divided by its server's standard deviation, times its
    own deviation. A fleet without any residual has zeros: a point forecast.

    Raises ValueError when the shape does not fit the names.
    """
    if history_SWT.shape[::2] != (len(servers), len(targets)):
        raise ValueError(
            f"history {history_SWT.shape} does not fit {len(servers)} servers and "
            f"{len(targets)} targets"
        )
    y_STW = np.ascontiguousarray(np.moveaxis(history_SWT, 2, 1), dtype=np.float32)
    deviation_ST, typical_T = _deviations(y_STW, min_residuals)
    shares = np.asarray(levels, np.float64)
    copied = [
        _quantiles(_change(y_STW, step), deviation_ST, shares, season, min_residuals)
        for step in range(1, horizon + 1)
    ]
    own_STQ, pooled_TQ = _quantiles(
        _change(y_STW, season), deviation_ST, shares, season, min_residuals
    )
    return BaselineTables(
        as_of=as_of,
        servers=tuple(servers),
        targets=tuple(targets),
        levels=tuple(levels),
        copy_last=np.stack([own for own, _ in copied], axis=1),
        seasonal=np.repeat(own_STQ[:, None], horizon, axis=1),
        pooled_copy_last=np.stack([pooled for _, pooled in copied]),
        pooled_seasonal=np.repeat(pooled_TQ[None], horizon, axis=0),
        deviation=typical_T,
    )


def copy_last(
    raw: RawWindows,
    tables: BaselineTables,
    targets: Sequence[str],
    *,
    lower: FloatArray | None = None,
    upper: FloatArray | None = None,
) -> Float32Array:
    """Quantiles [N, H, T, Q] in natural units around each window's newest value.

    The newest value is the last one observed in the context or, in an empty context, in the day or
    the week before; NaN only where none of them holds a value. `lower` and `upper` [T] clip. The
    tables must reach as far as the windows' horizon.
    """
    columns = columns_of(raw, tables, targets)
    residuals = _residuals(raw, tables, columns, tables.copy_last, tables.pooled_copy_last)
    return clipped(newest(raw, columns.metrics)[:, None, :, None] + residuals, lower, upper)


def seasonal_naive(
    raw: RawWindows,
    tables: BaselineTables,
    targets: Sequence[str],
    *,
    lower: FloatArray | None = None,
    upper: FloatArray | None = None,
) -> Float32Array:
    """Quantiles [N, H, T, Q] in natural units around the value one day before each step.

    Where that is unknown the cell is copy-last's. `lower` and `upper` [T] clip.
    """
    columns = columns_of(raw, tables, targets)
    residuals = _residuals(raw, tables, columns, tables.seasonal, tables.pooled_seasonal)
    before_NHT = raw.daily[:, raw.context :, columns.metrics]
    seasonal = clipped(before_NHT[..., None] + residuals, lower, upper)
    return or_copy_last(seasonal, raw, tables, targets, lower=lower, upper=upper)


def or_copy_last(
    found_NHTQ: Float32Array,
    raw: RawWindows,
    tables: BaselineTables,
    targets: Sequence[str],
    *,
    lower: FloatArray | None = None,
    upper: FloatArray | None = None,
) -> Float32Array:
    """The forecast, with copy-last's put where it is NaN; computed for those windows alone."""
    rows = np.flatnonzero(np.isnan(found_NHTQ).any(axis=(1, 2, 3)))
    if len(rows):
        copied = copy_last(raw.select(rows), tables, targets, lower=lower, upper=upper)
        some = found_NHTQ[rows]
        found_NHTQ[rows] = np.where(np.isnan(some), copied, some)
    return found_NHTQ


def _change(y_STW: Float32Array, step: int) -> Float32Array:
    """y[t + step] - y[t] [S, T, W - step]; NaN where one of them is a gap."""
    return y_STW[..., step:] - y_STW[..., : max(0, y_STW.shape[-1] - step)]


def _deviations(y_STW: Float32Array, enough: int) -> tuple[Float32Array, Float32Array]:
    """Standard deviation [S, T], and the fleet's median of it [T].

    A server with fewer than `enough` values has the fleet's; a fleet without any has 0.
    """
    deviation, count = _deviation(y_STW)
    known = count >= max(2, enough)
    median = sorted_quantile(np.where(known, deviation, np.nan).T, np.array([0.5]))[..., 0]
    typical: Float32Array = np.nan_to_num(median, nan=0.0).astype(np.float32)
    return np.where(known, deviation, typical).astype(np.float32), typical


def _deviation(y: Float32Array) -> tuple[Float32Array, IntArray]:
    """Standard deviation over the last axis, gaps left out, and how many values there were."""
    seen = ~np.isnan(y)
    count = seen.sum(-1)
    shared = np.maximum(count, 1)
    mean = np.where(seen, y, 0).sum(-1, dtype=np.float64) / shared
    square = np.where(seen, (y - mean[..., None]) ** 2, 0).sum(-1)
    return np.sqrt(square / shared).astype(np.float32), count


def _quantiles(
    change_STW: Float32Array,
    deviation_ST: Float32Array,
    levels: NDArray[np.float64],
    season: int,
    enough: int,
) -> tuple[Float32Array, Float32Array]:
    """Residual quantiles [S, T, Q] in natural units, and the pooled ones [T, Q] in deviations."""
    own = sorted_quantile(change_STW, levels)
    pooled = _pooled(change_STW, deviation_ST, levels, season)
    few = (~np.isnan(change_STW)).sum(-1) < max(1, enough)
    borrowed = pooled * deviation_ST[..., None]
    return np.where(few[..., None], borrowed, own).astype(np.float32), pooled


def _pooled(
    change_STW: Float32Array, deviation_ST: Float32Array, levels: NDArray[np.float64], season: int
) -> Float32Array:
    servers, targets, slots = change_STW.shape
    stride = max(1, math.ceil(servers * slots / _POOL_VALUES))
    while math.gcd(stride, season) > 1:  # else only some times of the day would be drawn
        stride += 1
    scale = np.where(deviation_ST > 0, deviation_ST, np.nan)[..., None]
    scaled = change_STW[..., ::stride] / scale
    together = np.moveaxis(scaled, 1, 0).reshape(targets, -1)
    return np.nan_to_num(sorted_quantile(together, levels), nan=0.0).astype(np.float32)


def sorted_quantile(values: FloatArray, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles [..., Q] over the last axis, gaps left out; NaN where nothing is left.

    Linear between the order statistics (type 7 of Hyndman and Fan, Sample Quantiles in Statistical
    Packages, 1996), as numpy's nanquantile, which goes row by row and takes minutes here.
    """
    if values.shape[-1] == 0:
        return np.full((*values.shape[:-1], len(levels)), np.nan)
    ordered = np.sort(values, axis=-1)  # NaN goes last
    last = (~np.isnan(values)).sum(-1, keepdims=True) - 1
    position = np.maximum(last, 0) * levels
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(last, 0))
    low = np.take_along_axis(ordered, below, -1).astype(np.float64)
    high = np.take_along_axis(ordered, above, -1)
    between: NDArray[np.float64] = low + (high - low) * (position - below)
    return between


@dataclass(frozen=True, slots=True)
class Columns:
    """Where each asked-for target stands."""

    metrics: list[int]
    tables: list[int]


def columns_of(raw: RawWindows, tables: BaselineTables, targets: Sequence[str]) -> Columns:
    """Where the targets stand.

    Raises ValueError for a target that is unknown and a horizon that the tables do not reach.
    """
    missing = [t for t in targets if t not in raw.metrics or t not in tables.targets]
    if missing or raw.horizon > tables.copy_last.shape[1]:
        raise ValueError(
            f"baselines: targets {missing} are unknown, or the horizon {raw.horizon} is longer than"
            f" the tables' {tables.copy_last.shape[1]}"
        )
    return Columns(
        [raw.metrics.index(target) for target in targets],
        [tables.targets.index(target) for target in targets],
    )


def newest(raw: RawWindows, columns: Sequence[int]) -> Float32Array:
    """The newest known value [N, T] of these columns: of the context, the day or the week before.

    NaN where nothing is known.
    """
    chosen = list(columns)
    context = raw.values[:, : raw.context, chosen]
    known = np.concatenate([raw.weekly[:, :, chosen], raw.daily[:, :, chosen], context], axis=1)
    at = known.shape[1] - 1 - np.argmax(~np.isnan(known)[:, ::-1], axis=1)
    found: Float32Array = np.take_along_axis(known, at[:, None], axis=1)[:, 0]
    return found


def _residuals(
    raw: RawWindows,
    tables: BaselineTables,
    columns: Columns,
    own_SHTQ: Float32Array,
    pooled_HTQ: Float32Array,
) -> Float32Array:
    """Residual quantiles [N, H, T, Q] of each window's server; pooled ones for a new server."""
    rows = places(raw.servers, tables.servers)
    steps = slice(0, raw.horizon)
    new = rows < 0
    residuals = np.empty(
        (len(rows), raw.horizon, len(columns.tables), len(tables.levels)), np.float32
    )
    residuals[~new] = own_SHTQ[rows[~new], steps][:, :, columns.tables]
    if new.any():
        context = raw.values[new][:, : raw.context, columns.metrics]
        deviation, count = _deviation(np.moveaxis(context, 1, 2))
        typical = tables.deviation[columns.tables]
        scale = np.where(count >= MIN_RESIDUALS, deviation, typical)
        residuals[new] = pooled_HTQ[steps][:, columns.tables] * scale[:, None, :, None]
    return residuals


def clipped(
    values: Float32Array, lower: FloatArray | None, upper: FloatArray | None
) -> Float32Array:
    """Values [..., T, Q] within the bounds [T] that are given."""
    floor = -np.inf if lower is None else lower[:, None]
    ceiling = np.inf if upper is None else upper[:, None]
    return np.clip(values, floor, ceiling).astype(np.float32)
