"""The online update: a few passes of a copy of the champion over windows drawn from the stream."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from forecast.errors import TrainingError
from train.steps import (
    Device,
    Lessons,
    Precision,
    evaluation_loss,
    lessons,
    refuse_absent,
    refuse_not_finite,
    repeatable,
    training_loss,
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
    finite: bool
    """Always true: an update that is not finite raises TrainingError instead."""


class Learner:
    """Makes challengers; holds settings only, so updates do not depend on each other.

    Each update starts from the given model with a fresh Adam optimiser (Kingma and Ba 2015):
    moments of an update that the gate refused must not live on in the next one.
    """

    def __init__(
        self,
        *,
        learning_rate: float,
        epochs: int,
        batch_size: int,
        gradient_clip: float,
        threads: int,
        device: Device = "cpu",
        precision: Precision = "float32",
    ) -> None:
        """`gradient_clip` bounds the norm of each step's gradient, `threads` torch's threads."""
        if min(learning_rate, gradient_clip) <= 0 or min(epochs, batch_size, threads) < 1:
            raise ValueError(
                f"learning_rate {learning_rate} and gradient_clip {gradient_clip} must be above 0, "
                f"epochs {epochs}, batch_size {batch_size} and threads {threads} at least 1"
            )
        self._learning_rate = learning_rate
        self._epochs = epochs
        self._batch_size = batch_size
        self._gradient_clip = gradient_clip
        self._threads = threads
        self._device = device
        self._precision = precision

    def update(self, model: Model, windows: RawWindows, *, seed: int) -> tuple[Model, UpdateReport]:
        """A copy of `model` that has made `epochs` passes over the labelled `windows`.

        The given model is never touched; the copy comes back on the CPU. Raises TrainingError when
        no window has a label, or when a loss, a gradient or a weight is not finite.
        """
        refuse_absent(self._device)
        prepared = lessons(windows, model.spec.window)
        levels = model.spec.quantiles
        with repeatable(seed=seed, threads=self._threads):
            challenger = model.copy()
            challenger.network.to(self._device)
            before = evaluation_loss(challenger.network, prepared, levels)
            if math.isnan(before):
                raise TrainingError(f"no label to learn from in {len(prepared)} windows")
            steps = self._learn(challenger, prepared)
            refuse_not_finite(challenger.network)
            after = evaluation_loss(challenger.network, prepared, levels)
            challenger.network.to("cpu")
        report = UpdateReport(
            loss_before=before,
            loss_after=after,
            steps=steps,
            windows=len(prepared),
            learning_rate=self._learning_rate,
            finite=True,
        )
        return challenger, report

    def _learn(self, model: Model, given: Lessons) -> int:
        """Train in place; the number of steps made."""
        network, steps = model.network.train(), 0
        weights = list(network.parameters())
        optimizer = torch.optim.Adam(weights, lr=self._learning_rate, fused=True)
        for _ in range(self._epochs):
            order = torch.randperm(len(given)).numpy()
            for start in range(0, len(order), self._batch_size):
                batch = given.select(order[start : start + self._batch_size])
                loss = training_loss(network, batch, model.spec.quantiles, self._precision)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                norm = torch.nn.utils.clip_grad_norm_(weights, self._gradient_clip)
                if not torch.isfinite(norm):
                    raise TrainingError(f"the gradient's norm is {norm.item()} at step {steps}")
                optimizer.step()
                steps += 1
        network.eval()
        return steps
