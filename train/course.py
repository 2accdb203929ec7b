"""The course of a base training: how many steps, of which windows, with which loss and rate.

What Lightning is given. It is the same in this process and on many workers: a step is of
`batch_size` windows however many workers share them, so that their number changes no decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from train.steps import Lessons, Precision, evaluation_loss, training_loss

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from forecast.fast.exact import FastTFT

LOOKS = 10
"""How often a full training looks at the validation windows."""

WATCHED = "validation_pinball"

_WARM_UP_SHARE = 0.2
_VALIDATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class Plan:
    """How many steps are made, of how many windows, and how often validation looks at them."""

    batch_size: int
    steps: int
    look_every: int

    @classmethod
    def of(cls, windows: int, *, batch_size: int, epochs: int, max_steps: int) -> Plan:
        """The plan of a training; raises ValueError for a count below 1."""
        if min(batch_size, epochs, max_steps) < 1:
            raise ValueError(
                f"batch_size {batch_size}, epochs {epochs} and max_steps {max_steps} start at 1"
            )
        steps = min(max_steps, epochs * math.ceil(windows / batch_size))
        look_every = max(1, steps // LOOKS)
        # Whole looks, so that the last weights, which the cycle has cooled down, are looked at.
        return cls(batch_size, steps // look_every * look_every, look_every)


class Batches:
    """Numbers of windows, batch by batch, shuffled anew for each pass, until the plan is done.

    One worker's share of every batch. `rest` is what is left of the pass under way: with it and
    torch's generator a training goes on where another one stopped.
    """

    def __init__(
        self, windows: int, plan: Plan, *, seed: int, rank: int = 0, workers: int = 1
    ) -> None:
        self._windows = windows
        self._plan = plan
        self._seed = seed
        self._rank, self._workers = rank, workers
        self.passes = 0
        self.rest = torch.empty(0, dtype=torch.int64)
        self.left = plan.steps
        """Batches still to come."""

    def __len__(self) -> int:
        return self.left

    def __iter__(self) -> Iterator[Tensor]:
        size = self._plan.batch_size
        while self.left:
            if not len(self.rest):
                self.rest = self._shuffled()
                self.passes += 1
            batch, self.rest = self.rest[:size], self.rest[size:]
            self.left -= 1
            yield self._share(batch)

    def _shuffled(self) -> Tensor:
        if self._workers > 1:
            # All workers need the same order, whatever each one has drawn meanwhile.
            seed = self._seed + self.passes
        else:
            # The first of the two numbers is drawn as torch's DataLoader does for its processes:
            # without it every training of a seed would come out different than it did so far.
            _, seed = (int(torch.empty((), dtype=torch.int64).random_().item()) for _ in range(2))
        return torch.randperm(self._windows, generator=torch.Generator().manual_seed(seed))

    def _share(self, batch: Tensor) -> Tensor:
        """This worker's part; a short batch repeats windows, so that nobody is left with none."""
        if self._workers == 1:
            return batch
        size = math.ceil(len(batch) / self._workers) * self._workers
        return batch[torch.arange(size) % len(batch)][self._rank :: self._workers]


class Course(LightningModule):
    """The network with its loss and learning rate, as Lightning wants it; batches are row numbers.

    Lightning must not see the windows themselves: it would copy them on the way to the device.
    The rate follows the one-cycle policy (Smith and Topin 2018, "Super-convergence").
    """

    def __init__(
        self,
        network: FastTFT,
        *,
        given: Lessons,
        exams: Lessons,
        batches: Batches,
        levels: Sequence[float],
        learning_rate: float,
        plan: Plan,
        precision: Precision,
    ) -> None:
        super().__init__()
        self._network = network.train()
        self._given, self._exams = given, exams
        self._batches = batches
        self._levels = levels
        self._learning_rate = learning_rate
        self._plan = plan
        self._precision = precision

    def training_step(self, rows: Tensor) -> Tensor:
        part = self._given.select(rows.numpy(force=True))
        return training_loss(self._network, part, self._levels, self._precision)

    def validation_step(self, rows: Tensor) -> None:
        # Every worker looks at all of it: a few windows, and no worker waits for another's loss.
        part = self._exams.select(rows.numpy(force=True))
        if part.seen():
            loss = evaluation_loss(self._network, part, self._levels)
            self.log(WATCHED, loss, batch_size=part.seen(), prog_bar=True)

    def train_dataloader(self) -> Batches:
        return self._batches

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Rows(len(self._exams)), _VALIDATION_BATCH)

    def copied_weights(self) -> dict[str, Tensor]:
        """The network's weights as they are now, by name, on the CPU."""
        state = self._network.state_dict()
        return {name: value.to("cpu", copy=True) for name, value in state.items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Go on with these weights of the network."""
        self._network.load_state_dict(weights)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self._learning_rate, weight_decay=0.0, fused=True
        )
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
