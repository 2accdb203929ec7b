"""The base model: Lightning trains it from history, with early stopping on the later part.

A short warm-up to a high rate, then a cosine down to almost nothing, so that a few hundred steps
are enough. Nothing is written to disk here: the best weights are kept in memory, and whoever wants
to survive a killed process takes the checkpoint that is offered after each look.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from torch import Tensor

from forecast.errors import TrainingError
from forecast.model import Model, ModelSpec, build, with_weights
from train.checkpoint import Checkpoint, Progress, digest, digest_of, moments_of, put_back
from train.course import LOOKS, WATCHED, Batches, Course, Plan
from train.steps import Device, Precision, lessons, refuse_absent, refuse_not_finite, repeatable

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import STEP_OUTPUT

    from forecast.windows import RawWindows

__all__ = ["GRADIENT_CLIP", "LOOKS", "PretrainReport", "Run", "pretrain"]

OnProgress = Callable[[int, int, float], None]
"""Called after each step with (steps made, steps planned, smoothed training loss)."""

GRADIENT_CLIP = 0.1
"""The most that a step's gradient may measure: one absurd jump must not move the weights far.
Of three trainings on 15 days of Bitbrains, a limit of 1 spoiled two, by 7 and 15 %; .1 none."""
_TALKERS = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch")
_APART = 1_000_003
"""Between the seeds of two workers, so that no two of them draw the same numbers."""


@dataclass(frozen=True, slots=True)
class Run:
    """Where a training runs, what it goes on from, and who hears of it."""

    device: Device = "cpu"
    precision: Precision = "float32"
    bar: bool = False
    on_progress: OnProgress | None = None
    on_look: Callable[[Checkpoint], None] | None = None
    """Called in every worker after each look."""
    resume: Checkpoint | None = None
    rank: int = 0
    workers: int = 1
    lightning: Mapping[str, Any] = field(default_factory=dict)
    """More for Lightning's Trainer: the strategy that joins many workers."""
    prepare: Callable[[Trainer], Trainer] = lambda trainer: trainer
    """What that strategy still wants done with the Trainer."""


@dataclass(frozen=True, slots=True)
class PretrainReport:
    """How a base training went. The same training gives the same report: it holds no duration."""

    steps: int
    """Steps made; fewer than planned when it stopped early."""
    best_step: int
    """The step whose weights were kept."""
    train_windows: int
    validation_windows: int
    train_loss: float
    """Smoothed scaled, weighed pinball loss at the end."""
    validation_loss: float
    """Scaled, weighed pinball loss of the kept weights."""
    validation_losses: tuple[float, ...]
    """One per look, in order."""
    learning_rate: float
    stopped_early: bool


def pretrain(
    spec: ModelSpec,
    train: RawWindows,
    validate: RawWindows,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    patience: int,
    max_steps: int,
    seed: int,
    threads: int = 2,
    start: Mapping[str, Tensor] | None = None,
    run: Run | None = None,
) -> tuple[Model, PretrainReport]:
    """A model trained on `train`, with the weights that were best on the later `validate`.

    Makes at most `epochs` passes and `max_steps` steps, looks at `validate` ten times on the way
    and stops after `patience` looks without a better loss. `learning_rate` is the peak of the
    cycle; `start`, where given, the weights it begins from. Same arguments, same weights, bit by
    bit, on one CPU worker; also from a checkpoint of its own. Another training's is left alone.

    Raises TrainingError when there is no labelled window to train or validate on, when a loss or a
    weight is not finite, or when the device is not there.
    """
    run = run or Run()
    refuse_absent(run.device)
    given, exams = lessons(train, spec.window), lessons(validate, spec.window)
    for name, part in (("training", given), ("validation", exams)):
        if not part.seen():
            raise TrainingError(f"no label in {len(part)} {name} windows")
    plan = Plan.of(len(given), batch_size=batch_size, epochs=epochs, max_steps=max_steps)
    about = [spec.to_json(), plan.steps, batch_size, learning_rate, patience, seed]
    if start is not None:
        about.append(digest_of(one.numpy() for one in start.values()))
    job = digest(about, train, validate)
    with repeatable(seed=seed, threads=threads), _quiet():
        batches = Batches(len(given), plan, seed=seed, rank=run.rank, workers=run.workers)
        course = Course(
            build(spec, seed=seed) if start is None else with_weights(spec, start),
            given=given,
            exams=exams,
            batches=batches,
            levels=spec.quantiles,
            learning_rate=learning_rate,
            plan=plan,
            precision=run.precision,
        )
        stopper = EarlyStopping(WATCHED, patience=patience, check_on_train_epoch_end=False)
        keeper = _Keeper(job, plan, batches, stopper, run, seed=seed)
        if not keeper.ended:
            run.prepare(_trainer(plan, [stopper, keeper], run)).fit(course)
        network = with_weights(spec, keeper.weights)
        refuse_not_finite(network)
    report = PretrainReport(
        steps=keeper.step,
        best_step=keeper.best_step,
        train_windows=len(given),
        validation_windows=len(exams),
        train_loss=keeper.train_loss,
        validation_loss=min(keeper.looks),
        validation_losses=tuple(keeper.looks),
        learning_rate=learning_rate,
        stopped_early=keeper.step < plan.steps,
    )
    return Model(spec, network), report


