"""Fits the quantile network: passes over shuffled examples, by AdamW, with dropout.

All is numpy: the process that cuts the examples needs no torch, and a fit takes seconds, however
large the fleet. A tenth of the examples is shown without its server, so that the network has an
answer for a server that it does not know. Sources: AdamW (Loshchilov and Hutter, ICLR 2019),
dropout (Srivastava et al., JMLR 15, 2014), the mean of the weights on their way (Polyak and
Juditsky, SIAM J. Control Optim. 30, 1992).

S servers, O origins of each, H horizon, T targets, Q levels, N examples of a batch; other letters
as in `forecast.quantile_network`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.changes import spaced
from forecast.least_squares import usual_change
from forecast.quantile_network import (
    Passed,
    QuantileNetwork,
    Weights,
    forward,
    inputs_of_all,
    sigmoid,
)
from forecast.restless import inputs_of, squashed
from train.examples import Examples
from train.expert import HALF_LIFE_DAYS, OWN_SERVERS, with_fleets

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

LEAST_EXAMPLES = 256
"""With fewer, over all servers and targets, there is no network."""

_WIDTH, _EMBEDDING = 64, 8
_PASSES, _BATCH = 6, 256
_RATE, _LAST_RATE = 5e-3, 0.05
_DECAY, _DROPOUT, _NAMELESS = 0.01, 0.2, 0.1
_MEAN = 0.99
"""What the mean of the weights keeps of itself at a step."""
_WORTH, _MOST_WORTH = 0.25, 20.0
"""How much more a large unit counts than a small one, as an exponent; and at most."""
_FARTHEST_STEP = 1.0
"""The gradient's norm, at most."""
_BETAS, _TINY = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True)
class _Batch:
    """Examples, or some of them."""

    given: Float32Array
    """[N, P]"""
    wanted: Float32Array
    """[N, H] squashed changes"""
    worth: Float32Array
    """[N]"""
    server: IntArray
    """[N]"""
    target: IntArray
    """[N]"""

    def __len__(self) -> int:
        return len(self.given)

    def some(self, rows: IntArray) -> _Batch:
        """The examples of some rows."""
        return _Batch(
            self.given[rows],
            self.wanted[rows],
            self.worth[rows],
            self.server[rows],
            self.target[rows],
        )


def fit(
    examples: Examples,
    levels: Sequence[float],
    *,
    seed: int,
    own_servers: int = OWN_SERVERS,
) -> QuantileNetwork | None:
    """The network as of the examples' slot; None where there is too little to learn from.

    Examples count as those of the least-squares expert. The same examples and seed give the same
    network.
    """
    horizon = examples.daily.shape[2]
    units = [
        with_fleets(*usual_change(_values(examples, at), horizon), floor)
        for at, floor in enumerate(examples.floors)
    ]
    batch = _examples(examples, units)
    if len(batch) < LEAST_EXAMPLES:
        return None
    own = len(examples.servers) if len(examples.servers) <= own_servers else 0
    random = np.random.default_rng(seed)
    start = _fresh(batch, own, len(examples.targets), len(levels), random)
    learned = _learned(start, batch, np.asarray(levels, np.float32), random)
    return QuantileNetwork(
        as_of=examples.as_of,
        servers=examples.servers,
        targets=examples.targets,
        logs=examples.logs,
        levels=tuple(levels),
        context=examples.context,
        horizon=horizon,
        unit=np.stack(units, axis=1),
        weights=learned,
    )


def _values(examples: Examples, at: int) -> Float32Array:
    return spaced(examples.values[..., at], examples.logs[at])


