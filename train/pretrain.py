"""The base model: Lightning trains it from history, with early stopping on the later part.

The schedule is the one-cycle policy (Smith and Topin 2018, "Super-convergence"): a short warm-up
to a high rate, then a cosine down to almost nothing, so that a few hundred steps are enough.
Nothing is written to disk: the best weights are kept in memory.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from forecast.errors import TrainingError
from forecast.model import Model, ModelSpec, build
from train.steps import (
    Lessons,
    evaluation_loss,
    lessons,
    refuse_not_finite,
    repeatable,
    training_loss,
)

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
    from pytorch_forecasting import TemporalFusionTransformer

    from forecast.windows import RawWindows

OnProgress = Callable[[int, int, float], None]
"""Called after each step with (steps made, steps planned, smoothed training loss)."""

LOOKS = 10
"""How often a full training looks at the validation windows."""

_WARM_UP_SHARE = 0.2
_GRADIENT_CLIP = 1.0
_WATCHED = "validation_pinball"
_VALIDATION_BATCH = 256
_TALKERS = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch")


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
    progress: Literal["bar", "none"] = "none",
    on_progress: OnProgress | None = None,
) -> tuple[Model, PretrainReport]:
    """A model trained on `train`, with the weights that were best on the later `validate`.

    Makes at most `epochs` passes and `max_steps` steps, looks at `validate` ten times on the way
    and stops after `patience` looks without a better loss. `learning_rate` is the peak of the
    cycle. Same arguments, same weights, bit by bit.

    Raises TrainingError when there is no labelled window to train or validate on, or when a loss
    or a weight is not finite.
    """
    given, exams = lessons(train, spec.window), lessons(validate, spec.window)
    for name, part in (("training", given), ("validation", exams)):
        if not part.seen():
            raise TrainingError(f"no label in {len(part)} {name} windows")
    plan = _Plan.of(len(given), batch_size=batch_size, epochs=epochs, max_steps=max_steps)
    with repeatable(seed=seed, threads=threads), _quiet():
        course = _Course(build(spec, seed=seed), given, exams, spec.quantiles, learning_rate, plan)
        keeper = _Keeper(plan, on_progress)
        stopper = EarlyStopping(_WATCHED, patience=patience, check_on_train_epoch_end=False)
        trainer = _trainer(plan, epochs, [keeper, stopper], bar=progress == "bar")
        trainer.fit(course)
        network = build(spec, seed=seed)
        network.load_state_dict(keeper.weights)
        refuse_not_finite(network)
    report = PretrainReport(
        steps=trainer.global_step,
        best_step=keeper.best_step,
        train_windows=len(given),
        validation_windows=len(exams),
        train_loss=keeper.train_loss,
        validation_loss=min(keeper.looks),
        validation_losses=tuple(keeper.looks),
        learning_rate=learning_rate,
        stopped_early=trainer.global_step < plan.steps,
    )
    return Model(spec, network), report


@dataclass(frozen=True, slots=True)
class _Plan:
    """How many steps are made, of how many windows, and how often validation looks at them."""

    batch_size: int
    steps: int
    look_every: int

    @classmethod
    def of(cls, windows: int, *, batch_size: int, epochs: int, max_steps: int) -> _Plan:
        if min(batch_size, epochs, max_steps) < 1:
            raise ValueError(
                f"batch_size {batch_size}, epochs {epochs} and max_steps {max_steps} start at 1"
            )
        steps = min(max_steps, epochs * math.ceil(windows / batch_size))
        look_every = max(1, steps // LOOKS)
        # Whole looks, so that the last weights, which the cycle has cooled down, are looked at.
        return cls(batch_size, steps // look_every * look_every, look_every)


class _Course(LightningModule):
    """The network with its loss and learning rate, as Lightning wants it; batches are row numbers.

    Lightning must not see the windows themselves: it would copy them on the way to the device.
    """

    def __init__(
        self,
        network: TemporalFusionTransformer,
        given: Lessons,
        exams: Lessons,
        levels: Sequence[float],
        learning_rate: float,
        plan: _Plan,
    ) -> None:
        super().__init__()
        self._network = network.train()
        self._given, self._exams = given, exams
        self._levels = levels
        self._learning_rate = learning_rate
        self._plan = plan

    def training_step(self, rows: Tensor) -> Tensor:
        return training_loss(self._network, self._given.select(rows.numpy()), self._levels)

    def validation_step(self, rows: Tensor) -> None:
        part = self._exams.select(rows.numpy())
        if part.seen():
            loss = evaluation_loss(self._network, part, self._levels)
            self.log(_WATCHED, loss, batch_size=part.seen(), prog_bar=True)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Rows(len(self._given)), self._plan.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Rows(len(self._exams)), _VALIDATION_BATCH)

    def copied_weights(self) -> dict[str, Tensor]:
        """The network's weights as they are now, by name."""
        return {name: value.clone() for name, value in self._network.state_dict().items()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self._learning_rate, weight_decay=0.0)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self._learning_rate, total_steps=self._plan.steps, pct_start=_WARM_UP_SHARE
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


class _Rows(Dataset[int]):
    """The numbers of the windows, which stand for them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> int:
        return row


class _Keeper(Callback):
    """Keeps the best weights in memory and tells how far the training is."""

    def __init__(self, plan: _Plan, on_progress: OnProgress | None) -> None:
        self.weights: dict[str, Tensor] = {}
        self.best_step = 0
        self.looks: list[float] = []
        self.train_loss = math.nan
        self._plan = plan
        self._on_progress = on_progress

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, *_: object
    ) -> None:
        assert isinstance(outputs, Mapping)
        loss = float(outputs["loss"])
        known = not math.isnan(self.train_loss)
        self.train_loss = 0.9 * self.train_loss + 0.1 * loss if known else loss
        if self._on_progress is not None:
            self._on_progress(trainer.global_step, self._plan.steps, self.train_loss)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, _Course)
        loss = float(trainer.callback_metrics[_WATCHED])
        if not self.looks or loss < min(self.looks):
            self.weights = pl_module.copied_weights()
            self.best_step = trainer.global_step
        self.looks.append(loss)


def _trainer(plan: _Plan, epochs: int, callbacks: list[Callback], *, bar: bool) -> Trainer:
    """A Trainer that writes no file and has no logger."""
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        max_steps=plan.steps,
        gradient_clip_val=_GRADIENT_CLIP,
        val_check_interval=plan.look_every,
        check_val_every_n_epoch=None,  # the interval counts steps across epochs
        num_sanity_val_steps=0,
        callbacks=[*callbacks, RichProgressBar()] if bar else callbacks,
        enable_progress_bar=bar,
        enable_checkpointing=False,
        enable_model_summary=False,
        logger=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice: which devices there are, and to use worker processes."""
    talkers = [logging.getLogger(name) for name in _TALKERS]
    before = [talker.level for talker in talkers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers", category=UserWarning)
        for talker in talkers:
            talker.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for talker, level in zip(talkers, before, strict=True):
                talker.setLevel(level)