class _Keeper(Callback):
    """Keeps the best weights in memory, tells how far the training is, and where to go on from."""

    def __init__(
        self,
        job: str,
        plan: Plan,
        batches: Batches,
        stopper: EarlyStopping,
        run: Run,
        *,
        seed: int,
    ) -> None:
        self.weights: dict[str, Tensor] = {}
        self.step = self.best_step = 0
        self.looks: list[float] = []
        self.train_loss = math.nan
        self._job, self._plan, self._batches = job, plan, batches
        self._stopper, self._run, self._seed = stopper, run, seed
        resume = run.resume
        self._resume = resume if resume is not None and resume.progress.of == job else None
        self._begun_at = 0
        if self._resume is not None:
            self._take_over(self._resume)

    @property
    def ended(self) -> bool:
        """Whether the checkpoint it goes on from was the last one."""
        resume = self._resume
        return resume is not None and (resume.progress.ended or self.step >= self._plan.steps)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run, resume = self._run, self._resume
        if resume is not None:
            self._put_back(resume, trainer, pl_module)
        if run.workers > 1:
            torch.manual_seed(self._seed + _APART * (run.rank + 1) + self.step)
        elif resume is not None:
            torch.set_rng_state(resume.generator)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, *_: object
    ) -> None:
        assert isinstance(outputs, Mapping)
        loss = float(outputs["loss"])
        known = not math.isnan(self.train_loss)
        self.train_loss = 0.9 * self.train_loss + 0.1 * loss if known else loss
        self.step = self._begun_at + trainer.global_step
        if self._run.on_progress is not None:
            self._run.on_progress(self.step, self._plan.steps, self.train_loss)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Course)
        loss = float(trainer.callback_metrics[WATCHED])
        if not self.looks or loss < min(self.looks):
            self.weights = pl_module.copied_weights()
            self.best_step = self.step
        self.looks.append(loss)
        if self._run.on_look is not None:
            self._run.on_look(self._checkpoint(trainer, pl_module))

    def _checkpoint(self, trainer: Trainer, course: Course) -> Checkpoint:
        optimizer = trainer.optimizers[0]
        group = optimizer.param_groups[0]
        progress = Progress(
            of=self._job,
            step=self.step,
            best_step=self.best_step,
            looks=tuple(self.looks),
            train_loss=self.train_loss,
            waited=self._stopper.wait_count,
            best_loss=float(self._stopper.best_score),
            ended=bool(trainer.should_stop),
            learning_rate=float(group["lr"]),
            betas=group["betas"],
            passes=self._batches.passes,
        )
        return Checkpoint(
            progress=progress,
            network=course.copied_weights(),
            best=self.weights,
            moments=moments_of(optimizer),
            rest=self._batches.rest,
            generator=torch.get_rng_state(),
        )

    def _take_over(self, resume: Checkpoint) -> None:
        progress = resume.progress
        self.weights = dict(resume.best)
        self.step = self._begun_at = progress.step
        self.best_step, self.train_loss = progress.best_step, progress.train_loss
        self.looks = list(progress.looks)
        self._batches.rest, self._batches.passes = resume.rest, progress.passes
        self._batches.left = self._plan.steps - progress.step
        self._stopper.wait_count = progress.waited
        self._stopper.best_score = torch.tensor(progress.best_loss)

    def _put_back(self, resume: Checkpoint, trainer: Trainer, course: LightningModule) -> None:
        """Weights, the optimiser's moments and its place in the cycle, once Lightning has both."""
        assert isinstance(course, Course)
        course.load_weights(resume.network)
        progress, optimizer = resume.progress, trainer.optimizers[0]
        put_back(resume.moments, optimizer, lr=progress.learning_rate, betas=progress.betas)
        cycle = trainer.lr_scheduler_configs[0].scheduler
        cycle.load_state_dict({"last_epoch": progress.step, "_step_count": progress.step + 1})


def _trainer(plan: Plan, callbacks: list[Callback], run: Run) -> Trainer:
    """A Trainer that writes no file and has no logger."""
    where = {"accelerator": "gpu" if run.device == "cuda" else "cpu", "devices": 1}
    return Trainer(
        **{**where, **run.lightning},
        max_epochs=1,  # the batches go through all passes by themselves
        max_steps=plan.steps,
        gradient_clip_val=GRADIENT_CLIP,
        val_check_interval=plan.look_every,
        check_val_every_n_epoch=None,  # the interval counts steps
        num_sanity_val_steps=0,
        # Every worker looks at all validation windows: Lightning would deal them out.
        use_distributed_sampler=False,
        callbacks=[*callbacks, RichProgressBar()] if run.bar else callbacks,
        enable_progress_bar=run.bar,
        enable_checkpointing=False,
        enable_model_summary=False,
        logger=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice on devices, worker processes and the joining of metrics."""
    talkers = [logging.getLogger(name) for name in _TALKERS]
    before = [talker.level for talker in talkers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers", category=UserWarning)
        # Every worker computes the same validation loss: there is nothing to bring together.
        warnings.filterwarnings("ignore", ".*sync_dist=True", category=UserWarning)
        for talker in talkers:
            talker.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for talker, level in zip(talkers, before, strict=True):
                talker.setLevel(level)