def _examples(examples: Examples, units: Sequence[Float32Array]) -> _Batch:
    """Every example with all its labels, of all targets."""
    length, horizon = examples.context, examples.daily.shape[2]
    servers, origins = examples.origins.shape
    read, wanted, worth = [], [], []
    age = (examples.as_of - examples.origins) / examples.slots_per_day
    recent = 0.5 ** (age / HALF_LIFE_DAYS)
    for at, log in enumerate(examples.logs):
        values = _values(examples, at)
        last, unit = values[..., length - 1 : length], units[at][:-1, None]
        daily = spaced(examples.daily[..., at], log)
        read.append(inputs_of(values[..., :length], daily, last, unit[..., None]))
        wanted.append(squashed(values[..., length:], last, unit[..., None]))
        natural = unit * (np.exp(last[..., 0]) if log else np.ones_like(last[..., 0]))
        worth.append(_weighed(natural) * recent)
    given = inputs_of_all(read, length, horizon)
    where = np.broadcast_to(np.arange(servers)[:, None], (servers, origins))
    parts = []
    for at, each in enumerate(wanted):
        whole = np.isfinite(each).all(axis=-1) & np.isfinite(worth[at])
        target = np.full(int(whole.sum()), at)
        parts.append((given[at][whole], each[whole], worth[at][whole], where[whole], target))
    joined = [np.concatenate(part) for part in zip(*parts, strict=True)]
    mean = joined[2].mean() if len(joined[2]) else 1.0
    joined[2] = np.minimum(joined[2] / mean, _MOST_WORTH).astype(np.float32)
    return _Batch(*joined)


def _weighed(natural_SO: NDArray[Any]) -> NDArray[np.float64]:
    """What an example counts for its unit in natural units, 1 in the mean of its target."""
    with np.errstate(invalid="ignore"):
        raised = np.asarray(natural_SO, np.float64) ** _WORTH
    known = raised[np.isfinite(raised)]
    mean = known.mean() if known.size and known.mean() > 0 else 1.0
    found: NDArray[np.float64] = raised / mean
    return found


def _fresh(
    batch: _Batch, servers: int, targets: int, levels: int, random: np.random.Generator
) -> Weights:
    """Weights to begin with: all servers alike, no change, every width the same."""
    inputs, horizon = batch.given.shape[1], batch.wanted.shape[1]

    def drawn(*shape: int, scale: float) -> Float32Array:
        return random.uniform(-scale, scale, size=shape).astype(np.float32)

    def nothing(*shape: int) -> Float32Array:
        return np.zeros(shape, np.float32)

    at_first, later = 1 / math.sqrt(inputs), 1 / math.sqrt(_WIDTH)
    return Weights(
        shared=drawn(targets, _EMBEDDING, scale=0.5),
        own=drawn(servers, targets, _EMBEDDING, scale=0.1),
        embedded=drawn(_EMBEDDING, _WIDTH, scale=at_first),
        first=drawn(inputs, _WIDTH, scale=at_first),
        first_bias=nothing(_WIDTH),
        second=drawn(_WIDTH, _WIDTH, scale=later),
        second_bias=nothing(_WIDTH),
        direct=nothing(inputs, horizon),
        direct_bias=nothing(horizon),
        out=nothing(_WIDTH, horizon * levels),
        out_bias=nothing(horizon * levels),
    )


def _learned(
    start: Weights, batch: _Batch, tau_Q: Float32Array, random: np.random.Generator
) -> Weights:
    """The mean of the weights on their way through all passes."""
    now, mean = start.each(), {name: one.copy() for name, one in start.each().items()}
    moments = {name: (np.zeros_like(one), np.zeros_like(one)) for name, one in now.items()}
    steps, step = _PASSES * math.ceil(len(batch) / _BATCH), 0
    for _ in range(_PASSES):
        order = random.permutation(len(batch))
        for begin in range(0, len(order), _BATCH):
            part = batch.some(order[begin : begin + _BATCH])
            server = np.where(random.random(len(part)) < _NAMELESS, -1, part.server)
            kept = [_kept(len(part), random) for _ in range(2)]
            weights, step = Weights(**now), step + 1
            passed = forward(weights, part.given, server, part.target, kept=(kept[0], kept[1]))
            pull = _pull(part, passed, tau_Q)
            slope = gradient(weights, part.given, server, part.target, passed, kept, pull)
            now = _moved(now, slope, moments, _rate(step / steps), step)
            share = np.float32(1 - min(_MEAN, step / (step + 10)))
            for name, one in mean.items():
                one += share * (now[name] - one)
    return Weights(**mean)


