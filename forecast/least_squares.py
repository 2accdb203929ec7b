"""The forgetting least-squares expert: a linear forecast fitted anew each hour, with quantiles.

Of each target, how far each step lies from the newest value is a linear function of the changes
that led there, of yesterday's at the same time, and of the lowest and highest of late (NLinear's
centre: Zeng et al., Are Transformers Effective for Time Series Forecasting?, AAAI 2023; ELF's
forgetting: `docs/decisions/0015`). Changes are in units of the server's usual change and squashed
by arcsinh, as bursts would decide everything in least squares. A second regression says how large
the errors are from how restless the window is (a location-scale model: Koenker and Zhao, 1994,
Journal of Nonparametric Statistics 3), and quantiles are those of the errors in that unit.

S servers, O origins, N windows, L context, H horizon, T targets, Q levels, P inputs, R signs of
restlessness. Tables have rows for S servers and a last one for whoever they do not name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.baselines import MIN_RESIDUALS, clipped, newest, sorted_quantile
from forecast.features import expm1
from forecast.moments import Moments
from forecast.packing import pack, unpack
from forecast.restless import inputs_of, signs_of

if TYPE_CHECKING:
    from forecast.raw_windows import RawWindows

FloatArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]
Floats = NDArray[np.float64]
IntArray = NDArray[np.int64]

HISTORY_DAYS = 14
"""What is fitted on; older examples count for less than a quarter of new ones."""
HALF_LIFE_DAYS = 7.0
"""After so long an example counts half."""
MOST_WINDOWS = 24_000
"""Examples of a fit, over all servers."""
OWN_SERVERS = 256
"""Fleets up to this size have weights for each server, pulled to the fleet's; others only those."""

_RIDGE = 1e-3
_PULL, _SCALE_PULL = 10.0, 0.1
_BORROWED = 100.0
"""So many errors of the fleet stand beside a server's own ones in its quantiles."""
_FLOOR = 0.1
"""Errors are never taken for smaller than this share of their usual size."""
_FARTHEST = 50.0
"""Squashed changes and errors beyond this would leave float32 on their way back."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Windows with labels to fit on, the same number of each server; natural units, NaN = gap."""

    as_of: int
    servers: tuple[str, ...]
    targets: tuple[str, ...]
    logs: tuple[bool, ...]
    """Which targets are read as log1p."""
    floors: tuple[float, ...]
    """The least change that means anything, of each target in its own space."""
    context: int
    slots_per_day: int
    origins: IntArray
    """[S, O]; no label lies after `as_of`."""
    values: Float32Array
    """[S, O, L+H, T] context and labels."""
    daily: Float32Array
    """[S, O, H, T] the value one day before each label."""


