"""Guess how a metric should be declared from its name and the numbers seen.

Names follow the habit of Prometheus: the unit is the last part. A bound is taken from the name
alone and only if the numbers keep it, never from the numbers: the largest value so far is no
limit for the next one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.schema import Metric

# Suffix, unit, lower and upper bound; the first that fits holds.
_UNITS: tuple[tuple[str, str, float | None, float | None], ...] = (
    ("_ratio", "ratio", 0.0, 1.0),
    ("_percent", "percent", 0.0, 100.0),
    ("_bytes_per_s", "bytes/s", 0.0, None),
    ("_kb_per_s", "kB/s", 0.0, None),
    ("_mb_per_s", "MB/s", 0.0, None),
    ("_per_s", "1/s", 0.0, None),
    ("_bytes", "bytes", 0.0, None),
    ("_seconds", "s", 0.0, None),
    ("_ms", "ms", 0.0, None),
    ("_celsius", "celsius", None, None),
)
_RESOLUTIONS = {"ratio": 1e-3, "percent": 0.1}
_TAIL = 5.0
_LOG_MATTERS = 10.0


def infer_metric(name: str, values: NDArray[np.floating[Any]]) -> Metric:
    """The declaration of a metric from its name and the finite numbers `values` [n], n > 0.

    Rates and what has a heavy tail work in log1p, if never negative. The resolution is a
    thousandth of the whole for ratios and percentages, about a hundredth of the middle number
    above 0 for a log1p metric, else of the range that nine tenths of the numbers take.

    >>> infer_metric("cpu_usage_ratio", np.array([0.1, 0.9])).upper
    1.0
    >>> infer_metric("disk_write_kb_per_s", np.array([0.0, 5.0, 900.0])).transform
    'log1p'
    """
    if name.endswith("_total"):
        return Metric(name, kind="counter", slot_rule="rate", lower=0.0, transform="log1p")
    unit, lower, upper = _declared(name, values)
    low, p05, middle, p95, p99 = (float(q) for q in np.quantile(values, (0, 0.05, 0.5, 0.95, 0.99)))
    never_negative = lower == 0 or (lower is None and low >= 0)
    heavy = p99 - middle > _TAIL * (middle - p05) and p99 >= _LOG_MATTERS
    rate = unit.endswith("/s") and p99 >= _LOG_MATTERS
    if upper is None and never_negative and (heavy or rate):
        resolution = _hundredth(float(np.median(values[values > 0])))
        return Metric(name, unit=unit, lower=0.0, resolution=resolution, transform="log1p")
    resolution = _RESOLUTIONS.get(unit) or _hundredth(p95 - p05)
    return Metric(name, unit=unit, lower=lower, upper=upper, resolution=resolution)


def _hundredth(of: float) -> float:
    """The power of ten nearest to a hundredth; 0.001 of nothing."""
    return 10.0 ** round(math.log10(of / 100)) if of > 0 else 1e-3


def _declared(
    name: str, values: NDArray[np.floating[Any]]
) -> tuple[str, float | None, float | None]:
    for suffix, unit, lower, upper in _UNITS:
        if name.endswith(suffix):
            if lower is not None and values.min() < lower:
                lower = None
            if upper is not None and values.max() > upper:
                upper = None
            return unit, lower, upper
    return "", None, None
