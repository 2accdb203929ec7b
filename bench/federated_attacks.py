"""Bad sites: what a quarter of them does to the global model, under each rule of merging.

The federation goes on from a good global model for a few rounds, in which the bad sites send
something else than what they learned. Loss is that of the honest sites on later windows. What a bad
site says of a candidate is a lie too: that it is far better than what was.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.federated_fleet import Fleet
from bench.federated_rounds import Merging, PlainMean, Product
from bench.federated_scores import day_sums, mean_wql
from forecast.clock import slots_per_day
from forecast.errors import TrainingError
from train.federated.aggregator import Aggregator
from train.federated.frame import FloatArray, GlobalModel
from train.federated.settings import AggregatorSettings
from train.federated.site import Site
from train.federated.update import UpdateMeta
from train.federated.verdict import SiteScore, VerdictRules

ATTACKS = ("none", "nan", "sign_flip", "times_100", "stale", "constant")
RULES = ("fedavg", "mean", "median", "trimmed_mean", "default")
ROBUST: Mapping[str, float] = {"trim": 0.25}
"""Of the trimmed mean: a quarter of the sites at each end of every coordinate."""
ROUNDS = 2
_RATE = 0.3
EVERY = 4
"""One site of so many is bad."""
_DAYS = 2
"""Of the scored windows."""

Updates = list[tuple[UpdateMeta, FloatArray]]


class Attacked:
    """The same rounds under every rule and attack; what honest sites learn is learned once."""

    def __init__(
        self, given: Fleet, sites: Sequence[Site], start: GlobalModel, fresh: FloatArray, seed: int
    ) -> None:
        """`start` is the good model, `fresh` [size] weights from which stale deltas were made."""
        self._given, self._sites, self._start, self._seed = given, sites, start, seed
        self._bad = frozenset(site.name for site in sites[::EVERY])
        self._learned: dict[tuple[int, str], Updates] = {}
        self._stale = {
            site.name: self._update(site, GlobalModel(start.version, fresh.copy()), 0)[1]
            for site in sites
            if site.name in self._bad
        }
        end = given.first + _DAYS * slots_per_day(given.schema.step_seconds)
        self._asked = {}
        for site in sites:
            if site.name not in self._bad:
                raw = given.tested(site.servers)
                self._asked[site.name] = raw.select(raw.origin < end)

    def table(self) -> dict[str, dict[str, float]]:
        """The honest sites' mean WQL by rule and attack; NaN where forecasts were not finite."""
        return {rule: {attack: self._loss(rule, attack) for attack in ATTACKS} for rule in RULES}

    def _loss(self, rule: str, attack: str) -> float:
        merging = self._merging(rule, lies=attack != "none")
        spoil = self._spoiler(attack)
        for turn in range(ROUNDS):
            base = merging.begin()
            if not np.isfinite(base.vector).all():
                return math.nan
            for meta, delta in self._honest(base, turn):
                bad = attack != "none" and meta.site in self._bad
                merging.offer(meta, spoil(meta, delta) if bad else delta)
            merging.end()
        return self._wql(merging.begin())

    def _merging(self, rule: str, *, lies: bool) -> Merging:
        if rule == "fedavg":
            return PlainMean(self._start.vector)
        quorum = len(self._sites) // 2
        kinds: dict[str, dict[str, Any]] = {
            "mean": {},
            "median": {"rule": "median"},
            "trimmed_mean": {"rule": "trimmed_mean", **ROBUST},
            "default": {"rule": "trimmed_mean", **ROBUST, "gated": True},
        }
        settings = AggregatorSettings(updates=len(self._sites), quorum=quorum, **kinds[rule])
        layout = self._sites[0].frame.layout
        aggregator = Aggregator(layout, self._start.vector, settings=settings)
        judge = None if rule != "default" else lambda given: self._scores(given, lies=lies)
        return Product(aggregator, judge, VerdictRules(quorum=quorum))

    def _scores(self, candidate: GlobalModel, *, lies: bool) -> list[SiteScore]:
        end, told = self._given.end, []
        for site in self._sites:
            if lies and site.name in self._bad:
                made = SiteScore(
                    site=site.name,
                    version=candidate.version,
                    samples=10**6,
                    change=-1.0,
                    lower=-1.0,
                    upper=-1.0,
                    blocks=24,
                )
            else:
                made = site.score(candidate, end, seed=self._seed)
            told.append(made)
        return told

    def _spoiler(self, attack: str) -> Callable[[UpdateMeta, FloatArray], FloatArray]:
        changes: dict[str, Callable[[UpdateMeta, FloatArray], FloatArray]] = {
            "none": lambda _, delta: delta,
            "nan": lambda _, delta: np.full_like(delta, np.nan),
            "sign_flip": lambda _, delta: -delta,
            "times_100": lambda _, delta: 100 * delta,
            "stale": lambda meta, _: self._stale[meta.site],
            "constant": lambda _, delta: np.full_like(delta, 1.0),
        }
        return changes[attack]

    def _honest(self, base: GlobalModel, turn: int) -> Updates:
        """What every site learns from this model in this round."""
        digest = hashlib.sha256(base.vector.tobytes()).hexdigest()
        if (turn, digest) not in self._learned:
            found: Updates = []
            for site in self._sites:
                try:
                    found.append(self._update(site, base, turn))
                except TrainingError:  # the model is so far off that no training stays finite
                    continue
            self._learned[turn, digest] = found
        return [
            (replace(meta, base_version=base.version), delta)
            for meta, delta in self._learned[turn, digest]
        ]

    def _update(self, site: Site, base: GlobalModel, turn: int) -> tuple[UpdateMeta, FloatArray]:
        site.take(base)
        slot = self._given.end - (ROUNDS - 1 - turn)
        return site.learn(slot, seed=1000 * self._seed + turn, rate=_RATE)

    def _wql(self, model: GlobalModel) -> float:
        if not np.isfinite(model.vector).all():
            return math.nan
        given, sums = self._given, []
        for site in self._sites:
            if site.name in self._bad:
                continue
            site.take(model)
            asked = self._asked[site.name]
            answer = site.predict(site.members()["global"], asked)
            sums.append(
                day_sums(
                    asked,
                    answer,
                    given.schema.targets,
                    given.spec.quantiles,
                    first=given.first,
                    days=_DAYS,
                )
            )
        return mean_wql(np.stack(sums))


def worst(table: Mapping[str, Mapping[str, float]], rule: str) -> tuple[float | None, int]:
    """The largest rise of the loss by an attack, of those that left forecasts; how many left none.

    A loss that is not finite is of a model that cannot forecast at all.
    """
    clean = table[rule]["none"]
    rises = [table[rule][attack] / clean - 1 for attack in ATTACKS if attack != "none"]
    finite = [rise for rise in rises if math.isfinite(rise)]
    return (max(finite) if finite else None), len(rises) - len(finite)
