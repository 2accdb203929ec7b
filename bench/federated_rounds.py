"""Rounds of a federation in the bench: what updates go into, and how the rate falls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from bench.federated_fleet import Fleet
from train.federated.aggregator import Aggregator
from train.federated.frame import FloatArray, GlobalModel
from train.federated.site import Site
from train.federated.update import UpdateMeta
from train.federated.verdict import SiteScore, VerdictRules, decide


class Merging(Protocol):
    """What a round's updates go into: the product's aggregator, or the plain mean."""

    def begin(self) -> GlobalModel:
        """What the sites start the round from."""
        ...

    def offer(self, meta: UpdateMeta, delta: FloatArray) -> None:
        """Take an update."""
        ...

    def end(self) -> None:
        """Make the step."""
        ...


class PlainMean:
    """Federated averaging as it is written: the mean by samples, and nothing is looked at."""

    def __init__(self, start: FloatArray) -> None:
        self._vector, self._version = start.copy(), 0
        self._sum, self._samples = np.zeros(start.shape, np.float64), 0

    def begin(self) -> GlobalModel:
        """The newest mean."""
        return GlobalModel(self._version, self._vector.copy())

    def offer(self, meta: UpdateMeta, delta: FloatArray) -> None:
        """Add a delta, weighed by its samples."""
        self._sum += meta.samples * delta.astype(np.float64)
        self._samples += meta.samples

    def end(self) -> None:
        """Move by the mean delta, where one came."""
        if self._samples:
            with np.errstate(over="ignore"):
                self._vector = (self._vector + self._sum / self._samples).astype(np.float32)
            self._version += 1
        self._sum[:] = 0
        self._samples = 0


class Product:
    """The product's aggregator, and its verdict where `judge` asks the sites."""

    def __init__(
        self,
        aggregator: Aggregator,
        judge: Callable[[GlobalModel], Sequence[SiteScore]] | None,
        rules: VerdictRules,
    ) -> None:
        self._aggregator, self._judge, self._rules = aggregator, judge, rules
        self._now_s = 0.0

    def begin(self) -> GlobalModel:
        """The last accepted version."""
        return GlobalModel(self._aggregator.version, self._aggregator.shared())

    def offer(self, meta: UpdateMeta, delta: FloatArray) -> None:
        """Offer it; what is refused is left out."""
        self._aggregator.offer(meta, delta)

    def end(self) -> None:
        """The round ends, at its deadline where updates are missing."""
        aggregator = self._aggregator
        aggregator.maybe_step(self._now_s)
        self._now_s += aggregator.settings.deadline_s
        if aggregator.candidate() is None:
            aggregator.maybe_step(self._now_s)
        found = aggregator.candidate()
        if found is None or self._judge is None:
            return
        candidate = GlobalModel(*found)
        if decide(self._judge(candidate), self._rules, version=candidate.version).accept:
            aggregator.accept_step(candidate.version)
        else:
            aggregator.reject_step(candidate.version)


def federation(given: Fleet, sites: Sequence[Site], merging: Merging, *, seed: int) -> GlobalModel:
    """The global model after the plan's rounds, which end with the days of learning."""
    rounds, horizon = given.plan.rounds, given.spec.window.horizon
    for turn in range(rounds):
        start, slot = merging.begin(), given.end - (rounds - 1 - turn) * horizon
        for place, site in enumerate(sites):
            site.take(start)
            drawn = (seed * rounds + turn) * len(sites) + place
            merging.offer(*site.learn(slot, seed=drawn, rate=rate_of(turn, rounds)))
        merging.end()
    return merging.begin()


def rate_of(turn: int, rounds: int) -> float:
    """Of the peak rate: half in the first round, then down along a cosine.

    >>> [round(rate_of(turn, 4), 2) for turn in range(4)]
    [0.52, 0.87, 0.52, 0.17]
    """
    return min(1.0, (turn + 1) / 2) * 0.5 * (1 + math.cos(math.pi * turn / rounds)) + 0.02
