"""What every training step is made of: repeatable surroundings, hidden roles, loss, finiteness."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from forecast.errors import TrainingError
from forecast.model import forward, pinball

if TYPE_CHECKING:
    from pytorch_forecasting import TemporalFusionTransformer

    from forecast.windows import Windows

HIDDEN_ROLES = 0.05
"""Share of training windows that do not tell their role, so that the unknown one is learned."""

_EVALUATION_BATCH = 256

_GENERATOR = threading.Lock()
"""Torch has one generator and one thread count for the whole process: one training at a time."""


@contextmanager
def repeatable(*, seed: int, threads: int) -> Iterator[None]:
    """Seed torch and bound its threads inside; both are as before afterwards. Not reentrant.

    Sums may round differently with another number of threads, so it belongs to what is repeated.
    """
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        before = torch.get_num_threads()
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def training_loss(
    network: TemporalFusionTransformer, windows: Windows, levels: Sequence[float]
) -> Tensor:
    """Pinball loss of a batch of which some windows hide their role; overwrites their categories.

    Draws from torch's generator. Raises TrainingError when the loss is not finite.
    """
    hidden = (torch.rand(len(windows)) < HIDDEN_ROLES).numpy()
    windows.encoder_cat[hidden] = 0
    windows.decoder_cat[hidden] = 0
    loss = pinball(forward(network, windows), torch.from_numpy(windows.target), levels)
    if not torch.isfinite(loss):
        raise TrainingError(f"the training loss is {loss.item()} on {len(windows)} windows")
    return loss


def evaluation_loss(
    network: TemporalFusionTransformer, windows: Windows, levels: Sequence[float]
) -> float:
    """Pinball loss over all windows in evaluation mode; the network's mode is left as it was."""
    training, total, count = network.training, 0.0, 0
    network.eval()
    with torch.no_grad():
        for start in range(0, len(windows), _EVALUATION_BATCH):
            rows = np.arange(start, min(start + _EVALUATION_BATCH, len(windows)))
            part = windows.select(rows)
            seen = int(np.isfinite(part.target).sum())
            loss = pinball(forward(network, part), torch.from_numpy(part.target), levels)
            total, count = total + loss.item() * seen, count + seen
    network.train(training)
    return total / count if count else math.nan


def refuse_not_finite(network: nn.Module) -> None:
    """Raise TrainingError naming the weights that are not finite, if any."""
    broken = [name for name, tensor in network.state_dict().items() if not _finite(tensor)]
    if broken:
        raise TrainingError(f"{len(broken)} weight tensors are not finite, first {broken[0]}")


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
