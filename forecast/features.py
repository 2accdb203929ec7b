"""The arithmetic of a window: spaces, fills, centers and scales.

Pure functions of arrays. Legend: K slots, L of the context, N windows, M metrics, T targets. NaN is
a gap. Slots come first: what is summed over slots, or shifted by one number a window, then runs
over long rows of memory, and a window's sums do not depend on how many windows there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forecast.schema import Metric

FloatArray = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

_LOG_UNIT = 5.0
"""Divides logarithms of ratios that reach e^10, so that the feature stays of order 1."""
_LARGEST_LOG = 88.0
"""Above this, expm1 leaves float32."""
_FLOAT32_STEPS = 1e-6
"""Differences under this share of a value are float32 rounding (8 of its steps), not signal."""


def picked(arrays: Sequence[FloatArray], columns: Sequence[int | None]) -> Floats:
    """These columns of the last axis of each array, side by side; all NaN for None."""
    if len(arrays) == 1 and list(columns) == list(range(arrays[0].shape[-1])):
        return arrays[0].astype(np.float64)
    found = np.empty((*arrays[0].shape[:-1], len(arrays) * len(columns)))
    for number, values in enumerate(arrays):
        for place, column in enumerate(columns, number * len(columns)):
            found[..., place] = np.nan if column is None else values[..., column]
    return found


def by_slot(
    arrays_NKM: Sequence[FloatArray], columns: Sequence[int | None], metrics: Sequence[Metric]
) -> tuple[Floats, Bools]:
    """The metrics at these columns of each array, [K, N, M], and where they are known.

    In the space each metric's `transform` names; not finite becomes NaN.
    """
    count, slots, width = arrays_NKM[0].shape
    turned = np.arange(count) * slots + np.arange(slots)[:, None]
    rows = [values.reshape(count * slots, width).take(turned, axis=0) for values in arrays_NKM]
    moved = picked(rows, columns)
    seen = np.isfinite(moved)
    if not seen.all():
        np.copyto(moved, np.nan, where=~seen)
    for place, metric in enumerate(metrics):
        if metric.transform == "log1p":
            column = np.maximum(moved[..., place], 0.0)  # in one piece, which log1p is faster on
            moved[..., place] = np.log1p(column, out=column)
    return moved, seen


def expm1(logs: Floats) -> None:
    """Turn values that were read as log1p back into natural units, in place."""
    np.minimum(logs, _LARGEST_LOG, out=logs)
    np.expm1(logs, out=logs)


def forward_fill(values: Floats, seen: Bools) -> Floats:
    """Each gap of [L, ...] takes the last value seen; a leading gap the first, all gap 0.

    >>> gappy = np.array([[np.nan], [2.0], [np.nan], [5.0]])
    >>> forward_fill(gappy, np.isfinite(gappy)).ravel().tolist()
    [2.0, 2.0, 2.0, 5.0]
    """
    if seen.all():
        return values
    filled = values.reshape(len(values), -1).copy()
    here = seen.reshape(filled.shape)
    late = np.flatnonzero(~here[0])
    first = here[:, late].argmax(axis=0)
    filled[0, late] = np.where(here[first, late], filled[first, late], 0.0)
    for slot in np.flatnonzero(~here[1:].all(axis=1)) + 1:
        np.copyto(filled[slot], filled[slot - 1], where=~here[slot])
    return filled.reshape(values.shape)


def slots_since_seen(seen: Bools) -> Ints:
    """Per slot of [L, N, M]: 0 where any was seen, else slots since; from 1 before the first.

    >>> slots_since_seen(np.array([[[False]], [[True]], [[False]], [[False]]])).ravel().tolist()
    [1, 0, 1, 2]
    """
    any_seen = np.logical_or.reduce(seen, axis=2)
    slots = np.arange(len(seen), dtype=np.int32)[:, None]
    age: Ints = slots - np.maximum.accumulate(np.where(any_seen, slots, np.int32(-1)), axis=0)
    return age


def deviation(values: Floats, seen: Bools) -> Floats:
    """Population standard deviation [N, M] over the seen slots of [L, N, M]; 0 where none is."""
    count = np.maximum(seen.sum(axis=0, dtype=np.int32), 1)
    gaps = None if seen.all() else ~seen
    known = values
    if gaps is not None:
        known = values.copy()
        np.copyto(known, 0.0, where=gaps)
    off = values - _total(known) / count
    if gaps is not None:
        np.copyto(off, 0.0, where=gaps)
    spread: Floats = np.sqrt(_total(np.square(off, out=off)) / count)
    return spread


def _total(values: Floats) -> Floats:
    """Sum over the first axis, one after the other: a lone column would be summed in pairs."""
    if values[0].size == 1:
        last: Floats = np.add.accumulate(values, axis=0)[-1]
        return last
    total: Floats = values.sum(axis=0)
    return total


def share(seen: Bools) -> FloatArray:
    """Share of true cells over the last axis, which is short."""
    width = seen.shape[-1]
    count: FloatArray = np.matmul(seen.astype(np.float32), np.ones(width, np.float32))  # exact
    count /= np.float32(width)
    return count


def resolutions(center: Floats, metrics: Sequence[Metric]) -> Floats:
    """The declared resolution [N, M] in model space, at each center [N, M].

    Never under what float32 can tell apart there.
    """
    declared = np.array([metric.resolution for metric in metrics])
    moved = np.broadcast_to(declared, center.shape).copy()
    logs = is_log(metrics)
    # log1p(v + r) - log1p(v) with 1 + v = exp(center)
    moved[..., logs] = np.log1p(moved[..., logs] * np.exp(-center[..., logs]))
    finest: Floats = np.maximum(moved, _FLOAT32_STEPS * np.abs(center))
    return finest


def ceilings(highest: Floats, metrics: Sequence[Metric], growth: float) -> Floats:
    """The most [N, T] a forecast may say in natural units, from the highest value known [N, T].

    A quantile that is a little too high as a logarithm is absurd as a rate, and one such cell can
    outweigh all others of a fleet. Only targets read as log1p have a ceiling: `growth` times the
    highest value known and the resolution.
    """
    most = np.full(highest.shape, np.inf)
    for place, metric in enumerate(metrics):
        if metric.transform == "log1p":
            natural = highest[:, place].copy()
            expm1(natural)
            limit = growth * (natural + metric.resolution)
            most[:, place] = np.where(np.isfinite(natural), limit, np.inf)
    return most


def static(scale: Floats, spread: Floats, finest: Floats) -> Floats:
    """[N, 2T] the columns of `static_reals`; an unknown long-run deviation is the window's."""
    known = np.where(np.isfinite(spread) & (spread > 0), spread, scale)
    ratios = [np.log(scale / known), np.log(np.maximum(known / finest, 1.0)) / _LOG_UNIT]
    return np.concatenate(ratios, axis=1)


def squashed(scaled: Floats) -> FloatArray:
    """Linear around 0, logarithmic far out: a calm window's scale is small, its jumps are not."""
    with np.errstate(over="ignore"):
        near = scaled.astype(np.float32)
    np.arcsinh(near, out=near)
    far = ~np.isfinite(near)
    if far.any():  # beyond float32, but its logarithm is not
        near[far] = np.arcsinh(scaled[far])
    return near


def is_log(metrics: Sequence[Metric]) -> Bools:
    """[M] which metrics are read as log1p."""
    return np.array([metric.transform == "log1p" for metric in metrics], dtype=bool)
