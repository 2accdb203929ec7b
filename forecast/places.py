"""Rows of named things in the order of other names: servers and members come and go."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def places(names: Sequence[Hashable], among: Sequence[Hashable]) -> NDArray[np.int64]:
    """Where each of `names` stands in `among`; -1 where it does not.

    >>> places(("b", "new"), ("a", "b")).tolist()
    [1, -1]
    """
    place = {name: row for row, name in enumerate(among)}
    return np.array([place.get(name, -1) for name in names], np.int64)


def aligned(
    values: NDArray[Any], among: Sequence[str], names: Sequence[str]
) -> NDArray[np.float32]:
    """Rows of `values` [among, ...] in the order of `names`; NaN for those it does not have."""
    if tuple(names) == tuple(among):
        return values
    return moved(values.astype(np.float32, copy=False), places(names, among), new=np.nan)


def moved(values: NDArray[Any], rows: NDArray[np.int64], *, new: float = 0) -> NDArray[Any]:
    """These rows of `values` [among, ...], in a new array; all `new` for -1.

    >>> moved(np.array([5, 6]), np.array([1, -1, 0])).tolist()
    [6, 0, 5]
    """
    found = np.full((len(rows), *values.shape[1:]), new, values.dtype)
    old = rows >= 0
    found[old] = values[rows[old]]
    return found
