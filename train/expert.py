"""Fits the least-squares expert: two regressions that forget, and the quantiles of their errors.

S servers, O origins of each, L context, H horizon, T targets, Q levels, P inputs, R signs of
restlessness. What is fitted has rows for S servers and a last one for whoever they do not name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.baselines import MIN_RESIDUALS, sorted_quantile
from forecast.changes import spaced, usual_change
from forecast.least_squares import LeastSquaresTables, expected, half_life
from forecast.restless import inputs_of, signs_of, squashed
from train.examples import Examples
from train.moments import Moments

FloatArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]
Floats = NDArray[np.float64]
IntArray = NDArray[np.int64]

OWN_SERVERS = 256
"""Fleets up to this size have weights for each server, pulled to the fleet's; others only those."""

_LARGEST_UNIT = 1e30
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""In units of the inputs' mean square; which is best is tried on stretches that are left out."""
_STRETCHES = 6
_PULL, _SCALE_PULL = 10.0, 0.1
_LEAST_FREE = 0.05
"""An error grows to twenty times at most for what its example brought in."""
_BORROWED = 100.0
"""So many errors of the fleet stand beside a server's own ones in its quantiles."""


def fit(
    examples: Examples,
    levels: Sequence[float],
    *,
    half_life_slots: float | None = None,
    own_servers: int = OWN_SERVERS,
) -> LeastSquaresTables:
    """The expert as of the examples' slot.

    An example without its newest value or with a gap in its labels does not count. Without any
    example the tables say: no change, with certainty.
    """
    forgetting = 0.5 ** (1 / (half_life_slots or half_life(examples.slots_per_day)))
    age = (examples.as_of - examples.origins).astype(np.float64)
    own = len(examples.servers) <= own_servers
    found = [
        _fit_target(examples, place, age, forgetting, np.asarray(levels, np.float64), own)
        for place in range(len(examples.targets))
    ]
    arrays = [np.stack(parts, axis=1).astype(np.float32) for parts in zip(*found, strict=True)]
    unit, weights, scales, usual, quantiles = arrays
    return LeastSquaresTables(
        as_of=examples.as_of,
        servers=examples.servers,
        targets=examples.targets,
        logs=examples.logs,
        levels=tuple(levels),
        context=examples.context,
        horizon=examples.daily.shape[2],
        unit=unit,
        weights=weights,
        scales=scales,
        usual=usual,
        quantiles=quantiles,
    )


def _fit_target(
    examples: Examples, place: int, age_SO: Floats, forgetting: float, levels: Floats, own: bool
) -> tuple[FloatArray, ...]:
    """The tables' arrays of one target, without their axis T and in their order."""
    length, log = examples.context, examples.logs[place]
    values = spaced(examples.values[..., place], log)
    daily = spaced(examples.daily[..., place], log)
    servers, origins, horizon = daily.shape
    unit = with_fleets(*usual_change(values, horizon), examples.floors[place])
    last = values[..., length - 1 : length]
    scale = unit[:-1, None, None]
    inputs = inputs_of(values[..., :length], daily, last, scale)
    signs = signs_of(inputs, length, horizon)
    change = squashed(values[..., length:], last, scale)
    counts = np.asarray(np.isfinite(change).all(axis=-1))
    age = np.where(counts, age_SO, np.inf)
    change[~counts] = 0.0

    def parts(given: FloatArray) -> FloatArray:
        """By server, where each has weights of its own; else all as one."""
        return given if own else given.reshape(1, servers * origins, *given.shape[2:])

    def moments_of(given: Float32Array, wanted: Float32Array) -> Moments:
        group = servers if own else 1
        size = given.shape[-1]
        made = Moments(group=group, inputs=size, outputs=horizon, forgetting=forgetting)
        made.add(parts(given), parts(wanted), parts(age))
        return made

    def solved(moments: Moments, ridge: float, pull: float) -> Float32Array:
        """Weights [S+1 or 1, ., H], the fleet's last."""
        together = moments.pooled(ridge=ridge)
        alone = moments.own(together, pull=pull) if own else together[:0]
        both = [alone, together[None]] if own else [together[None]]
        return np.concatenate(both).astype(np.float32)

    row = slice(0, servers) if own else slice(0, 1)
    ridge = _best_ridge(inputs, change, age, forgetting)
    moments = moments_of(inputs, change)
    weights = solved(moments, ridge, _PULL)
    share = moments.leverage(parts(inputs), parts(age), ridge=ridge, pull=_PULL if own else None)
    # As if the example had not been there: few examples are followed too well.
    free = np.clip(1.0 - share.reshape(servers, origins, 1), _LEAST_FREE, 1.0)
    error = (change - inputs @ weights[row]) / free.astype(np.float32)
    size = np.where(counts[..., None], np.abs(error), 0.0)
    scales = solved(moments_of(signs, size), _RIDGES[0], _SCALE_PULL)
    usual = _blended(size.sum(1), counts.sum(1)[:, None])
    relative = error / expected(signs @ scales[row], usual[:-1, None])
    relative[~counts] = np.nan
    quantiles = _error_quantiles(relative, levels)
    return unit, weights, scales, usual, quantiles


