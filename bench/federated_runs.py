"""The runs behind the bench of federated learning: every way to forecast, on the same windows.

local        each site trains a network from nothing on its own windows
local_pair   two of those, of two seeds, mixed as ours are: more steps in all than ours makes
fedavg       rounds of plain federated averaging: one network for all
personal     the same network with a correction of each site's own
federated    ours: each server's mix of fedavg, personal and local, by recent loss
central      one network on all sites' windows: what the federation does without
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from actors.federation import begin
from bench.federated_attacks import Attacked
from bench.federated_fleet import Fleet, Plan, fleet
from bench.federated_rounds import PlainMean, federation
from bench.federated_scores import day_sums
from forecast.metrics import Float64Array, FloatArray
from forecast.model import Model
from forecast.windows import RawWindows
from train.buffer import Buffer
from train.federated.frame import Frame, GlobalModel, SiteSettings
from train.federated.mixture import mixed
from train.federated.site import Site
from train.pretrain import pretrain
from train.recipes import Recipe

PEAK_RATE = 1e-2
SHARED = Recipe(learning_rate=PEAK_RATE, epochs=1, batch_size=32, gradient_clip=1.0)
OWN = Recipe(
    moving="adapter",
    learning_rate=3e-3,
    epochs=5,
    batch_size=64,
    gradient_clip=1.0,
    warm_restart_steps=80,
)
WAYS = ("local", "local_pair", "fedavg", "personal", "federated", "central")
HOLDOUT_HOURS, NEW_HOLDOUT_HOURS = 24, 6
_LOCAL_WINDOWS, _CENTRAL_WINDOWS = 6400, 12800


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one plan gave, seed by seed."""

    plan: Plan
    seeds: tuple[int, ...]
    sums: tuple[Mapping[str, Float64Array], ...]
    """By way to forecast [S, D, T, 2]; see `federated_scores.day_sums`."""
    new_sums: tuple[Mapping[str, Float64Array], ...]
    """The same of the new sites; empty without any."""
    cpu_s: Mapping[str, float]
    """By way, over all seeds."""


@dataclass(frozen=True, slots=True)
class _Run:
    """One seed's networks."""

    seed: int
    merged: GlobalModel
    central: Model
    sites: Sequence[Site]
    newcomers: Sequence[Site]


def outcome(data: Path, plan: Plan, seeds: Sequence[int]) -> Outcome:
    """Every way to forecast with every seed, in this process."""
    torch.set_num_threads(1)
    given = fleet(data, plan)
    clock = _Clock()
    runs = [_trained(given, seed, clock) for seed in seeds]
    sums, new_sums = [], []
    for run, other in zip(runs, (*runs[1:], runs[0]), strict=True):
        sums.append(_scored(given, run.sites, other.sites, run.central))
        if run.newcomers:
            new_sums.append(_scored(given, run.newcomers, other.newcomers, run.central, new=True))
    clock.lap("answers")
    return Outcome(plan, tuple(seeds), tuple(sums), tuple(new_sums), clock.spent)


def attacked(data: Path, plan: Plan, seed: int) -> dict[str, dict[str, float]]:
    """WQL by rule and attack after a few rounds with bad sites; see `federated_attacks`."""
    torch.set_num_threads(1)
    given = fleet(data, replace(plan, new_sites=0))
    frame, fresh = begin(given.schema, given.spec, seed=seed)
    sites = [_site(given, frame, given.buffer, names, new=False) for names in given.sites]
    merged = federation(given, sites, PlainMean(fresh), seed=seed)
    return Attacked(given, sites, merged, fresh, seed).table()


def _trained(given: Fleet, seed: int, clock: _Clock) -> _Run:
    frame, fresh = begin(given.schema, given.spec, seed=seed)
    sites = [_site(given, frame, given.buffer, names, new=False) for names in given.sites]
    newcomers = [_site(given, frame, given.newcomers, names, new=True) for names in given.new_sites]
    for site in (*sites, *newcomers):
        site.local = alone(given, site, seed=seed)
    clock.lap("local")
    merged = federation(given, sites, PlainMean(fresh), seed=seed)
    clock.lap("fedavg")
    for site in (*sites, *newcomers):
        site.take(merged)
        site.adapt(given.end, seed=seed)
    clock.lap("personal")
    central = _central(given, sites, seed=seed)
    clock.lap("central")
    return _Run(seed, merged, central, sites, newcomers)


