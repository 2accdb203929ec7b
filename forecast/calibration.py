"""Calibration: quantiles moved to where that share of the outcomes really lies below them.

A quantile tracker (the P term of Angelopoulos, Candes and Tibshirani, Conformal PID control for
time series prediction, NeurIPS 2023), one per server, target, group of steps and level. An offset
c, in widths of the forecast's widest interval, follows what has matured:

    issued   q' = q + c * min(width, usual)   levels put in order from the outside in
    matured  c <- c - d * clip(c) + eta * (level - [y below q'])
             usual <- the geometric mean of the widths issued of late

What was learned in calm hours is not blown up with a burst's width: hence the usual one at most.

Outcomes at a quantile lie inside the interval: a metric that often stands still has its coverage
counted that way too. What matures late moves c late; nothing is assumed of the delay. `d` lets an
offset that has no more reason go, and bounds it together with `eta`.

Legend: S servers, H horizon, T targets, Q levels, G groups of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.ensemble import step_groups
from forecast.packing import pack_fields, unpack_fields
from forecast.places import aligned, places

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

RATE = 0.01
"""eta: widths that one outcome moves an offset, at most."""

DECAY = 0.003
"""d: an offset without a reason halves in 230 slots."""

SMALL = 0.03
"""Widths up to which `d` grows with the offset: noise is let go, a real offset almost kept."""

LATELY = 0.01
"""What one slot's width counts for the usual one."""

BOUND = 1.0
"""Widths that an offset may reach: beyond that a forecast is wrong, not badly calibrated."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The offsets of one member; `learned` makes new ones, these stay as they are.

    `offsets` float32 [S, G, T, Q] are in widths, `usual` [S, G, T] is the logarithm of the usual
    one, NaN before the first.
    """

    servers: tuple[str, ...]
    groups: IntArray = field(repr=False)
    levels: tuple[float, ...]
    offsets: Float32Array = field(repr=False)
    usual: Float32Array = field(repr=False)

    @classmethod
    def fresh(cls, horizon: int, targets: int, levels: Sequence[float]) -> Self:
        """No offset for anybody yet."""
        none = np.zeros((0, 3, targets, len(levels)), np.float32)
        return cls((), step_groups(horizon), tuple(levels), none, none[..., 0])

    def among(self, servers: Sequence[str]) -> Calibration:
        """The same offsets laid out for these servers; a new one has the fleet's median offset."""
        if tuple(servers) == self.servers:
            return self
        rows = places(servers, self.servers)
        typical = np.median(self.offsets, axis=0) if self.servers else np.float32(0)
        offsets = np.zeros((len(rows), *self.offsets.shape[1:]), np.float32)
        offsets[:] = typical
        offsets[rows >= 0] = self.offsets[rows[rows >= 0]]
        usual = aligned(self.usual, self.servers, servers)
        return replace(self, servers=tuple(servers), offsets=offsets, usual=usual)

    def applied(
        self,
        servers: Sequence[str],
        values_SHTQ: Float32Array,
        *,
        resolution: NDArray[Any],
        lower: NDArray[Any],
        upper: NDArray[Any],
    ) -> Float32Array:
        """Quantiles [S, H, T, Q] with their offsets, in order and within the bounds [T].

        `resolution` [T] is the least width, in the target's unit.
        """
        known = self.among(servers)
        width = values_SHTQ[..., -1] - values_SHTQ[..., 0]
        width = np.fmin(width, np.exp(known.usual[:, self.groups]))
        width = np.maximum(width, np.asarray(resolution, np.float32))
        moved = values_SHTQ + known.offsets[:, self.groups] * width[..., None]
        return inward(np.clip(moved, lower[:, None], upper[:, None]).astype(np.float32))

    def learned(
        self,
        servers: Sequence[str],
        matured: Mapping[int, Float32Array],
        actuals_ST: NDArray[Any],
        resolution: NDArray[Any],
    ) -> Calibration:
        """The offsets after one more slot.

        `matured` has by steps ahead what was issued for this slot [S, T, Q]; `actuals_ST` is what
        came, `resolution` [T] the least width. A cell with a NaN teaches nothing.
        """
        known = self.among(servers)
        moved = np.zeros_like(known.offsets)
        count = np.zeros(moved.shape[1], np.float32)
        widths = np.zeros(moved.shape[:3], np.float32)
        actual = np.asarray(actuals_ST, np.float32)[..., None]
        for step, issued_STQ in matured.items():
            group = self.groups[step - 1]
            moved[:, group] += _errors(actual, issued_STQ, self.levels)
            count[group] += 1
            width = np.maximum(issued_STQ[..., -1] - issued_STQ[..., 0], resolution)
            widths[:, group] += np.log(width)
        seen = count > 0
        mean = moved[:, seen] / count[seen][:, None, None]
        offsets = known.offsets.copy()
        kept = offsets[:, seen]
        kept = kept - np.float32(DECAY) * np.clip(kept, -SMALL, SMALL)
        offsets[:, seen] = np.clip(kept + np.float32(RATE) * mean, -BOUND, BOUND)
        usual, found = known.usual.copy(), widths[:, seen] / count[seen][:, None]
        before = np.where(np.isnan(usual[:, seen]), found, usual[:, seen])
        after = before + np.float32(LATELY) * (found - before)
        usual[:, seen] = np.where(np.isnan(found), usual[:, seen], after)
        return replace(known, offsets=offsets, usual=usual)

    def pack(self) -> bytes:
        """The offsets as bytes, for storage."""
        return pack_fields("calibration", self)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """What `pack` wrote; raises StateError when it is damaged."""
        return cls(**unpack_fields("calibration", data))


def inward(values: Float32Array) -> Float32Array:
    """Quantiles [..., Q] in order, the outer ones kept: each lies between those outside it.

    Sorting would widen the outer interval by the noise of all the others, and with it the coverage.
    Two that have crossed meet in the middle.

    >>> inward(np.array([1.0, 0.5, 3.0], np.float32)).tolist()
    [1.0, 1.0, 3.0]
    >>> inward(np.array([3.0, 2.5, 1.0], np.float32)).tolist()
    [2.0, 2.0, 2.0]
    """
    ordered = values.copy()
    low, high = 0, ordered.shape[-1] - 1
    while low <= high:
        if low > 0:
            floor, ceiling = ordered[..., low - 1], ordered[..., high + 1]
            for place in {low, high}:
                ordered[..., place] = np.clip(ordered[..., place], floor, ceiling)
        crossed = ordered[..., low] > ordered[..., high]
        middle = ordered[..., low] + (ordered[..., high] - ordered[..., low]) / 2
        for place in {low, high}:
            ordered[..., place] = np.where(crossed, middle, ordered[..., place])
        low, high = low + 1, high - 1
    return ordered


def _errors(actual: Float32Array, issued: Float32Array, levels: Sequence[float]) -> Float32Array:
    """Level less whether the outcome lay below [S, T, Q]; 0 where unknown.

    At a lower level an outcome equal to it is not below, at an upper one it is, at 0.5 half.
    """
    tau = np.asarray(levels, np.float32)
    at = (np.sign(tau - np.float32(0.5)) + 1) / 2
    below = np.where(actual == issued, at, actual < issued)
    known = np.isfinite(actual) & np.isfinite(issued)
    found: Float32Array = np.where(known, tau - below, 0).astype(np.float32)
    return found
