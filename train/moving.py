"""What moves in an update: all weights, the last layers, or a correction of the output.

The parts differ in what is computed again at each step. Where the body of the network stands still,
it is computed once for all windows, without dropout and with the roles as they are, so that a step
costs what moves and no more.

Legend: N windows, H horizon slots, T targets, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from forecast.model import Model, forward, network_inputs
from forecast.windows import Windows
from train.recipes import Part
from train.steps import EVALUATION_BATCH, Device, Lessons, Precision, scaled

Rows = NDArray[np.int64]
"""Positions among the update's windows."""


class Moving(Protocol):
    """A model whose weights move in part."""

    weights: dict[str, nn.Parameter]
    """What moves, by name."""
    reads_roles: bool
    """Whether each step reads the windows' roles."""

    def train(self, on: bool) -> None:
        """Begin or end learning: dropouts drop in between."""
        ...

    def predict(self, rows: Rows, windows: Windows) -> Tensor:
        """Scaled quantiles [N, H, T, Q] of the windows at these rows; differentiable."""
        ...


def moving(
    part: Part, model: Model, given: Lessons, *, device: Device, precision: Precision
) -> Moving:
    """That part of a model on a device, to learn from these lessons. An adapter begins fresh."""
    if part == "adapter" and model.adapter is None:
        model.adapter = model.fresh_adapter()
    model.whole.to(device).eval()
    if part == "full":
        return _Whole(model, precision)
    return (_LastLayers if part == "last_layers" else _Correction)(model, given)


def quantiles(part: Moving, given: Lessons) -> Tensor:
    """[N, H, T, Q] of all windows as the part forecasts them now; it must not be learning."""
    with torch.no_grad():
        return torch.cat([part.predict(rows, one) for rows, one in _parts(given.windows)])


def _parts(windows: Windows) -> Iterator[tuple[Rows, Windows]]:
    for start in range(0, len(windows), EVALUATION_BATCH):
        rows = np.arange(start, min(start + EVALUATION_BATCH, len(windows)))
        yield rows, windows.select(rows)


def _standing(windows: Windows, compute: Callable[[Windows], Tensor], axis: int) -> Tensor:
    """What does not change while the update learns, of all windows."""
    with torch.no_grad():
        return torch.cat([compute(one) for _, one in _parts(windows)], axis)


class _Whole:
    """All weights, an adapter's too."""

    reads_roles = True

    def __init__(self, model: Model, precision: Precision) -> None:
        self._module, self._precision = model.whole, precision
        self.weights = dict(self._module.named_parameters())

    def train(self, on: bool) -> None:
        self._module.train(on)

    def predict(self, rows: Rows, windows: Windows) -> Tensor:
        learning = self._module.training
        return scaled(self._module, windows, self._precision if learning else "float32")


class _LastLayers:
    """The output layer, and the gate and norm before it; an adapter behind them stands still."""

    reads_roles = False

    def __init__(self, model: Model, given: Lessons) -> None:
        self._network, self._adapter = model.network, model.adapter
        self.weights = model.network.last_layers()
        self._device = next(iter(self.weights.values())).device
        self._body = _standing(given.windows, self._inner, axis=3)

    def _inner(self, windows: Windows) -> Tensor:
        return self._network.body(*network_inputs(windows, self._device))

    def train(self, on: bool) -> None:
        """Nothing drops: the body stands still."""

    def predict(self, rows: Rows, windows: Windows) -> Tensor:
        place = torch.from_numpy(rows).to(self._device)
        found = self._network.head(self._body[..., place])
        if self._adapter is None:
            return found
        corrected: Tensor = self._adapter(*network_inputs(windows, self._device)[:2], found)
        return corrected


class _Correction:
    """The adapter alone."""

    reads_roles = False

    def __init__(self, model: Model, given: Lessons) -> None:
        assert model.adapter is not None
        self._network, self._adapter = model.network, model.adapter
        self.weights = dict(self._adapter.named_parameters())
        self._device = self._adapter.weight.device
        self._found = _standing(given.windows, self._plain, axis=0)
        self._features = self._read(given.windows)

    def _plain(self, windows: Windows) -> Tensor:
        return forward(self._network, windows)

    def _read(self, windows: Windows) -> Tensor:
        encoder, decoder, _ = network_inputs(windows, self._device)
        with torch.no_grad():
            return self._adapter.features(encoder, decoder, self._found)

    def train(self, on: bool) -> None:
        """Nothing drops: the network stands still."""

    def predict(self, rows: Rows, windows: Windows) -> Tensor:
        place = torch.from_numpy(rows).to(self._device)
        return self._adapter.corrected(self._features[place], self._found[place])
