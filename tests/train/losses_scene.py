"""Losses as tests want them: a fleet of two roles, a day of hours, and models so much better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from train.paired import Losses

TARGETS, ROLES = ("cpu_usage_ratio", "network_kb_per_s"), ("db", "web")
CELLS = 100.0


def losses(
    worse: Mapping[str, float], *, noise: float = 0.0, blocks: int = 24, seed: int = 0
) -> Losses:
    """By model how much worse than 1 it is throughout, with `noise` of its own in each block.

    All cover what they should.
    """
    draws = np.random.default_rng(seed)
    shape = (blocks, len(ROLES), len(TARGETS))
    hard = draws.gamma(4.0, 5.0, shape)  # hours are hard or easy for all of them
    return Losses(
        targets=TARGETS,
        roles=ROLES,
        windows=blocks * 8,
        nominal=0.8,
        size_BRT=np.full(shape, 50.0),
        cells_BRT=np.full(shape, CELLS),
        pinball={
            name: hard * (1 + by) * (1 + noise * draws.normal(size=shape))
            for name, by in worse.items()
        },
        inside={name: np.full(shape, 0.8 * CELLS) for name in worse},
    )


def only(given: Losses, model: str, role: str, by: float) -> Losses:
    """The losses with one model so much worse in one role."""
    changed = given.pinball[model].copy()
    changed[:, ROLES.index(role)] *= 1 + by
    return replace(given, pinball={**given.pinball, model: changed})


def covering(given: Losses, model: str, share: float) -> Losses:
    """The losses with so many of the labels inside a model's interval."""
    inside = np.full(given.cells_BRT.shape, share * CELLS)
    return replace(given, inside={**given.inside, model: inside})
