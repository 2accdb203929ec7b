"""Sites of a tiny network, whose windows come from where a test says."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from forecast.model import build
from forecast.schema import Schema
from forecast.windows import RawWindows
from tests.train.windows_scene import METRICS, TARGETS, spec, windows
from train.federated.frame import WHOLE_NETWORK, Frame, GlobalModel, SiteSettings
from train.federated.partition import ROLE_TABLE, Layout
from train.federated.site import Site
from train.recipes import Recipe

SCHEMA = Schema("servers", 300, METRICS, TARGETS)
SHARED = Recipe(learning_rate=0.01, epochs=1, batch_size=16, gradient_clip=1.0)
OWN = Recipe(moving="adapter", learning_rate=0.02, epochs=4, batch_size=16, gradient_clip=1.0)
AS_OF = 11_000


class Windows:
    """A site's windows: of one rhythm, or of none."""

    def __init__(self, seed: int = 0, *, empty: bool = False) -> None:
        self._seed, self._empty = seed, empty
        self.asked: list[dict[str, object]] = []

    def draw(self, *, as_of, hours, count, seed, holdout_hours, only=None) -> RawWindows:
        self.asked.append({"as_of": as_of, "count": count, "only": only})
        first = as_of - 12 * holdout_hours - 200
        rows = np.random.default_rng(seed).choice(150, 0 if self._empty else count, replace=False)
        return windows(150, seed=self._seed, first=first).select(rows)

    def holdout(self, *, as_of, hours, every, only=None) -> RawWindows:
        count = 0 if self._empty else hours * 12
        made = windows(hours * 12, seed=self._seed, first=as_of - hours * 12)
        return made.select(np.arange(0, count, every))


@cache
def untrained(seed: int) -> dict[str, torch.Tensor]:
    """Fresh weights; building them takes longer than a test should."""
    return dict(build(spec(), seed=seed).state_dict())


@cache
def frame(rules=WHOLE_NETWORK) -> Frame:
    """What the sites of a test have in common."""
    given = spec()
    tables = {ROLE_TABLE: given.window.roles}
    return Frame(SCHEMA, given, Layout.of(untrained(0), rules=rules, categories=tables), tables)


def site(name: str = "a", seed: int = 0, *, rules=WHOLE_NETWORK, source=None, **given) -> Site:
    """A site that has taken nothing yet."""
    one = frame(rules)
    start = one.layout.private(untrained(0))
    settings = SiteSettings(hours=24, windows=48, holdout_hours=2, own_windows=64)
    return Site(
        name,
        one,
        source or Windows(seed),
        start=start,
        **{"shared": SHARED, "own": OWN, "settings": settings, **given},
    )


def fresh(seed: int = 0, version: int = 0, rules=WHOLE_NETWORK) -> GlobalModel:
    """A global model with untrained weights."""
    one = frame(rules)
    return GlobalModel(version, one.layout.flatten(untrained(seed), categories=one.categories))