@dataclass(frozen=True, slots=True)
class LeastSquaresTables:
    """The fitted expert as of a slot; a function of the values up to that slot alone.

    In the space that each target is read in. `weights` and `scales` have one row for all in a large
    fleet.
    """

    as_of: int
    servers: tuple[str, ...]
    targets: tuple[str, ...]
    logs: tuple[bool, ...]
    levels: tuple[float, ...]
    context: int
    horizon: int
    unit: Float32Array
    """[S+1, T] the usual change over half a horizon."""
    weights: Float32Array
    """[S+1 or 1, T, P, H]"""
    scales: Float32Array
    """[S+1 or 1, T, R, H]"""
    usual: Float32Array
    """[S+1, T, H] the mean size of the errors."""
    quantiles: Float32Array
    """[S+1, T, H, Q] of the errors in units of their expected size."""

    def pack(self) -> bytes:
        """The tables as bytes, for storage."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {name: value for name, value in every.items() if isinstance(value, np.ndarray)}
        header = {name: value for name, value in every.items() if name not in arrays}
        return pack("least_squares", header, arrays)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """The tables that `pack` wrote; raises StateError when they are damaged."""
        header, arrays = unpack("least_squares", data)
        for name in ("servers", "targets", "logs", "levels"):
            header[name] = tuple(header[name])
        return cls(**header, **arrays)


def fit(
    examples: Examples,
    levels: Sequence[float],
    *,
    half_life_days: float = HALF_LIFE_DAYS,
    own_servers: int = OWN_SERVERS,
) -> LeastSquaresTables:
    """The expert as of the examples' slot.

    An example without its newest value or with a gap in its labels does not count. Without any
    example the tables say: no change, with certainty.
    """
    forgetting = 0.5 ** (1 / (half_life_days * examples.slots_per_day))
    age = (examples.as_of - examples.origins).astype(np.float64)
    own = len(examples.servers) <= own_servers
    found = [
        _fit_target(examples, place, age, forgetting, np.asarray(levels, np.float64), own)
        for place in range(len(examples.targets))
    ]
    arrays = [np.stack(parts, axis=1).astype(np.float32) for parts in zip(*found, strict=True)]
    unit, weights, scales, usual, quantiles = arrays
    return LeastSquaresTables(
        as_of=examples.as_of,
        servers=examples.servers,
        targets=examples.targets,
        logs=examples.logs,
        levels=tuple(levels),
        context=examples.context,
        horizon=examples.daily.shape[2],
        unit=unit,
        weights=weights,
        scales=scales,
        usual=usual,
        quantiles=quantiles,
    )


def _fit_target(
    examples: Examples, place: int, age_SO: Floats, forgetting: float, levels: Floats, own: bool
) -> tuple[FloatArray, ...]:
    """The tables' arrays of one target, without their axis T and in their order."""
    length, log = examples.context, examples.logs[place]
    values = spaced(examples.values[..., place], log)
    daily = spaced(examples.daily[..., place], log)
    servers, origins, horizon = daily.shape
    unit = _with_fleets(*_usual_change(values, horizon, axes=(1, 2)), examples.floors[place])
    last = values[..., length - 1 : length]
    scale = unit[:-1, None, None]
    inputs = inputs_of(values[..., :length], daily, last, scale)
    signs = signs_of(inputs, length, horizon)
    change = np.arcsinh((values[..., length:] - last) / scale)
    counts = np.isfinite(change).all(-1)
    age = np.where(counts, age_SO, np.inf)
    change[~counts] = 0.0

    def solved(given: Float32Array, wanted: Float32Array, pull: float) -> Float32Array:
        """Weights [S+1 or 1, ., H], the fleet's last."""
        parts = [given, wanted, age]
        if not own:
            parts = [part.reshape(1, servers * origins, *part.shape[2:]) for part in parts]
        moments = Moments(
            group=len(parts[0]), inputs=given.shape[-1], outputs=horizon, forgetting=forgetting
        )
        moments.add(*parts)
        together = moments.pooled(ridge=_RIDGE)
        alone = moments.own(together, pull=pull) if own else together[:0]
        return np.concatenate([alone, together[None]] if own else [together[None]]).astype(
            np.float32
        )

    weights = solved(inputs, change.astype(np.float32), _PULL)
    row = slice(0, servers) if own else slice(0, 1)
    error = change - inputs @ weights[row]
    size = np.where(counts[..., None], np.abs(error), 0.0)
    scales = solved(signs, size, _SCALE_PULL)
    usual = _blended(size.sum(1), counts.sum(1)[:, None])
    relative = error / expected(signs @ scales[row], usual[:-1, None])
    relative[~counts] = np.nan
    quantiles = _error_quantiles(relative, levels)
    return unit, weights, scales, usual, quantiles


def least_squares(
    raw: RawWindows,
    tables: LeastSquaresTables,
    targets: Sequence[str],
    *,
    lower: FloatArray | None = None,
    upper: FloatArray | None = None,
) -> Float32Array:
    """Quantiles [N, H, T, Q] in natural units; they rise with the level.

    NaN only where copy-last is. No forecast is farther from what the window knows than that is
    wide (as a logarithm: no more than twice the highest). `lower` and `upper` [T] clip.

    Raises ValueError when a target is unknown or the tables are for other windows.
    """
    missing = [t for t in targets if t not in raw.metrics or t not in tables.targets]
    if missing or raw.context != tables.context or raw.horizon > tables.horizon:
        raise ValueError(
            f"least squares: targets {missing} are unknown, or windows of {raw.context} and "
            f"{raw.horizon} slots are not the tables' {tables.context} and {tables.horizon}"
        )
    place = {server: row for row, server in enumerate(tables.servers)}
    rows = np.array([place.get(server, -1) for server in raw.servers], np.int64)
    columns = [raw.metrics.index(target) for target in targets]
    last_NT = newest(raw, columns)
    found = np.empty((len(raw), raw.horizon, len(targets), len(tables.levels)), np.float32)
    for at, (target, column) in enumerate(zip(targets, columns, strict=True)):
        found[:, :, at] = _forecast(
            raw, tables, tables.targets.index(target), column, last_NT[:, at], rows
        )
    return clipped(found, lower, upper)


