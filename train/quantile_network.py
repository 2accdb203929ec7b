"""Fits the quantile network: passes over shuffled examples, by AdamW, with dropout.

All is numpy: the process that cuts the examples needs no torch, and a fit takes seconds, however
large the fleet. A tenth of the examples is shown without its server, so that the network has an
answer for a server that it does not know. Sources: dropout (Srivastava et al., JMLR 15, 2014),
the mean of the weights on their way (Polyak and Juditsky, SIAM J. Control Optim. 30, 1992).

S servers, O origins of each, H horizon, T targets, Q levels, N examples of a batch; other letters
as in `forecast.quantile_network`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forecast.changes import spaced, usual_change
from forecast.least_squares import half_life
from forecast.quantile_network import (
    MOST_EXAMPLES,
    Passed,
    QuantileNetwork,
    Read,
    Weights,
    forward,
)
from forecast.restless import filled, inputs_of, squashed
from train.descent import gradient, moved
from train.examples import Examples
from train.expert import OWN_SERVERS, with_fleets

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
"""How much more a large unit counts than the usual one, as an exponent; and at most."""


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
    examples, horizon = thinned(examples), examples.daily.shape[2]
    batch, unit_ST = _examples(examples)
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
        unit=unit_ST,
        weights=learned,
    )


def thinned(examples: Examples) -> Examples:
    """The same with fewer origins where there are very many targets: the newest, evenly."""
    servers, origins = examples.origins.shape
    every = -(-servers * origins * len(examples.targets) // MOST_EXAMPLES)
    if every <= 1:
        return examples
    while math.gcd(every, examples.slots_per_day) > 1:
        every += 1  # else only some times of the day would be left
    kept = np.arange(origins - 1, -1, -every)[::-1]
    return replace(
        examples,
        origins=examples.origins[:, kept],
        values=examples.values[:, kept],
        daily=examples.daily[:, kept],
    )


def _examples(examples: Examples) -> tuple[_Batch, Float32Array]:
    """Every example with all its labels, one target after the other; the units [S+1, T]."""
    length, horizon = examples.context, examples.daily.shape[2]
    age = examples.as_of - examples.origins
    recent = 0.5 ** (age / half_life(examples.slots_per_day))
    units, own, wanted, worth = [], [], [], []
    for at, (log, floor) in enumerate(zip(examples.logs, examples.floors, strict=True)):
        values = spaced(examples.values[..., at], log)
        units.append(with_fleets(*usual_change(values, horizon), floor))
        # What a forecast reads where the newest value is missing: the one before it.
        last = filled(values[..., :length])[..., -1:]
        unit = units[-1][:-1, None, None]
        daily = spaced(examples.daily[..., at], log)
        own.append(inputs_of(values[..., :length], daily, last, unit))
        newest = values[..., length - 1 : length]
        wanted.append(squashed(values[..., length:], newest, unit))
        natural = np.asarray(np.log(unit) + (newest if log else 0 * newest), np.float64)
        worth.append(_worth(natural[..., 0]) * recent)
    read = Read.of(own, length, horizon)
    whole = [np.asarray(np.isfinite(one).all(axis=-1)) for one in wanted]
    counts = [int(one.sum()) for one in whole]
    ends = np.cumsum(counts)
    width = own[0].shape[-1] + read.signs[0].shape[-1] + read.every.shape[-1]
    given = np.empty((sum(counts), width), np.float32)
    for at, (end, count) in enumerate(zip(ends, counts, strict=True)):
        given[end - count : end] = read.inputs(at, whole[at])
    weighed = np.concatenate([one[where] for one, where in zip(worth, whole, strict=True)])
    weighed /= weighed.mean() if weighed.size else 1.0
    batch = _Batch(
        given=given,
        wanted=np.concatenate([one[where] for one, where in zip(wanted, whole, strict=True)]),
        worth=weighed.astype(np.float32),
        server=np.concatenate([np.nonzero(where)[0] for where in whole]),
        target=np.repeat(np.arange(len(counts)), counts),
    )
    return batch, np.stack(units, axis=1)


def _worth(logarithm_SO: NDArray[np.float64]) -> NDArray[np.float64]:
    """What an example counts for its unit in natural units, given as a logarithm.

    1 for what is usual, and never more than `_MOST_WORTH`: one absurd value must not leave all
    others without a say.
    """
    known = logarithm_SO[np.isfinite(logarithm_SO)]
    usual = np.median(known) if known.size else 0.0
    most = math.log(_MOST_WORTH)
    found: NDArray[np.float64] = np.exp(np.minimum(_WORTH * (logarithm_SO - usual), most))
    return np.nan_to_num(found)


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
            now = moved(now, slope, moments, _rate(step / steps), step, decay=_DECAY)
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
