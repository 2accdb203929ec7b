"""The quantile network: a small network of all servers and targets that is fitted anew each day.

It reads what the least-squares expert reads (`restless`), and of every target the last changes and
the signs of restlessness; it forecasts the quantiles of the change at once, the loss being theirs:

    e  = shared_t + own_st                      what target and server it is
    h1 = silu(x A + e B + a)
    h2 = h1 + silu(h1 C + c)
    o  = h2 O + o0                              [H, Q]
    middle = x D + d + o of the middle level;   each next level a softplus(o - 1) farther out

The middle level, the median of most configs, has a linear way of its own beside the hidden layers.
The loss of a quantile is the same
through any rising transform, so what is learned of squashed changes holds in natural units.

S servers, N windows, L context, H horizon, T targets, Q levels, P inputs, W width, E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.baselines import clipped
from forecast.changes import changes_of
from forecast.places import places
from forecast.restless import signs_of

if TYPE_CHECKING:
    from forecast.raw_windows import RawWindows

FloatArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MOST_EXAMPLES = 100_000
"""Of a fit, of all targets together; more would take more memory than they are worth."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The network's parameters."""

    shared: Float32Array
    """[T, E]"""
    own: Float32Array
    """[S, T, E]; nothing of servers in a large fleet."""
    embedded: Float32Array
    """[E, W] B"""
    first: Float32Array
    """[P, W] A"""
    first_bias: Float32Array
    second: Float32Array
    """[W, W] C"""
    second_bias: Float32Array
    direct: Float32Array
    """[P, H] D"""
    direct_bias: Float32Array
    out: Float32Array
    """[W, H * Q] O"""
    out_bias: Float32Array

    def each(self) -> dict[str, Float32Array]:
        """The arrays by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


@dataclass(frozen=True, slots=True)
class QuantileNetwork:
    """The fitted network as of a slot; a function of the values up to that slot and of a seed."""

    as_of: int
    servers: tuple[str, ...]
    targets: tuple[str, ...]
    logs: tuple[bool, ...]
    levels: tuple[float, ...]
    context: int
    horizon: int
    unit: Float32Array = field(repr=False)
    """[S+1, T] the usual change over half a horizon; the fleet's last."""
    weights: Weights = field(repr=False)


def quantile_network(
    raw: RawWindows,
    network: QuantileNetwork,
    targets: Sequence[str],
    *,
    lower: FloatArray | None = None,
    upper: FloatArray | None = None,
) -> Float32Array:
    """Quantiles [N, H, T, Q] in natural units; they rise with the level.

    NaN only where copy-last is; limits as `least_squares` has them. `lower` and `upper` [T] clip.

    Raises ValueError when the network is for other targets or windows.
    """
    if tuple(targets) != network.targets or not {*targets} <= {*raw.metrics}:
        raise ValueError(
            f"quantile network: it forecasts {network.targets}, asked for {tuple(targets)} "
            f"of windows with {raw.metrics}"
        )
    if raw.context != network.context or raw.horizon > network.horizon:
        raise ValueError(
            f"quantile network: windows of {raw.context} and {raw.horizon} slots are not the "
            f"network's {network.context} and {network.horizon}"
        )
    rows = places(raw.servers, network.servers)
    read = changes_of(
        raw,
        targets,
        rows,
        units_ST=network.unit,
        logs=network.logs,
        horizon=network.horizon,
    )
    given = Read.of([one.inputs() for one in read], network.context, network.horizon)
    found = np.empty((len(raw), raw.horizon, len(targets), len(network.levels)), np.float32)
    for at, one in enumerate(read):
        passed = forward(network.weights, given.inputs(at), rows, np.full(len(rows), at))
        found[:, :, at] = one.natural(passed.quantiles)
    return clipped(found, lower, upper)


@dataclass(frozen=True, slots=True)
class Read:
    """What the network reads of windows, [..., P] for each target."""

    own: Sequence[Float32Array]
    """Of each target, as `restless.inputs_of` makes them."""
    signs: Sequence[Float32Array]
    """Of each target's restlessness."""
    every: Float32Array
    """Of every target the last 6th of the context, and the signs."""

    @classmethod
    def of(cls, own: Sequence[Float32Array], context: int, horizon: int) -> Self:
        """From each target's own inputs."""
        sixth = max(1, context // 6)
        signs = [signs_of(each, context, horizon) for each in own]
        last = [each[..., max(0, context - 1 - sixth) : context - 1] for each in own]
        parts = [part for pair in zip(last, signs, strict=True) for part in pair]
        return cls(own, signs, np.concatenate(parts, axis=-1))

    def inputs(self, target: int, where: BoolArray | None = None) -> Float32Array:
        """[..., P] of one target, or [N, P] of the windows that are true."""
        parts = [self.own[target], self.signs[target], self.every]
        if where is not None:
            parts = [part[where] for part in parts]
        return np.concatenate(parts, axis=-1)


@dataclass(frozen=True, slots=True)
class Passed:
    """What one pass made on its way; the fit goes back through it."""

    embedding: Float32Array
    """[N, E]"""
    z1: Float32Array
    h1: Float32Array
    z2: Float32Array
    h2: Float32Array
    """[N, W] each"""
    raw: Float32Array
    """[N, H, Q] o"""
    quantiles: Float32Array
    """[N, H, Q] of squashed changes; they rise."""


def forward(
    weights: Weights,
    given_NP: Float32Array,
    server_N: IntArray,
    target_N: IntArray,
    *,
    kept: tuple[Float32Array, Float32Array] | None = None,
) -> Passed:
    """One pass; a server of -1 has nothing of its own. `kept` [N, W] twice: dropout's factors."""
    embedding: Float32Array = weights.shared[target_N]
    known = server_N >= 0
    if len(weights.own):
        own = weights.own[np.where(known, server_N, 0), target_N]
        embedding = embedding + np.where(known[:, None], own, np.float32(0))
    z1: Float32Array = given_NP @ weights.first
    z1 += embedding @ weights.embedded
    z1 += weights.first_bias
    h1: Float32Array = z1 * sigmoid(z1)
    if kept is not None:
        h1 *= kept[0]
    z2: Float32Array = h1 @ weights.second + weights.second_bias
    step = z2 * sigmoid(z2)
    if kept is not None:
        step *= kept[1]
    h2: Float32Array = h1 + step
    levels = weights.out.shape[1] // weights.direct.shape[1]
    out: Float32Array = h2 @ weights.out + weights.out_bias
    raw = out.reshape(len(given_NP), weights.direct.shape[1], levels)
    middle: Float32Array = given_NP @ weights.direct + weights.direct_bias + raw[..., levels // 2]
    return Passed(embedding, z1, h1, z2, h2, raw, _levels(middle, raw))


def sigmoid(values: Float32Array) -> Float32Array:
    """1 / (1 + exp(-x)), without an overflow."""
    found: Float32Array = np.float32(0.5) * (np.tanh(np.float32(0.5) * values) + np.float32(1))
    return found


def _levels(middle_NH: Float32Array, raw_NHQ: Float32Array) -> Float32Array:
    """The quantiles, from the middle level outwards."""
    at = raw_NHQ.shape[-1] // 2
    apart = np.logaddexp(np.float32(0), raw_NHQ - np.float32(1))
    below = np.cumsum(apart[..., :at][..., ::-1], axis=-1)[..., ::-1]
    above = np.cumsum(apart[..., at + 1 :], axis=-1)
    middle = middle_NH[..., None]
    return np.concatenate([middle - below, middle, middle + above], axis=-1)
