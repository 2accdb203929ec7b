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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forecast.baselines import clipped
from forecast.changes import Changes, changes_of
from forecast.places import places
from forecast.restless import signs_of

if TYPE_CHECKING:
    from forecast.raw_windows import RawWindows

FloatArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]
Floats = NDArray[np.float64]
IntArray = NDArray[np.int64]

HISTORY_DAYS = 14
LEAST_HISTORY = 2016
"""What is fitted on: so many days, and where those are fewer slots, so many slots (see `reach`)."""
MOST_WINDOWS = 24_000
"""Examples of a fit, over all servers."""
MOST_STRIDE, LEAST_MINUTES = 7, 35
"""So many slots, or minutes if they are fewer slots, lie between the origins of a server's
examples at least: nearer ones say much the same."""

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


def reach(day: int, history: int, context: int) -> int:
    """Slots back that the experts are fitted on, of a buffer of `history` slots and a day.

    Beyond 14 days only what is still there a day later: a fit as of a slot must not depend on when
    it is made.

    >>> reach(288, 35 * 288, 72) / 288, reach(24, 35 * 24, 72) / 24, reach(24, 99 * 24, 72) / 24
    (14.0, 32.0, 84.0)
    """
    kept = min(LEAST_HISTORY, history - max(day, context))
    return min(max(HISTORY_DAYS * day, kept), history + day)


def half_life(day: int) -> float:
    """After so many slots an example counts half: half of what is fitted on, if that is kept.

    >>> half_life(288) / 288, half_life(24) / 24
    (7.0, 42.0)
    """
    return max(HISTORY_DAYS * day, LEAST_HISTORY) / 2


def least_stride(day: int) -> int:
    """Slots between a server's origins at least.

    >>> least_stride(1440), least_stride(288), least_stride(24)
    (7, 7, 1)
    """
    return max(1, min(MOST_STRIDE, LEAST_MINUTES * day // 1440))


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
    kept = [tables.targets.index(target) for target in targets]
    read = changes_of(
        raw,
        targets,
        rows,
        units_ST=tables.unit[:, kept],
        logs=[tables.logs[place] for place in kept],
        horizon=tables.horizon,
    )
    found = np.empty((len(raw), raw.horizon, len(targets), len(tables.levels)), np.float32)
    for at, (place, one) in enumerate(zip(kept, read, strict=True)):
        found[:, :, at] = _forecast(one, tables, place, rows)
    return clipped(found, lower, upper)


def _forecast(
    read: Changes, tables: LeastSquaresTables, place: int, rows: IntArray
) -> Float32Array:
    """Quantiles [N, H, Q] of one target in natural units."""
    inputs = read.inputs()
    signs = signs_of(inputs, tables.context, tables.horizon)
    row = rows if len(tables.weights) > 1 else np.zeros(len(rows), np.int64)
    point = _product(inputs, tables.weights[:, place], row)
    scale = expected(_product(signs, tables.scales[:, place], row), tables.usual[rows, place])
    return read.natural(point[..., None] + scale[..., None] * tables.quantiles[rows, place])


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