class _Clock:
    """CPU seconds of this process, by what they were spent on."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._began = time.process_time()

    def lap(self, name: str) -> None:
        """What was spent since the last lap."""
        now = time.process_time()
        self.spent[name] = self.spent.get(name, 0.0) + now - self._began
        self._began = now


def _site(given: Fleet, frame: Frame, source: Buffer, names: Sequence[str], *, new: bool) -> Site:
    """A site; a new one knows a day, and holds the last quarter of it out."""
    plan = given.plan
    settings = SiteSettings(
        hours=24 if new else given.hours,
        windows=plan.steps * plan.batch,
        holdout_hours=NEW_HOLDOUT_HOURS if new else HOLDOUT_HOURS,
    )
    return Site(
        f"site-{names[0]}",
        frame,
        source,
        start={},
        shared=SHARED,
        own=OWN,
        settings=settings,
        servers=names,
    )


def alone(given: Fleet, site: Site, *, seed: int) -> Model:
    """A network of a site's own windows: the product's base training, with early stopping."""
    plan = given.plan
    windows = site.windows(given.end, count=_LOCAL_WINDOWS, seed=seed)
    kept = site.held_out(given.end)
    return _trained_on(given, windows, kept, batch=plan.batch, steps=plan.local_steps, seed=seed)


def _central(given: Fleet, sites: Sequence[Site], *, seed: int) -> Model:
    plan, count = given.plan, _CENTRAL_WINDOWS // len(sites)
    windows = RawWindows.concat([site.windows(given.end, count=count, seed=seed) for site in sites])
    kept = RawWindows.concat([site.held_out(given.end) for site in sites])
    return _trained_on(
        given, windows, kept, batch=2 * plan.batch, steps=plan.central_steps, seed=seed
    )


def _trained_on(
    given: Fleet, windows: RawWindows, kept: RawWindows, *, batch: int, steps: int, seed: int
) -> Model:
    """A network from nothing on windows; `kept` say when to stop."""
    made, _ = pretrain(
        given.spec,
        windows,
        kept,
        epochs=50,
        batch_size=batch,
        learning_rate=PEAK_RATE,
        patience=5,
        max_steps=steps,
        seed=seed,
        threads=1,
    )
    return made


def _scored(
    given: Fleet,
    sites: Sequence[Site],
    others: Sequence[Site],
    central: Model,
    *,
    new: bool = False,
) -> dict[str, Float64Array]:
    """Every way's sums [S, D, T, 2]; `others` are the same sites with another seed."""
    found: dict[str, list[Float64Array]] = {}
    for site, other in zip(sites, others, strict=True):
        known, asked = site.held_out(given.end), given.tested(site.servers, new=new)
        models: dict[str, Model] = {str(name): model for name, model in site.members().items()}
        models |= {"central": central, "second": _local(other)}
        before = {name: site.predict(model, known) for name, model in models.items()}
        after = {name: site.predict(model, asked) for name, model in models.items()}

        mix = partial(_mixed, given, known, asked, before, after)
        answers = {
            "local": after["local"],
            "local_pair": mix("local", "second"),
            "fedavg": after["global"],
            "personal": after["personal"],
            "federated": mix("global", "personal", "local"),
            "central": after["central"],
        }
        for name, answer in answers.items():
            sums = day_sums(
                asked,
                answer,
                given.schema.targets,
                given.spec.quantiles,
                first=given.first,
                days=given.plan.test_days,
            )
            found.setdefault(name, []).append(sums)
    return {name: np.stack(each) for name, each in found.items()}


def _mixed(
    given: Fleet,
    known: RawWindows,
    asked: RawWindows,
    before: Mapping[str, FloatArray],
    after: Mapping[str, FloatArray],
    *names: str,
) -> FloatArray:
    """Some members' mix for the asked windows, having learned from the known ones before them."""
    then, now = ({name: each[name] for name in names} for each in (before, after))
    targets, levels = given.schema.targets, given.spec.quantiles
    return mixed(known, then, asked, now, targets=targets, levels=levels)


def _local(site: Site) -> Model:
    assert site.local is not None
    return site.local
