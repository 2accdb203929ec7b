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

from forecast.baselines import (
    BaselineTables,
    clipped,
    columns_of,
    or_copy_last,
    sorted_quantile,
)

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
    columns = columns_of(raw, tables, targets).metrics
    context_NTL = np.moveaxis(raw.values[:, : raw.context, columns], 1, 2)
    own = sorted_quantile(context_NTL, np.asarray(tables.levels, np.float64)).astype(np.float32)
    own[2 * (~np.isnan(context_NTL)).sum(-1) < raw.context] = np.nan
    found = np.repeat(clipped(own, lower, upper)[:, None], raw.horizon, axis=1)
    return or_copy_last(found, raw, tables, targets, lower=lower, upper=upper)
