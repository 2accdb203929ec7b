"""Windows of one target as changes from the newest value, and the way back to natural units.

What the experts forecast is how far each step lies from the newest value: in the space the target
is read in, in units of the server's usual change, squashed by arcsinh (`restless.squashed`).

N windows, L context, H horizon, Q levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.baselines import MIN_RESIDUALS, newest, sorted_quantile
from forecast.features import expm1
from forecast.restless import FARTHEST, inputs_of

if TYPE_CHECKING:
    from forecast.raw_windows import RawWindows

FloatArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]
Floats = NDArray[np.float64]
IntArray = NDArray[np.int64]

_PAIRS = 4096
"""About so many of a server's changes say how large they are; more would change nothing."""
_KEPT = 0.99


@dataclass(frozen=True, slots=True)
class Changes:
    """Windows of one target as an expert reads them."""

    log: bool
    context: Float32Array = field(repr=False)
    """[N, L] in the target's space, as the next ones."""
    yesterday: Float32Array = field(repr=False)
    """[N, L+H] a day before each slot."""
    last: Float32Array = field(repr=False)
    """[N, 1] the newest value."""
    unit: Float32Array = field(repr=False)
    """[N, 1]"""
    horizon: int
    """That the expert knows; what is asked for may be less."""

    @classmethod
    def of(
        cls,
        raw: RawWindows,
        column: int,
        newest_N: FloatArray,
        *,
        log: bool,
        unit_N: FloatArray,
        horizon: int,
    ) -> Self:
        """A metric's windows; `newest_N` are the newest values, NaN where there is none."""
        return cls(
            log=log,
            context=spaced(raw.values[:, : raw.context, column], log),
            yesterday=spaced(raw.daily[:, :, column], log),
            last=spaced(newest_N, log)[:, None],
            unit=np.asarray(unit_N, np.float32)[:, None],
            horizon=horizon,
        )

    def inputs(self) -> Float32Array:
        """Inputs [N, .] as `restless.inputs_of` makes them."""
        known = self.yesterday[:, self.context.shape[1] :]
        daily = np.full((len(known), self.horizon), np.nan, np.float32)
        daily[:, : known.shape[1]] = known
        return inputs_of(self.context, daily, self.last, self.unit)

    def natural(self, moved_NHQ: FloatArray) -> Float32Array:
        """Forecasts in natural units, rising with the level.

        None is farther from what the window knows than that is wide; as a logarithm no more than
        twice the highest.
        """
        asked = self.yesterday.shape[1] - self.context.shape[1]
        moved = np.sort(np.clip(moved_NHQ[:, :asked], -FARTHEST, FARTHEST), axis=-1)
        answer: Floats = np.sinh(moved.astype(np.float64))
        answer *= self.unit[..., None]
        answer += self.last[..., None]
        known = np.concatenate([self.context, self.yesterday, self.last], axis=1)
        low = np.where(np.isnan(known), np.inf, known).min(axis=1)[:, None, None]
        high = np.where(np.isnan(known), -np.inf, known).max(axis=1)[:, None, None]
        margin = np.log(2.0) if self.log else high - low + self.unit[..., None]
        least = np.maximum(low - margin, 0.0) if self.log else low - margin
        np.clip(answer, least, high + margin, out=answer)
        if self.log:
            expm1(answer)
        found: Float32Array = answer.astype(np.float32)
        return found


def spaced(values: FloatArray, log: bool) -> Float32Array:
    """Values in the space a target is read in."""
    if not log:
        return values.astype(np.float32)
    moved: Float32Array = np.log1p(np.maximum(values, 0.0)).astype(np.float32)
    return moved


def changes_of(
    raw: RawWindows,
    targets: Sequence[str],
    rows_N: IntArray,
    *,
    units_ST: Float32Array,
    logs: Sequence[bool],
    horizon: int,
) -> list[Changes]:
    """The windows of each target; `rows_N` are the servers' rows of `units_ST`, -1: none."""
    columns = [raw.metrics.index(target) for target in targets]
    last_NT, read = newest(raw, columns), []
    for at, (column, log) in enumerate(zip(columns, logs, strict=True)):
        unit = _units(raw, column, units_ST[:, at], rows_N, horizon, log)
        read.append(Changes.of(raw, column, last_NT[:, at], log=log, unit_N=unit, horizon=horizon))
    return read


def _units(
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
