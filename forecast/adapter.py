"""The output adapter: a small correction of a frozen network's quantiles, which learns online.

Of each target and step it moves the median and widens or narrows the quantiles about it. Fresh, it
changes no bit. Few weights on what the network already worked out can follow a stream from a few
windows, and cannot forget what the network knows.

Legend: N windows, L context slots, H horizon slots, T targets, Q quantile levels, C real columns,
F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from forecast.window_spec import WindowSpec

FEATURES = ("one", "median", "spread", "lean", "recent", "day", "week")
"""What a correction is a sum of: a constant; the network's median, its distance between the outer
quantiles and the median's place between them; the mean of the latest values; the value one day and
one week before the forecast step. All in units of the window's scale about its last value, those
from the window as the network reads them.
"""

_RECENT = 12
"""Slots of the context whose mean is `recent`."""
_MOST = 8.0
"""Features from the network beyond this many units count as this many."""
_WIDEST = 2.0
"""The natural logarithm of the width's factor stays within this: from 1/7.4 to 7.4."""


class Adapter(nn.Module):
    """`q + shift + (q - median) expm1(width)`, rising in q, so quantiles keep their order.

    Both corrections are sums of weighed features, for each step and target with weights of its
    own; at weights of 0 the sum is q itself.
    """

    def __init__(self, window: WindowSpec, levels: Sequence[float]) -> None:
        """A fresh one, which changes nothing, for a model of these windows and levels."""
        super().__init__()
        self.weight = nn.Parameter(
            torch.zeros(window.horizon, len(window.targets), 2, len(FEATURES))
        )
        self._median = min(range(len(levels)), key=lambda place: abs(levels[place] - 0.5))
        reals, known, targets = window.reals, window.known_reals, len(window.targets)
        start = reals.index(known[0]) + known.index("seen_lagd") - 2 * targets
        self._day = list(range(start, start + targets))
        self._week = list(range(start + targets, start + 2 * targets))
        first = reals.index(window.unknown_reals[0])
        self._values = [first + column for column in window.target_columns]

    def features(self, encoder_cont: Tensor, decoder_cont: Tensor, found_NHTQ: Tensor) -> Tensor:
        """[N, H, T, F] from the network's inputs [N, L, C] and [N, H, C] and its quantiles."""
        median, low, high = self._middle(found_NHTQ), found_NHTQ[..., 0], found_NHTQ[..., -1]
        recent = encoder_cont[:, -_RECENT:, self._values].mean(1, keepdim=True)
        parts = [
            torch.ones_like(median),
            median.clamp(-_MOST, _MOST),
            (high - low).clamp(-_MOST, _MOST),
            (low + high - 2 * median).clamp(-_MOST, _MOST),
            recent.expand_as(median),
            decoder_cont[..., self._day],
            decoder_cont[..., self._week],
        ]
        return torch.stack(parts, -1)

    def corrected(self, features_NHTF: Tensor, found_NHTQ: Tensor) -> Tensor:
        """The quantiles [N, H, T, Q] moved and widened."""
        # Not a matrix product: that may round a window's sum by how many there are.
        moves = (features_NHTF[..., None, :] * self.weight).sum(-1)
        shift, width = moves[..., :1], _WIDEST * torch.tanh(moves[..., 1:] / _WIDEST)
        gaps = found_NHTQ - self._middle(found_NHTQ)[..., None]
        return found_NHTQ + (shift + gaps * torch.expm1(width))

    def forward(self, encoder_cont: Tensor, decoder_cont: Tensor, found_NHTQ: Tensor) -> Tensor:
        """The network's quantiles [N, H, T, Q] for these inputs, corrected."""
        return self.corrected(self.features(encoder_cont, decoder_cont, found_NHTQ), found_NHTQ)

    def _middle(self, found_NHTQ: Tensor) -> Tensor:
        return found_NHTQ[..., self._median]


class Adapted(nn.Module):
    """A network with an adapter behind it, as one: what an update of all weights moves."""

    def __init__(self, network: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.network, self.adapter = network, adapter

    def forward(self, encoder_cont: Tensor, decoder_cont: Tensor, categories: Tensor) -> Tensor:
        """Scaled quantiles [N, H, T, Q]; see `FastTFT.forward`."""
        found = self.network(encoder_cont, decoder_cont, categories)
        corrected: Tensor = self.adapter(encoder_cont, decoder_cont, found)
        return corrected