def _rate(way: float) -> float:
    """After this share of the steps: along half a cosine."""
    return _RATE * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * way)))


def _kept(count: int, random: np.random.Generator) -> Float32Array:
    """Dropout's factors [N, W]."""
    drawn = random.random((count, _WIDTH), dtype=np.float32) >= _DROPOUT
    return drawn.astype(np.float32) / np.float32(1 - _DROPOUT)


def _pull(part: _Batch, passed: Passed, tau_Q: Float32Array) -> Float32Array:
    """Gradient [N, H, Q] of the mean weighed pinball loss by the quantiles."""
    over = part.wanted[..., None] < passed.quantiles
    slope = over.astype(np.float32) - tau_Q
    slope *= (part.worth / np.float32(over.size))[:, None, None]
    return slope


def gradient(
    weights: Weights,
    given_NP: Float32Array,
    server_N: IntArray,
    target_N: IntArray,
    passed: Passed,
    kept: Sequence[Float32Array],
    slope_NHQ: Float32Array,
) -> dict[str, Float32Array]:
    """Each parameter's gradient, from that of the quantiles: `forward` backwards."""
    count, _, levels = slope_NHQ.shape
    at = levels // 2
    middle = slope_NHQ.sum(axis=-1)
    apart = sigmoid(passed.raw - np.float32(1))
    raw = np.empty_like(slope_NHQ)
    raw[..., at] = middle
    raw[..., at + 1 :] = np.cumsum(slope_NHQ[..., :at:-1], axis=-1)[..., ::-1]
    raw[..., :at] = -np.cumsum(slope_NHQ[..., :at], axis=-1)
    raw[..., at + 1 :] *= apart[..., at + 1 :]
    raw[..., :at] *= apart[..., :at]
    out = raw.reshape(count, -1)
    h2 = out @ weights.out.T
    z2 = h2 * kept[1] * _silu_slope(passed.z2)
    z1 = (h2 + z2 @ weights.second.T) * kept[0] * _silu_slope(passed.z1)
    embedding = z1 @ weights.embedded.T
    shared, own = np.zeros_like(weights.shared), np.zeros_like(weights.own)
    np.add.at(shared, target_N, embedding)
    known = server_N >= 0
    if len(own):
        np.add.at(own, (server_N[known], target_N[known]), embedding[known])
    return {
        "shared": shared,
        "own": own,
        "embedded": passed.embedding.T @ z1,
        "first": given_NP.T @ z1,
        "first_bias": z1.sum(axis=0),
        "second": passed.h1.T @ z2,
        "second_bias": z2.sum(axis=0),
        "direct": given_NP.T @ middle,
        "direct_bias": middle.sum(axis=0),
        "out": passed.h2.T @ out,
        "out_bias": out.sum(axis=0),
    }


def _silu_slope(values: Float32Array) -> Float32Array:
    share = sigmoid(values)
    found: Float32Array = share * (1 + values * (1 - share))
    return found


def _moved(
    now: Mapping[str, Float32Array],
    slope: Mapping[str, Float32Array],
    moments: Mapping[str, tuple[Float32Array, Float32Array]],
    rate: float,
    step: int,
) -> dict[str, Float32Array]:
    """One step of AdamW; `moments` are changed in place."""
    norm = math.sqrt(sum(float(np.vdot(one, one)) for one in slope.values()))
    scale = np.float32(min(1.0, _FARTHEST_STEP / (norm + 1e-12)))
    first, second = _BETAS
    unbias = math.sqrt(1 - second**step) / (1 - first**step)
    moved = {}
    for name, one in now.items():
        pull, (mean, square) = slope[name] * scale, moments[name]
        mean *= np.float32(first)
        mean += np.float32(1 - first) * pull
        square *= np.float32(second)
        square += np.float32(1 - second) * pull * pull
        change = np.float32(rate * unbias) * mean / (np.sqrt(square) + np.float32(_TINY))
        moved[name] = (one * np.float32(1 - rate * _DECAY) - change).astype(np.float32)
    return moved
