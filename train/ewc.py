"""Elastic weight consolidation: weights that the past depends on are held where they were.

Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks"; one sum of Fisher
information that decays, as in online EWC: Schwarz et al. 2018, "Progress & Compress".

With equal stiffness it is what holds a federated site near the global weights it began from: Li et
al. 2020, "Federated optimization in heterogeneous networks" (FedProx). The distance is squared: the
gradient of the unsquared one has the same length however far the weights are, so it pulls hardest
where it should not pull at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Elastic:
    """Springs from the weights to where they were."""

    anchors: tuple[Tensor, ...]
    """The weights at the start: the champion's, or the global ones with the site's own."""
    fisher: tuple[Tensor, ...]
    """How stiff each spring is; 1 on average."""
    weight: float

    @classmethod
    def of(
        cls,
        weights: Sequence[Tensor],
        gradients: Iterable[Sequence[Tensor]],
        *,
        decay: float,
        weight: float,
    ) -> Self:
        """Springs that hold `weights`, by what a loss's gradients are there, the oldest first.

        The diagonal of the Fisher information, estimated by squares of the gradients of batches;
        before each batch what was summed is multiplied by `decay`. It is worked out anew for every
        update, from its windows: so nothing has to travel with a version, and an update that is
        resumed finds the same springs.
        """
        sums = [torch.zeros_like(each) for each in weights]
        for batch in gradients:
            sums = [old * decay + new.square() for old, new in zip(sums, batch, strict=True)]
        count = sum(each.numel() for each in sums)
        mean = float(sum(float(each.sum(dtype=torch.float64)) for each in sums)) / count
        fisher = tuple(each / mean if mean > 0 else each for each in sums)
        return cls(tuple(each.detach().clone() for each in weights), fisher, weight)

    @classmethod
    def even(cls, weights: Sequence[Tensor], *, weight: float) -> Self:
        """Springs of equal stiffness that hold `weights`."""
        stiff = tuple(torch.ones_like(each) for each in weights)
        return cls(tuple(each.detach().clone() for each in weights), stiff, weight)

    def penalty(self, weights: Sequence[Tensor]) -> Tensor:
        """Half the weight times the sum of stiffness x squared distance; differentiable."""
        parts = [
            (stiff * (new - old).square()).sum()
            for stiff, new, old in zip(self.fisher, weights, self.anchors, strict=True)
        ]
        return 0.5 * self.weight * torch.stack(parts).sum()
