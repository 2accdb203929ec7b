"""Distillation: an update stays near the champion's forecasts where nothing says otherwise.

Hinton et al. 2015, "Distilling the knowledge in a neural network"; from the model one starts from,
on what is at hand: Li and Hoiem 2016, "Learning without forgetting". After a drift the champion is
the wrong teacher, so the learner leaves it out.

Legend: N windows of the update, B of a batch, H horizon slots, T targets, Q quantile levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Teacher:
    """The champion's forecasts of an update's windows."""

    quantiles: Tensor
    """[N, H, T, Q] in units of each window's scale."""
    taught: NDArray[np.bool_]
    """[N] which windows count: those of the past."""
    weight: float

    def windows(self, rows: NDArray[np.int64]) -> int:
        """How many of these windows count."""
        return int(self.taught[rows].sum())

    def loss(
        self,
        predicted_BHTQ: Tensor,
        rows: NDArray[np.int64],
        weight_BT: NDArray[np.float32],
        windows: int,
    ) -> Tensor:
        """The weight times the mean squared distance, an error in a target weighed by `weight_BT`.

        `rows` are the windows' positions in the update; the mean is over `windows` of them, so that
        the parts of a batch add up to its loss. Needs no label.
        """
        device = predicted_BHTQ.device
        place = torch.from_numpy(rows).to(device)
        counts = torch.from_numpy(weight_BT * self.taught[rows, None]).to(device)
        squares_BHT = (predicted_BHTQ - self.quantiles[place]).square().mean(-1)
        cells = max(1, windows) * squares_BHT[0].numel()
        return self.weight * (squares_BHT * counts[:, None]).sum() / cells
