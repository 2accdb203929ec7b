"""The passes of one update: its steps, what holds them back, and how they go on after a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forecast.errors import TrainingError
from train.checkpoint import UpdateCheckpoint, moments_of, put_back
from train.distillation import Teacher
from train.ewc import Elastic
from train.moving import Moving, Rows
from train.recipes import Recipe
from train.steps import Lessons, hide_roles, mean_loss, weighed_losses

_FISHER_BATCH = 16
"""Windows whose gradient is squared together, where the recipe names no smaller batches."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Saving:
    """How an update that may be killed is kept, and what it goes on from."""

    every: int = 1
    """Steps between two checkpoints."""
    keep: Callable[[UpdateCheckpoint], None] | None = None
    """Takes each of them."""
    resume: UpdateCheckpoint | None = None
    """Of this very update; that of another one is left alone."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"a checkpoint every {self.every} steps is none: 1 is the least")


class Passes:
    """One update under way: its place in the passes, its optimiser, and what holds it back."""

    def __init__(
        self,
        part: Moving,
        given: Lessons,
        levels: tuple[float, ...],
        recipe: Recipe,
        *,
        drifted: bool,
    ) -> None:
        self.step = 0
        self.losses: dict[str, float] = {}
        self._part, self._given, self._levels = part, given, levels
        self._recipe, self._drifted = recipe, drifted
        self._weights = list(part.weights.values())
        self._optimizer = torch.optim.Adam(self._weights, lr=recipe.learning_rate, fused=True)
        self._rest = torch.empty(0, dtype=torch.int64)
        self._springs: dict[str, Elastic] = {}
        """By their part of the loss."""
        self._teacher: Teacher | None = None

    def hold_back(self, champions: Tensor, past: Bools, origin: NDArray[np.int64]) -> None:
        """Set up the recipe's penalties, from the champion's quantiles and the windows of the past.

        Draws nothing at random.
        """
        recipe = self._recipe
        rows = np.flatnonzero(past)
        if recipe.ewc_weight and len(rows):
            ordered = rows[np.argsort(origin[rows], kind="stable")]
            self._springs["ewc"] = Elastic.of(
                self._weights,
                self._gradients(ordered),
                decay=recipe.ewc_decay,
                weight=recipe.ewc_weight,
            )
        if recipe.distillation_weight and len(rows) and not self._drifted:
            self._teacher = Teacher(champions, past, recipe.distillation_weight)
        if recipe.proximal_weight:
            self._springs["proximal"] = Elastic.even(self._weights, weight=recipe.proximal_weight)

    def run(self, job: str, saving: Saving) -> None:
        """Make all steps, or those that the checkpoint of this job did not make."""
        batches = -(-len(self._given) // self._recipe.batch_size)
        if saving.resume is not None and saving.resume.of == job:
            self._take_over(saving.resume)
        self._part.train(True)
        while self.step < self._recipe.epochs * batches:
            if not len(self._rest):
                self._rest = torch.randperm(len(self._given))
            rows = self._rest[: self._recipe.batch_size].numpy()
            self._rest = self._rest[self._recipe.batch_size :]
            self._learn(rows)
            self.step += 1
            if saving.keep is not None and self.step % saving.every == 0:
                saving.keep(self._checkpoint(job))
        self._part.train(False)

    def _learn(self, rows: Rows) -> None:
        """One step of the optimiser on a batch."""
        recipe = self._recipe
        self._optimizer.zero_grad()
        batch = self._given.select(rows)
        if self._part.reads_roles:
            hide_roles(batch)
        labels, taught = max(1, batch.seen()), self._teacher.windows(rows) if self._teacher else 0
        size = recipe.micro_batch_size or len(rows)
        for start in range(0, len(rows), size):
            some = slice(start, start + size)
            part = batch if size >= len(rows) else batch.select(np.arange(len(rows))[some])
            predicted = self._part.predict(rows[some], part.windows)
            loss = weighed_losses(predicted, part, self._levels).sum() / labels
            self._count("pinball", loss)
            if self._teacher is not None:
                apart = self._teacher.loss(predicted, rows[some], part.weight, taught)
                self._count("distillation", apart)
                loss = loss + apart
            self._backward(loss)
        for name, springs in self._springs.items():
            held = springs.penalty(self._weights)
            self._count(name, held)
            self._backward(held)
        norm = torch.nn.utils.clip_grad_norm_(self._weights, recipe.gradient_clip)
        if not torch.isfinite(norm):
            raise TrainingError(f"the gradient's norm is {norm.item()} at step {self.step}")
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.rate(self.step, drifted=self._drifted)
        self._optimizer.step()

    def _backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss, inputs=self._weights)

    def _count(self, name: str, loss: Tensor) -> None:
        """Add to a part of the loss; raises TrainingError when it is not finite."""
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the {name} loss is {value} at step {self.step}")
        self.losses[name] = self.losses.get(name, 0.0) + value

    def _gradients(self, rows: Rows) -> Iterator[tuple[Tensor, ...]]:
        """Of the mean loss of each small batch in this order, without dropout."""
        size = self._recipe.micro_batch_size or _FISHER_BATCH
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            batch = self._given.select(some)
            loss = mean_loss(self._part.predict(some, batch.windows), batch, self._levels)
            yield torch.autograd.grad(
                loss, self._weights, allow_unused=True, materialize_grads=True
            )

    def _checkpoint(self, job: str) -> UpdateCheckpoint:
        return UpdateCheckpoint(
            of=job,
            step=self.step,
            losses=dict(self.losses),
            weights={
                name: each.detach().to("cpu", copy=True)
                for name, each in self._part.weights.items()
            },
            moments=moments_of(self._optimizer),
            rest=self._rest.clone(),
            generator=torch.get_rng_state(),
        )

    def _take_over(self, saved: UpdateCheckpoint) -> None:
        self.step, self.losses = saved.step, dict(saved.losses)
        self._rest = saved.rest
        with torch.no_grad():
            for name, each in self._part.weights.items():
                each.copy_(saved.weights[name])
        put_back(saved.moments, self._optimizer)
        torch.set_rng_state(saved.generator)
