"""Windows of one target as changes from the newest value, and the way back to natural units.

What the experts forecast is how far each step lies from the newest value: in the space the target
is read in, in units of the server's usual change, squashed by arcsinh (`restless.squashed`).

N windows, L context, H horizon, Q levels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.features import expm1
from forecast.restless import FARTHEST, inputs_of

if TYPE_CHECKING:
    from forecast.raw_windows import RawWindows

FloatArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]
Floats = NDArray[np.float64]


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
