"""The online update: a few passes of a copy of the champion over windows drawn from the stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forecast.errors import TrainingError
from forecast.model import pinball_losses
from train.checkpoint import digest, digest_of
from train.moving import moving, quantiles
from train.passes import Bools, Passes, Saving
from train.recipes import Part, Recipe
from train.steps import (
    Device,
    Lessons,
    Precision,
    lessons,
    refuse_absent,
    refuse_not_finite,
    repeatable,
    weighed_losses,
)

if TYPE_CHECKING:
    from forecast.model import Model
    from forecast.windows import RawWindows


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """How an update went. The same update gives the same report, so it holds no duration."""

    loss_before: float
    """Scaled, weighed pinball loss of the given model over the update's windows."""
    loss_after: float
    """The same of the updated one."""
    steps: int
    windows: int
    learning_rate: float
    """Of the first step."""
    lowest_learning_rate: float
    finite: bool
    """Always true: an update that is not finite raises TrainingError instead."""
    moving: Part
    moved_weights: int
    """How many numbers moved."""
    drifted: bool
    """Whether it came after a confirmed drift."""
    losses: Mapping[str, float]
    """Means over the steps, by part: `pinball`, and each penalty that was on."""


@dataclass(frozen=True, slots=True)
class Update:
    """A challenger, how its training went, and what the given model lost before it."""

    model: Model
    report: UpdateReport
    window_losses: NDArray[np.float32]
    """[N] mean pinball loss of the given model over each window's known labels, without dropout, in
    units of the window's scale; NaN where no label is known."""


class Learner:
    """Makes challengers; holds settings only, so updates do not depend on each other.

    Each update starts from the given model with a fresh Adam optimiser (Kingma and Ba 2015):
    moments of an update that the gate refused must not live on in the next one.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        threads: int,
        device: Device = "cpu",
        precision: Precision = "float32",
    ) -> None:
        """`threads` bounds torch's threads."""
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self._recipe = recipe
        self._threads = threads
        self._device = device
        self._precision = precision

    @classmethod
    def of(
        cls,
        settings: Mapping[str, Any],
        *,
        device: Device = "cpu",
        precision: Precision = "float32",
    ) -> Self:
        """From `threads` and the fields of a recipe by name."""
        plain = dict(settings)
        threads = plain.pop("threads")
        return cls(Recipe(**plain), threads=threads, device=device, precision=precision)

    def update(
        self,
        model: Model,
        windows: RawWindows,
        *,
        seed: int,
        drifted: bool = False,
        replayed: Bools | None = None,
        saving: Saving | None = None,
    ) -> Update:
        """A copy of `model` that has made the recipe's passes over the labelled `windows`.

        `drifted`: a drift was confirmed, so the rate is the recipe's for that, and the model is no
        teacher any more. `replayed` [N] says which windows come from further back than what is to
        be learned; unset, all are taken for both. The given model is never touched; the copy comes
        back on the CPU. On one CPU the same arguments give the same bits, also when the update went
        on from a checkpoint of its own.

        Raises TrainingError when no window has a label, or when a loss, a gradient or a weight is
        not finite.
        """
        refuse_absent(self._device)
        recipe, levels = self._recipe, model.spec.quantiles
        given = lessons(windows, model.spec.window)
        if not given.seen():
            raise TrainingError(f"no label to learn from in {len(given)} windows")
        past = np.ones(len(given), np.bool_) if replayed is None else replayed
        with repeatable(seed=seed, threads=self._threads):
            challenger = model.copy()
            part = moving(
                recipe.moving, challenger, given, device=self._device, precision=self._precision
            )
            first = quantiles(part, given)
            passes = Passes(part, given, levels, recipe, drifted=drifted)
            passes.hold_back(first, past, windows.origin)
            job = self._digest(model, windows, past, seed=seed, drifted=drifted)
            passes.run(job, saving or Saving())
            refuse_not_finite(challenger.whole)
            last = quantiles(part, given)
            challenger.whole.to("cpu")
        report = UpdateReport(
            loss_before=_mean(first, given, levels),
            loss_after=_mean(last, given, levels),
            steps=passes.step,
            windows=len(given),
            learning_rate=recipe.rate(0, drifted=drifted),
            lowest_learning_rate=min(recipe.rate(n, drifted=drifted) for n in range(passes.step)),
            finite=True,
            moving=recipe.moving,
            moved_weights=sum(each.numel() for each in part.weights.values()),
            drifted=drifted,
            losses={name: total / passes.step for name, total in passes.losses.items()},
        )
        return Update(challenger, report, _by_window(first, given, levels))

    def _digest(
        self, model: Model, windows: RawWindows, past: Bools, *, seed: int, drifted: bool
    ) -> str:
        """Of all that the update depends on."""
        weights = [tensor.numpy(force=True) for tensor in model.weights().values()]
        read = digest_of([*weights, windows.daily, windows.weekly, windows.spread])
        start = [read, asdict(self._recipe), self._threads]
        about = [*start, seed, drifted, past.tolist()]
        return digest([model.spec.to_json(), *about], windows)


def _mean(found_NHTQ: Tensor, given: Lessons, levels: tuple[float, ...]) -> float:
    """Weighed pinball loss over all known labels."""
    total = float(weighed_losses(found_NHTQ, given, levels).sum(dtype=torch.float64))
    return total / given.seen()


def _by_window(
    found_NHTQ: Tensor, given: Lessons, levels: tuple[float, ...]
) -> NDArray[np.float32]:
    target_NHT = torch.from_numpy(given.windows.target).to(found_NHTQ.device)
    losses = pinball_losses(found_NHTQ, target_NHT, levels).sum((1, 2)).numpy(force=True)
    seen = np.isfinite(given.windows.target).sum((1, 2))
    means: NDArray[np.float32] = np.where(seen, losses / np.maximum(seen, 1), np.nan)
    return means.astype(np.float32)
