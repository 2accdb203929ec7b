"""The arithmetic of a window: spaces, fills, centers and scales, calendar.

Pure functions of arrays. Legend: N windows, L slots, M metrics. NaN is a gap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecast.schema import Metric
from forecast.window_spec import WindowSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_LOG_UNIT = 5.0
"""Divides logarithms of ratios that reach e^10, so that the feature stays of order 1."""
_LARGEST_LOG = 88.0
"""Above this, expm1 leaves float32."""
_FLOAT32_STEPS = 1e-6
"""Differences under this share of a value are float32 rounding (8 of its steps), not signal."""


def observed(values: Floats) -> Bools:
    """Where a value is known."""
    return np.asarray(np.isfinite(values))


def model_space(values: Floats, metrics: Sequence[Metric]) -> Floats:
    """Values [..., M] in the space each metric's `transform` names; not finite becomes NaN."""
    moved = np.where(observed(values), values, np.nan)
    logs = _is_log(metrics)
    moved[..., logs] = np.log1p(np.maximum(moved[..., logs], 0.0))
    return moved


def natural_space(values: Floats, metrics: Sequence[Metric]) -> Floats:
    """The inverse of `model_space` on the last axis."""
    moved = values.copy()
    logs = _is_log(metrics)
    moved[..., logs] = np.expm1(np.minimum(moved[..., logs], _LARGEST_LOG))
    return moved


def forward_fill(values: Floats) -> Floats:
    """Each gap of [N, L, M] takes the last value seen; a leading gap the first, all gap 0.

    >>> forward_fill(np.array([[[np.nan], [2.0], [np.nan], [5.0]]])).ravel().tolist()
    [2.0, 2.0, 2.0, 5.0]
    """
    seen = observed(values)
    slots = np.arange(values.shape[1])[None, :, None]
    last = np.maximum.accumulate(np.where(seen, slots, -1), axis=1)
    first = np.argmax(seen, axis=1)[:, None, :]
    filled = np.take_along_axis(values, np.where(last < 0, first, last), axis=1)
    return np.where(np.logical_or.reduce(seen, axis=1, keepdims=True), filled, 0.0)


def slots_since_seen(seen: Bools) -> Ints:
    """Per slot of [N, L]: 0 where something was seen, else slots since; from 1 before the first.

    >>> slots_since_seen(np.array([[False, True, False, False]])).tolist()
    [[1, 0, 1, 2]]
    """
    slots = np.arange(seen.shape[1])[None, :]
    age: Ints = slots - np.maximum.accumulate(np.where(seen, slots, -1), axis=1)
    return age


def deviation(values: Floats) -> Floats:
    """Population standard deviation [N, M] over the seen slots of [N, L, M]; 0 where none is."""
    seen = observed(values)
    count = np.maximum(seen.sum(axis=1), 1)
    mean = np.where(seen, values, 0.0).sum(axis=1) / count
    squares = np.where(seen, values - mean[:, None, :], 0.0) ** 2
    spread: Floats = np.sqrt(squares.sum(axis=1) / count)
    return spread


def resolutions(center: Floats, metrics: Sequence[Metric]) -> Floats:
    """The declared resolution [N, M] in model space, at each center [N, M].

    Never under what float32 can tell apart there.
    """
    declared = np.array([metric.resolution for metric in metrics])
    moved = np.broadcast_to(declared, center.shape).copy()
    logs = _is_log(metrics)
    # log1p(v + r) - log1p(v) with 1 + v = exp(center)
    moved[..., logs] = np.log1p(moved[..., logs] * np.exp(-center[..., logs]))
    finest: Floats = np.maximum(moved, _FLOAT32_STEPS * np.abs(center))
    return finest


def ceilings(known: Floats, metrics: Sequence[Metric], growth: float) -> Floats:
    """The most [N, T] that a forecast may say in natural units, from values [N, K, T] known of it.

    A quantile that is a little too high as a logarithm is absurd as a rate, and one such cell can
    outweigh all others of a fleet. Only targets read as log1p have a ceiling: `growth` times the
    highest value known and the resolution.
    """
    highest = natural_space(np.fmax.reduce(known, axis=1), metrics)
    resolution = np.array([metric.resolution for metric in metrics])
    limited = _is_log(metrics) & observed(highest)
    return np.where(limited, growth * (highest + resolution), np.inf)


def calendar(slots: Ints, timezones: Sequence[str], step_seconds: int) -> Floats:
    """Sine and cosine of the local time of day and of week, [N, L, 4], for slots [N, L].

    Each row is read in its own zone, so that a clock change moves the 06:00 job with the clock.
    Raises KeyError (zoneinfo's) for a zone nobody knows.
    """
    features = np.empty((*slots.shape, 4))
    zones = np.array(timezones, dtype=object)
    for zone in sorted(set(timezones)):
        rows = np.flatnonzero(zones == zone)
        distinct, where = np.unique(slots[rows], return_inverse=True)
        features[rows] = _cycles(distinct, zone, step_seconds)[where.reshape(-1, slots.shape[1])]
    return features


def static(scale: Floats, spread: Floats, finest: Floats, spec: WindowSpec) -> Floats:
    """[N, L+H, 2T] the columns of `static_reals`; an unknown long-run deviation is the window's."""
    targets = list(spec.target_columns)
    known = np.where(np.isfinite(spread) & (spread > 0), spread, scale)
    ratios = [np.log(scale / known), np.log(np.maximum(known / finest, 1.0)) / _LOG_UNIT]
    static_NC = np.concatenate([ratio[:, targets] for ratio in ratios], axis=1)
    return np.repeat(static_NC[:, None], spec.context + spec.horizon, axis=1)


def unknown(context_NLM: Floats, scaled_NLM: Floats, spec: WindowSpec) -> Floats:
    """[N, L+H, U] the columns of `unknown_reals`, 0 in the horizon."""
    seen = observed(context_NLM)
    seen_targets = np.logical_or.reduce(seen[:, :, list(spec.target_columns)], axis=2)
    age = slots_since_seen(seen_targets)
    share = 1.0 - seen.mean(axis=2, keepdims=True)
    known = np.concatenate([squashed(scaled_NLM), np.log1p(age)[:, :, None], share], axis=2)
    return np.pad(known, ((0, 0), (0, spec.horizon), (0, 0)))


def squashed(scaled: Floats) -> Floats:
    """Linear around 0, logarithmic far out: a calm window's scale is small, its jumps are not."""
    return np.arcsinh(scaled)


def _cycles(slots: Ints, zone: str, step_seconds: int) -> Floats:
    """[S, 4] calendar features of the starts of these slots in one zone."""
    moments = pd.to_datetime(slots * step_seconds, unit="s", utc=True).tz_convert(zone)
    seconds = moments.tz_localize(None).as_unit("s").asi8
    day, week = 86_400, 7 * 86_400
    thursday = 3 * day  # 1970-01-01: weeks are counted from Monday
    turns = np.stack([seconds % day / day, (seconds + thursday) % week / week], axis=1)
    angle = 2.0 * np.pi * np.repeat(turns, 2, axis=1)
    angle[:, ::2] = np.sin(angle[:, ::2])
    angle[:, 1::2] = np.cos(angle[:, 1::2])
    return angle


def _is_log(metrics: Sequence[Metric]) -> Bools:
    return np.array([metric.transform == "log1p" for metric in metrics], dtype=bool)
