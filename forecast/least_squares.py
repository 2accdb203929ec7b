"""The forgetting least-squares expert: a linear forecast with quantiles, from hourly tables.

Of each target, how far each step lies from the newest value is a linear function of the changes
that led there, of yesterday's at the same time, and of the lowest and highest of late (NLinear's
centre: Zeng et al., Are Transformers Effective for Time Series Forecasting?, AAAI 2023; ELF's
forgetting: `docs/decisions/0015`). Changes are in units of the server's usual change and squashed
by arcsinh, as bursts would decide everything in least squares. A second regression says how large
the errors are from how restless the window is (a location-scale model: Koenker and Zhao, 1994,
Journal of Nonparametric Statistics 3), and quantiles are those of the errors in that unit.

S servers, N windows, L context, H horizon, T targets, Q levels, P inputs, R signs of
restlessness. Tables have rows for S servers and a last one for whoever they do not name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.baselines import MIN_RESIDUALS, clipped, newest, sorted_quantile
from forecast.changes import Changes, spaced
from forecast.packing import pack_fields, unpack_fields
from forecast.places import places
from forecast.restless import signs_of

if TYPE_CHECKING:
    from forecast.raw_windows import RawWindows

FloatArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]
Floats = NDArray[np.float64]
IntArray = NDArray[np.int64]

HISTORY_DAYS = 14
"""What is fitted on."""
MOST_WINDOWS = 24_000
"""Examples of a fit, over all servers."""
LEAST_STRIDE = 7
"""Slots between the origins of a server's examples at least: nearer ones say much the same."""

_PAIRS = 4096
"""About so many of a server's changes say how large they are; more would change nothing."""
_KEPT = 0.99
_FLOOR = 0.1
"""Errors are never taken for smaller than this share of their usual size."""


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
        return pack_fields("least_squares", self)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """The tables that `pack` wrote; raises StateError when they are damaged."""
        return cls(**unpack_fields("least_squares", data))


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
    rows = places(raw.servers, tables.servers)
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
    length = raw.context
    unit = units_of(raw, column, tables.unit[:, place], rows, tables.horizon, tables.logs[place])
    changes = Changes.of(
        raw,
        column,
        newest_N,
        log=tables.logs[place],
        unit_N=unit,
        horizon=tables.horizon,
    )
    inputs = changes.inputs()
    signs = signs_of(inputs, length, tables.horizon)
    row = rows if len(tables.weights) > 1 else np.zeros(len(rows), np.int64)
    point = _product(inputs, tables.weights[:, place], row)
    scale = expected(_product(signs, tables.scales[:, place], row), tables.usual[rows, place])
    return changes.natural(point[..., None] + scale[..., None] * tables.quantiles[rows, place])


def units_of(
    raw: RawWindows, column: int, known_S: Float32Array, rows: IntArray, horizon: int, log: bool
) -> Float32Array:
    """Units [N]: of each window's server, and of whoever has no row (-1) from its window alone.

    Where that says too little it is the fleet's, the last of `known_S` [S+1].
    """
    unit = known_S[rows]
    new = rows < 0
    if not new.any():
        return unit
    change, pairs = usual_change(spaced(raw.values[:, : raw.context, column], log), horizon)
    own: Float32Array = np.where(new & (pairs >= MIN_RESIDUALS) & (change > 0), change, unit)
    return own


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


def usual_change(values: Float32Array, horizon: int) -> tuple[Float32Array, IntArray]:
    """Mean change over half a horizon [N] of windows [N, ..., L], and of how many pairs.

    Without the largest hundredth: one absurd value would make a unit in which all else is nothing.
    """
    lag = max(1, min(horizon // 2, values.shape[-1] - 1))
    with np.errstate(over="ignore"):
        change = np.abs(values[..., lag:] - values[..., :-lag])
    count = math.prod(change.shape[1:])
    change = change.reshape(len(values), count)[:, :: max(1, count // _PAIRS)]
    most = sorted_quantile(change, np.array([_KEPT])) if len(change) else change
    counts = change <= most
    total = np.where(counts, change, 0.0).sum(-1, dtype=np.float64)
    pairs: IntArray = (~np.isnan(change)).sum(-1)
    return (total / np.maximum(counts.sum(-1), 1)).astype(np.float32), pairs
