"""The proximal penalty: a site's training stays near the global weights it began from.

Li et al. 2020, "Federated optimization in heterogeneous networks" (FedProx). The distance is
squared: the gradient of the unsquared one has the same length however far the weights are, so it
pulls hardest where it should not pull at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Proximal:
    """Springs of equal stiffness from the weights to where they were."""

    anchors: tuple[Tensor, ...]
    """The weights at the start: the global ones, composed with the site's own."""
    weight: float

    @classmethod
    def of(cls, weights: Sequence[Tensor], *, weight: float) -> Self:
        """Springs that hold `weights` where they are now."""
        return cls(tuple(each.detach().clone() for each in weights), weight)

    def penalty(self, weights: Sequence[Tensor]) -> Tensor:
        """Half the weight times the squared distance; differentiable."""
        parts = [(new - old).square().sum() for new, old in zip(weights, self.anchors, strict=True)]
        return 0.5 * self.weight * torch.stack(parts).sum()
