"""Examples for the least-squares expert, cut from the grid: evenly over servers and times of day.

S servers, O origins of each, L context slots, H horizon slots, M metrics, T targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast.least_squares import MOST_WINDOWS, least_stride, reach
from train.cuts import Masker
from train.intake import Intake

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

_AT_A_TIME = 2048


@dataclass(frozen=True, slots=True)
class Examples:
    """Windows with labels to fit on, the same number of each server; natural units, NaN = gap."""

    as_of: int
    servers: tuple[str, ...]
    targets: tuple[str, ...]
    logs: tuple[bool, ...]
    """Which targets are read as log1p."""
    floors: tuple[float, ...]
    """The least change that means anything, of each target in its own space."""
    context: int
    slots_per_day: int
    origins: IntArray
    """[S, O]; no label lies after `as_of`."""
    values: Float32Array
    """[S, O, L+H, T] context and labels."""
    daily: Float32Array
    """[S, O, H, T] the value one day before each label."""


def stride_of(servers: int, slots: int, day: int, *, most: int = MOST_WINDOWS) -> int:
    """Slots between a server's origins, for at most `most` examples from so many slots.

    Coprime with the day, else only some of its times would come up.

    >>> stride_of(24, 14 * 288, 288), stride_of(3000, 14 * 288, 288)
    (7, 505)
    """
    stride = max(least_stride(day), math.ceil(servers * slots / most))
    while math.gcd(stride, day) > 1:
        stride += 1
    return stride


def examples_of(
    intake: Intake,
    *,
    as_of: int,
    context: int,
    horizon: int,
    masker: Masker | None = None,
) -> Examples:
    """Examples of every server known by `as_of`, with no value after it; masked labels are gaps.

    Origins of different servers are staggered, so that a large fleet still covers the day.
    """
    grid, roster, schema = intake.grid, intake.roster, intake.schema
    names = [state.name for state in roster.states(as_of)]
    day = roster.day
    back = reach(day, intake.history, context)
    first = max(as_of - back, roster.first_slot() or 0)
    slots = max(0, as_of - horizon - first + 1)
    stride = stride_of(len(names), slots, day)
    count = slots // stride if names else 0
    begins = as_of - horizon - np.arange(len(names)) % stride
    origins = begins[:, None] - stride * np.arange(count)[::-1]
    columns = np.array(schema.target_columns)
    shape = (len(names) * count, context + horizon, len(columns))
    values = np.empty(shape, np.float32)
    daily = np.empty((shape[0], horizon, len(columns)), np.float32)
    rows = np.repeat(roster.rows(names), count)
    ahead = np.arange(1 - context, horizon + 1)
    for start in range(0, shape[0], _AT_A_TIME):
        part = slice(start, start + _AT_A_TIME)
        chosen, origin = rows[part], origins.reshape(-1)[part, None]
        slot = origin + ahead
        values[part] = grid.gather(chosen, slot)[..., columns]
        before = slot[:, context:] - day
        found = grid.gather(chosen, before)[..., columns]
        found[before > origin] = np.nan  # a horizon longer than a day
        daily[part] = found
    if masker is not None and origins.size:
        first = int(origins.min()) + 1
        hidden = masker(names, np.arange(first, as_of + 1))
        labels = origins[:, :, None] + np.arange(1, horizon + 1)
        at = np.arange(len(names))[:, None, None], labels - first
        values[:, context:][hidden[at].reshape(-1, horizon)] = np.nan
    metrics = [schema.metric(target) for target in schema.targets]
    logs = tuple(metric.transform == "log1p" for metric in metrics)
    return Examples(
        as_of=as_of,
        servers=tuple(names),
        targets=schema.targets,
        logs=logs,
        floors=tuple(
            math.log1p(metric.resolution) if log else metric.resolution
            for metric, log in zip(metrics, logs, strict=True)
        ),
        context=context,
        slots_per_day=day,
        origins=origins,
        values=values.reshape(len(names), count, *shape[1:]),
        daily=daily.reshape(len(names), count, horizon, len(columns)),
    )