def _forecast(
    raw: RawWindows,
    tables: LeastSquaresTables,
    place: int,
    column: int,
    newest_N: Float32Array,
    rows: IntArray,
) -> Float32Array:
    """Quantiles [N, H, Q] of one target in natural units."""
    log, length = tables.logs[place], raw.context
    context = spaced(raw.values[:, :length, column], log)
    yesterday = spaced(raw.daily[:, :, column], log)
    last = spaced(newest_N, log)[:, None]
    unit = tables.unit[rows, place]
    change, pairs = _usual_change(context, tables.horizon, axes=(1,))
    unit = np.where((rows < 0) & (pairs >= MIN_RESIDUALS) & (change > 0), change, unit)[:, None]
    # The tables may look farther ahead than is asked for here.
    daily = np.full((len(raw), tables.horizon), np.nan, np.float32)
    daily[:, : raw.horizon] = yesterday[:, length:]
    inputs = inputs_of(context, daily, last, unit)
    signs = signs_of(inputs, length, tables.horizon)
    row = rows if len(tables.weights) > 1 else np.zeros(len(rows), np.int64)
    point = _product(inputs, tables.weights[:, place], row)
    scale = expected(_product(signs, tables.scales[:, place], row), tables.usual[rows, place])
    squashed = point[..., None] + scale[..., None] * tables.quantiles[rows, place]
    squashed = np.sort(np.clip(squashed[:, : raw.horizon], -_FARTHEST, _FARTHEST), axis=-1)
    answer: Floats = last[..., None] + unit[..., None] * np.sinh(squashed.astype(np.float64))
    known = np.concatenate([context, yesterday, last], axis=1)
    low = np.where(np.isnan(known), np.inf, known).min(axis=1)[:, None, None]
    high = np.where(np.isnan(known), -np.inf, known).max(axis=1)[:, None, None]
    margin = np.log(2.0) if log else high - low + unit[..., None]
    np.clip(answer, low - margin, high + margin, out=answer)
    if log:
        expm1(answer)
    return answer.astype(np.float32)


def spaced(values: Float32Array, log: bool) -> Float32Array:
    """Values in the space a target is read in."""
    if not log:
        return values.astype(np.float32)
    moved: Float32Array = np.log1p(np.maximum(values, 0.0)).astype(np.float32)
    return moved


def expected(sizes: Float32Array, usual: Float32Array) -> Float32Array:
    """How large errors are expected to be [..., H]: never far under their usual size, or 0."""
    found: Float32Array = np.maximum(sizes, _FLOOR * usual + np.float32(1e-6))
    return found


def _product(given_NP: Float32Array, weights: Float32Array, rows: IntArray) -> Float32Array:
    """Each window's inputs times its row of weights [., P, H]."""
    if len(weights) == 1:
        together: Float32Array = given_NP @ weights[0]
        return together
    found: Float32Array = (given_NP[:, None] @ weights[rows])[:, 0]
    return found


def _usual_change(
    values: Float32Array, horizon: int, *, axes: tuple[int, ...]
) -> tuple[Float32Array, IntArray]:
    """Mean change over half a horizon along the last axis, and of how many pairs."""
    lag = max(1, min(horizon // 2, values.shape[-1] - 1))
    change = np.abs(values[..., lag:] - values[..., :-lag])
    seen = np.isfinite(change)
    pairs: IntArray = seen.sum(axes)
    total = np.where(seen, change, 0.0).sum(axes, dtype=np.float64)
    return (total / np.maximum(pairs, 1)).astype(np.float32), pairs


def _with_fleets(change_S: Float32Array, pairs_S: IntArray, floor: float) -> Float32Array:
    """[S+1] each server's usual change, the fleet's median where it is not known, and last."""
    known = pairs_S >= MIN_RESIDUALS
    typical = np.median(change_S[known]) if known.any() else 0.0
    every = np.append(np.where(known, change_S, typical), typical)
    found: Float32Array = np.maximum(every, floor).astype(np.float32)
    return found


def _blended(total_SH: FloatArray, count_S1: IntArray) -> Float32Array:
    """[S+1, H] means, with the fleet's as if from `_BORROWED` more; the fleet's last."""
    fleet = total_SH.sum(0) / max(1, int(count_S1.sum()))
    own = (total_SH + _BORROWED * fleet) / (count_S1 + _BORROWED)
    return np.concatenate([own, fleet[None]]).astype(np.float32)


def _error_quantiles(relative_SOH: FloatArray, levels: Floats) -> FloatArray:
    """[S+1, H, Q] of each server's errors and, `_BORROWED` times, of the fleet's; those last."""
    by_step = np.ascontiguousarray(np.moveaxis(relative_SOH, 2, 0))
    fleet = np.nan_to_num(sorted_quantile(by_step.reshape(len(by_step), -1), levels))
    count = np.isfinite(by_step).sum(-1).T[..., None]
    own = np.nan_to_num(np.moveaxis(sorted_quantile(by_step, levels), 0, 1))
    blended = (count * own + _BORROWED * fleet) / (count + _BORROWED)
    return np.concatenate([blended, fleet[None]])
