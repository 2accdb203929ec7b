"""What every training step is made of: repeatable surroundings, hidden roles, loss, finiteness."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from forecast.errors import TrainingError
from forecast.model import forward, pinball_losses
from forecast.windows import transform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecast.fast.exact import FastTFT
    from forecast.window_spec import WindowSpec
    from forecast.windows import RawWindows, Windows

HIDDEN_ROLES = 0.05
"""Share of training windows that do not tell their role, so that the unknown one is learned."""

Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]
"""Of the passes through the network on a GPU; weights, losses and evaluations stay float32."""

EVALUATION_BATCH = 256
_WEIGHTS = (0.1, 10.0)
_LARGEST_LOG = 88.0

_GENERATOR = threading.Lock()
"""Torch has one generator and one thread count for the whole process: one training at a time."""


def device_of(asked: Literal["auto", "cpu", "gpu"], gpu_ids: Sequence[object]) -> Device:
    """Where to compute, by what was assigned to this process and not by what its machine has.

    Raises TrainingError when a GPU is asked for and none was assigned.
    """
    if asked == "gpu" and not gpu_ids:
        raise TrainingError("trainer.device is gpu, but no GPU is assigned to this process")
    return "cuda" if gpu_ids and asked != "cpu" else "cpu"


def refuse_absent(device: Device) -> None:
    """Raise TrainingError when torch cannot compute on this device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            f"a GPU was assigned, but torch {torch.__version__} sees none here: see docs/install.md"
        )


@contextmanager
def repeatable(*, seed: int, threads: int) -> Iterator[None]:
    """Seed torch and bound its threads inside; both are as before afterwards. Not reentrant.

    Sums may round differently with another number of threads, so it belongs to what is repeated.
    """
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = [torch.cuda.current_device()] if used else []
    with _GENERATOR, torch.random.fork_rng(devices=gpus):
        before = torch.get_num_threads()
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class Lessons:
    """Windows with labels, and how much an error in each of their targets counts."""

    windows: Windows
    weight: NDArray[np.float32]
    """[N, T], about 1 on average over N."""

    def __len__(self) -> int:
        return len(self.windows)

    def select(self, rows: NDArray[np.int64]) -> Lessons:
        """The lessons at these positions."""
        return Lessons(self.windows.select(rows), self.weight[rows])

    def seen(self) -> int:
        """How many labels are known."""
        return int(np.isfinite(self.windows.target).sum())


def lessons(raw: RawWindows, spec: WindowSpec) -> Lessons:
    """The windows as the model reads them, weighed by the root of what one scale unit is worth.

    An error of one unit is worth its size in natural units at the window's center. Without weights
    an idle server's noise counts as much as a busy one's swings, and a fleet's error in natural
    units (WQL) is the busy ones'; weighed in full, the busy ones alone would be learned. The root
    lies between; each target's weights are brought to mean 1 and kept within [0.1, 10]. The weights
    that windows bring along come on top.
    """
    windows = transform(raw, spec)
    metrics = [spec.metrics[column] for column in spec.target_columns]
    logs = np.array([metric.transform == "log1p" for metric in metrics])
    # The slope of expm1 at the center; its exponent is bounded as float32 forecasts are.
    slope_NT = np.exp(np.where(logs, np.minimum(windows.center, _LARGEST_LOG), 0.0))
    worth_NT = np.sqrt(windows.scale * slope_NT)
    share_NT = worth_NT / np.maximum(worth_NT.mean(axis=0), np.finfo(np.float64).tiny)
    weight_NT = np.clip(share_NT, *_WEIGHTS).astype(np.float32)
    return Lessons(windows, weight_NT if raw.weight is None else weight_NT * raw.weight[:, None])


def training_loss(
    network: FastTFT,
    batch: Lessons,
    levels: Sequence[float],
    precision: Precision = "float32",
) -> Tensor:
    """Weighed pinball loss of a batch of which some windows hide their role.

    Overwrites the categories of those; draws them from torch's generator. Raises TrainingError when
    the loss is not finite.
    """
    hide_roles(batch)
    loss = mean_loss(scaled(network, batch.windows, precision), batch, levels)
    if not torch.isfinite(loss):
        raise TrainingError(f"the training loss is {loss.item()} on {len(batch)} windows")
    return loss


def hide_roles(batch: Lessons) -> None:
    """Overwrite the categories of some windows, drawn by torch's generator, by the unknown one."""
    hidden = (torch.rand(len(batch)) < HIDDEN_ROLES).numpy()
    batch.windows.encoder_cat[hidden] = 0
    batch.windows.decoder_cat[hidden] = 0


def evaluation_loss(network: FastTFT, given: Lessons, levels: Sequence[float]) -> float:
    """Weighed pinball loss over all windows in evaluation mode; NaN without a label.

    The network's mode is left as it was.
    """
    training, total, count = network.training, 0.0, 0
    network.eval()
    with torch.no_grad():
        for start in range(0, len(given), EVALUATION_BATCH):
            part = given.select(np.arange(start, min(start + EVALUATION_BATCH, len(given))))
            loss = mean_loss(scaled(network, part.windows), part, levels)
            total += loss.item() * part.seen()
            count += part.seen()
    network.train(training)
    return total / count if count else math.nan


def scaled(network: nn.Module, windows: Windows, precision: Precision = "float32") -> Tensor:
    """Scaled quantiles [N, H, T, Q] in float32, the passes to them in this precision."""
    device = next(network.parameters()).device
    halved = precision == "bfloat16" and device.type == "cuda"
    with torch.autocast(device.type, torch.bfloat16, enabled=halved):
        found = forward(network, windows)
    return found.float()


def mean_loss(predicted_NHTQ: Tensor, batch: Lessons, levels: Sequence[float]) -> Tensor:
    """Mean over the known labels; see `weighed_losses`."""
    return weighed_losses(predicted_NHTQ, batch, levels).sum() / max(1, batch.seen())


def weighed_losses(predicted_NHTQ: Tensor, batch: Lessons, levels: Sequence[float]) -> Tensor:
    """[N, H, T] weight x pinball loss of each label, which is the loss of weighed numbers; 0 for
    an unknown label.
    """
    device = predicted_NHTQ.device
    weight_NHT = torch.from_numpy(batch.weight).to(device)[:, None]
    target_NHT = torch.from_numpy(batch.windows.target).to(device) * weight_NHT
    return pinball_losses(predicted_NHTQ * weight_NHT[..., None], target_NHT, levels)


def refuse_not_finite(network: nn.Module) -> None:
    """Raise TrainingError naming the weights that are not finite, if any."""
    broken = [name for name, tensor in network.state_dict().items() if not _finite(tensor)]
    if broken:
        raise TrainingError(f"{len(broken)} weight tensors are not finite, first {broken[0]}")


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
