"""Climatology: what lately came is what may come; a window's own quantiles at every step.

The reference forecast of verification (Wilks, Statistical Methods in the Atmospheric Sciences, 4th
ed., ch. 9), with the context as its climate. It knows no trend and no hour, and so says what the
others do not: how far a restless series wanders.

N windows, L context, H horizon, T targets, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forecast.baselines import BaselineTables, clipped, copy_last, sorted_quantile

if TYPE_CHECKING:
    from forecast.raw_windows import RawWindows

FloatArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]


def climatology(
    raw: RawWindows,
    tables: BaselineTables,
    targets: Sequence[str],
    *,
    lower: FloatArray | None = None,
    upper: FloatArray | None = None,
) -> Float32Array:
    """Quantiles [N, H, T, Q] in natural units: those of each context, the same at every step.

    A context of which less than half was observed has copy-last's. `lower` and `upper` [T] clip.
    Raises ValueError as `copy_last`.
    """
    copied = copy_last(raw, tables, targets, lower=lower, upper=upper)
    columns = [raw.metrics.index(target) for target in targets]
    context_NTL = np.moveaxis(raw.values[:, : raw.context, columns], 1, 2)
    levels = np.asarray(tables.levels, np.float64)
    own = sorted_quantile(context_NTL, levels).astype(np.float32)
    found = clipped(own, lower, upper)
    few_NT = 2 * (~np.isnan(context_NTL)).sum(-1) < raw.context
    return np.where(few_NT[:, None, :, None], copied, found[:, None])
