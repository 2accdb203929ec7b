"""What a trainer is asked for, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from forecast.artifact import Artifact


@dataclass(frozen=True, slots=True)
class BaseJob:
    """Train a model in full on what was known at `slot`.

    A first one is the `base`; a `retrain` has a champion, `parent`, whose weights it begins from
    only where it is given them.
    """

    update_id: str
    slot: int
    seed: int
    kind: Literal["base", "retrain"] = "base"
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class UpdateJob:
    """Let the version `parent` learn from what was known at `slot`."""

    update_id: str
    slot: int
    seed: int
    parent: int
    drifted: bool = False
    """Whether a drift was confirmed since the parent learned."""


@dataclass(frozen=True, slots=True)
class Result:
    """A finished job: the challenger and how its training went."""

    update_id: str
    kind: Literal["base", "update", "retrain", "federated"]
    artifact: Artifact
    report: Mapping[str, Any]
    window_losses: NDArray[np.float32] | None = field(default=None, compare=False)
    """[N] what the parent lost on each window of an update; see `train.learner.Update`."""
