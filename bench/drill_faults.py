"""A trainer that hands over what it was told to: the bad updates of `make drill`.

It is the fleet's trainer in every other respect, in the same actor, asked and judged by the same
controller: what it hands over is an artifact like any other, made from the champion's weights.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import safetensors.numpy
import torch

from actors.trainer import TrainerActor
from forecast.artifact import Artifact, pack, unpack
from forecast.canonical import sha256
from forecast.errors import NothingNew
from forecast.model import Model, with_weights
from forecast.windows import RawWindows
from train.jobs import Result, UpdateJob
from train.learner import Learner
from train.paired import measure, wql
from train.recipes import Recipe

Kind = Literal["nan", "worse", "role", "same", "slow"]
_HALVINGS = 6
_TIMES = 6.0
"""What a label is multiplied with where learning is to go wrong."""
_HASTY = Recipe(learning_rate=1e-2, epochs=4, batch_size=32, gradient_clip=1.0)
_THOROUGH = replace(_HASTY, epochs=60)
"""Long enough that a small network tells one role from the others."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the next update is to be."""

    kind: Kind
    """`nan`: not finite. `worse`: by `share`. `role`: ruined for `role`, better for all others.
    `same`: the parent again. `slow`: trained as ever, after `seconds` in which nothing happens."""
    share: float = 0.0
    role: str = ""
    seconds: float = 0.0


class OrderedTrainer(TrainerActor):
    """The fleet's trainer; updates are made to order, and without one there is nothing to learn.

    Before the first call of `order`, so also after its process was killed, it is the trainer that
    it inherits from.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        self._orders: deque[Order] | None = None
        self._slow = False

    async def order(self, orders: Sequence[Order]) -> None:
        """Make the next updates so, and none after them; what was ordered before is forgotten."""
        self._orders = deque(orders)

    async def slow(self) -> bool:
        """Whether a `slow` update is under way."""
        return self._slow

    def _update(self, job: UpdateJob, champion: Artifact, windows: RawWindows) -> Result:
        if self._orders is None:
            return super()._update(job, champion, windows)
        if not self._orders:
            raise NothingNew(f"{job.update_id}: nothing was ordered")
        order = self._orders.popleft()
        if order.kind == "slow":
            self._slow = True
            time.sleep(order.seconds)
            self._slow = False
            return super()._update(job, champion, windows)
        return made(order, job, champion, windows)


def made(order: Order, job: UpdateJob, champion: Artifact, windows: RawWindows) -> Result:
    """An update as ordered; the same job gives the same one."""
    parent = unpack(champion, fingerprint=None, precision=None)
    if order.kind == "worse":
        model = _worse(parent, windows, order.share, job.seed)
    elif order.kind == "role":
        model = _learned(parent, _wrong(windows, {order.role}), _THOROUGH, job.seed)
    else:
        model = parent
    lineage = {
        "kind": "update",
        "parent": job.parent,
        "update_id": job.update_id,
        "seed": job.seed,
        "slot": job.slot,
        "trained_from_slot": int(windows.origin.min()) - windows.context + 1,
        "trained_to_slot": int(windows.origin.max()) + windows.horizon,
        "windows": len(windows),
    }
    moment = datetime.fromtimestamp(job.slot * windows.step_seconds, UTC)
    artifact = pack(
        model,
        fingerprint=champion.manifest["fingerprint"],
        lineage=lineage,
        metrics={},
        probe=windows.select(np.arange(min(2, len(windows)))),
        created_at=moment.isoformat(),
    )
    if order.kind == "nan":
        artifact = _poisoned(artifact)
    return Result(job.update_id, "update", artifact, {})


def loss_of(model: Model, windows: RawWindows) -> float:
    """WQL of a model on windows with labels, the mean over targets."""
    window = model.spec.window
    forecast = {"model": model.predict(windows)}
    found, _ = wql(measure(windows, window.targets, model.spec.quantiles, forecast), "model")
    if found is None:
        raise ValueError(f"{len(windows)} windows without a label to lose on")
    return found


def _worse(parent: Model, windows: RawWindows, share: float, seed: int) -> Model:
    """The parent on its way to one that learned what is wrong, as far as it loses `share` more."""
    wrong = _learned(parent, _wrong(windows, set(windows.roles)), _HASTY, seed)
    wanted = loss_of(parent, windows) * (1 + share)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = loss_of(_between(parent, wrong, middle), windows) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return _between(parent, wrong, high)


def _wrong(windows: RawWindows, roles: set[str]) -> RawWindows:
    """The windows with labels of these roles that are `_TIMES` what they were."""
    values = windows.values.copy()
    whose = [at for at, name in enumerate(windows.roles) if name in roles]
    values[whose, windows.context :] *= _TIMES
    return replace(windows, values=values)


def _learned(parent: Model, windows: RawWindows, recipe: Recipe, seed: int) -> Model:
    return Learner(recipe, threads=1).update(parent, windows, seed=seed).model


def _between(parent: Model, other: Model, share: float) -> Model:
    """The model a share of the way from the parent to the other."""
    ends = other.network.state_dict()
    weights = {
        name: torch.lerp(each, ends[name], share)
        for name, each in parent.network.state_dict().items()
    }
    return Model(parent.spec, with_weights(parent.spec, weights), adapter=parent.adapter)


def _poisoned(artifact: Artifact) -> Artifact:
    """The artifact with one weight that is no number, and checksums that say nothing of it."""
    arrays = safetensors.numpy.load(artifact.weights)
    name = next(name for name in sorted(arrays) if name.startswith("network."))
    broken = arrays[name].copy()
    broken.flat[0] = np.nan
    data = safetensors.numpy.save({**arrays, name: broken})
    return replace(artifact, weights=data, manifest={**artifact.manifest, "sha256": sha256(data)})
