"""What the least-squares expert reads of a window: changes, and signs of how restless it is.

L context, H horizon; leading axes are the windows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]

SIGNS = 8
FARTHEST = 12.0
"""Squashed changes end here: 80,000 units."""


def inputs_of(
    context: Float32Array, daily: Float32Array, last: Float32Array, unit: FloatArray
) -> Float32Array:
    """Inputs [..., L-1 + H + 2 spans + 1] of windows [..., L] and their yesterdays [..., H].

    Each slot of the context and each step's yesterday less `last` [..., 1], in units of `unit`
    [..., 1], squashed; the lowest and highest of the context over its last 12th, 6th, half and
    whole; and 1. A gap in the context has the value before it; what has none, and an unknown
    yesterday, is no change.

    >>> line = np.array([[1.0, np.nan, 3.0]], np.float32)
    >>> one = np.ones((1, 1), np.float32)
    >>> inputs_of(line, np.array([[np.nan]], np.float32), one * 3, one).round(2)[0, :5]
    array([-1.44, -1.44,  0.  ,  0.  ,  0.  ], dtype=float32)
    """
    changes = squashed(filled(context), last, unit)
    np.copyto(changes, 0.0, where=np.isnan(changes))
    yesterday = squashed(daily, last, unit)
    np.copyto(yesterday, 0.0, where=np.isnan(yesterday))
    parts = [changes[..., :-1], yesterday]
    for span in spans(context.shape[-1]):
        late = changes[..., -span:]
        parts += [late.min(-1, keepdims=True), late.max(-1, keepdims=True)]
    parts.append(np.ones_like(changes[..., :1]))
    return np.concatenate(parts, axis=-1).astype(np.float32)


def squashed(values: Float32Array, last: Float32Array, unit: FloatArray) -> Float32Array:
    """Changes from `last` in units, by arcsinh; NaN where a value is, and never beyond `FARTHEST`.

    One absurd value must not spoil the sums of a fleet.
    """
    with np.errstate(over="ignore"):
        changes = np.arcsinh((values - last) / unit)
    found: Float32Array = np.clip(changes, -FARTHEST, FARTHEST, out=changes).astype(np.float32)
    return found


def spans(context: int) -> tuple[int, ...]:
    """How many slots back the lowest and highest are sought.

    >>> spans(72), spans(3)
    ((6, 12, 36, 72), (1, 2, 3))
    """
    return tuple(sorted({max(1, round(context / part)) for part in (12, 6, 2, 1)}))


def signs_of(inputs: Float32Array, context: int, horizon: int) -> Float32Array:
    """Signs of restlessness [..., 8] from the inputs of the windows.

    Mean size of a step over the last 3 slots, a 6th of the context and all of it; mean distance
    from the newest value over that 6th and of yesterday's; the range over the 6th and the whole;
    and 1.
    """
    back = inputs[..., : context - 1]
    newest = np.zeros_like(inputs[..., :1])
    line = np.concatenate([back, newest], axis=-1)
    steps = np.abs(np.diff(line, axis=-1)) if context > 1 else newest
    sixth = max(1, round(context / 6))
    late = line[..., -sixth:]
    signs = [
        steps[..., -3:].mean(-1),
        steps[..., -sixth:].mean(-1),
        steps.mean(-1),
        np.abs(late).mean(-1),
        np.abs(inputs[..., context - 1 : context - 1 + horizon]).mean(-1),
        late.max(-1) - late.min(-1),
        line.max(-1) - line.min(-1),
        np.ones(line.shape[:-1], np.float32),
    ]
    return np.stack(signs, axis=-1)


def filled(values: Float32Array) -> Float32Array:
    """Each gap along the last axis takes the value before it."""
    seen = ~np.isnan(values)
    if seen.all():
        return values
    newest = np.maximum.accumulate(np.where(seen, np.arange(values.shape[-1]), 0), axis=-1)
    return np.take_along_axis(values, newest, axis=-1)
