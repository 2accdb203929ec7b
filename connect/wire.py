"""Rows as they go over the wire, made in bulk from columns.

A row is `{"timestamp": epoch seconds, "server": name, "role": ..., "timezone": ..., "metrics":
{name: value}}`, what `forecast.schema.validate_rows` reads. A gap is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]


def head(server: str, *, role: str = "", timezone: str = "") -> Row:
    """What every row of one server says besides time and values; what is empty is not said."""
    said = {"server": server, "role": role, "timezone": timezone}
    return {field: text for field, text in said.items() if text}


def wire_rows(
    heads: Sequence[Row],
    seconds: Sequence[float],
    metrics: Sequence[str],
    values: NDArray[np.floating[Any]],
) -> list[Row]:
    """One row for each line of `values` [rows, metrics] that holds a number; NaN is a gap.

    >>> wire_rows([head("web-01")], [300], ["cpu", "memory"], np.array([[0.5, np.nan]]))
    [{'timestamp': 300, 'server': 'web-01', 'metrics': {'cpu': 0.5}}]
    """
    seen = ~np.isnan(values)
    rows = []
    for said, second, numbers, whole, some in zip(
        heads, seconds, values.tolist(), seen.all(axis=1), seen.any(axis=1), strict=True
    ):
        if not some:
            continue
        named = dict(zip(metrics, numbers, strict=True))
        if not whole:
            named = {name: number for name, number in named.items() if number == number}
        rows.append({"timestamp": second, **said, "metrics": named})
    return rows