def _best_ridge(
    inputs_SOP: Float32Array, change_SOH: Float32Array, age_SO: Floats, forgetting: float
) -> float:
    """That of `_RIDGES` with the smallest error on stretches of time left out in turn.

    Where one begins it shares some slots with the one before.
    """
    servers, origins, size = inputs_SOP.shape
    stretches = min(_STRETCHES, origins)
    if stretches < 2:
        return _RIDGES[-1]
    length = origins // stretches

    def apart(given: FloatArray) -> FloatArray:
        """[stretches, examples, ...] of [S, O, ...], without the oldest that do not go in."""
        late = given[:, origins - length * stretches :]
        split = late.reshape(servers, stretches, length, *given.shape[2:])
        return np.moveaxis(split, 1, 0).reshape(stretches, servers * length, *given.shape[2:])

    given, wanted, age = apart(inputs_SOP), apart(change_SOH), apart(age_SO)
    moments = Moments(group=stretches, inputs=size, outputs=wanted.shape[-1], forgetting=forgetting)
    moments.add(given, wanted, age)
    weight = moments.weight(age)
    errors = []
    for ridge in _RIDGES:
        square = np.square(wanted - given @ moments.others(ridge=ridge).astype(np.float32))
        errors.append(float((square.sum(-1) * weight).sum()))
    return _RIDGES[int(np.argmin(errors))]


def with_fleets(change_S: Float32Array, pairs_S: IntArray, floor: float) -> Float32Array:
    """[S+1] each server's usual change, the fleet's median where it is not known, and last."""
    known = pairs_S >= MIN_RESIDUALS
    typical = np.median(change_S[known]) if known.any() else 0.0
    every = np.append(np.where(known, change_S, typical), typical)
    found: Float32Array = np.clip(every, floor, _LARGEST_UNIT).astype(np.float32)
    return found


def _blended(total_SH: FloatArray, count_S1: IntArray) -> Float32Array:
    """[S+1, H] means, with the fleet's as if from `_BORROWED` more; the fleet's last."""
    fleet = total_SH.sum(0) / max(1, int(count_S1.sum()))
    own = (total_SH + _BORROWED * fleet) / (count_S1 + _BORROWED)
    return np.concatenate([own, fleet[None]]).astype(np.float32)


def _error_quantiles(relative_SOH: FloatArray, levels: Floats) -> FloatArray:
    """[S+1, H, Q] of each server's errors and, `_BORROWED` times, of the fleet's; those last."""
    by_step = np.ascontiguousarray(np.moveaxis(relative_SOH, 2, 0))
    fleet = np.nan_to_num(sorted_quantile(by_step.reshape(len(by_step), -1), levels))
    count = np.isfinite(by_step).sum(-1).T[..., None]
    own = np.nan_to_num(np.moveaxis(sorted_quantile(by_step, levels), 0, 1))
    blended = (count * own + _BORROWED * fleet) / (count + _BORROWED)
    return np.concatenate([blended, fleet[None]])
