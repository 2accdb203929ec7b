"""Functions of one number as tables: nodes that lie closer near 0, linear in between.

A value's cell is read off the bits of `1 + |value|`: the exponent and the first bits of the
mantissa. So cells are 2^-bits wide up to 1, twice as wide up to 3, then up to 7, 15 and 31, where
the table ends; position and cell cost two shifts and no search. Inputs are of unit scale and
compressed far out, which is where a network's curves bend.

Legend: V variables, K nodes, H hidden size, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = 31.0
"""Values beyond this, of either sign, are outside every table."""
_OCTAVES = 5
_MANTISSA = 23
_ONE = 127 << _MANTISSA
"""The bits of 1.0."""
_FEWEST, _MOST = 6, 10
"""Bits of a cell's width: 641 to 10,241 nodes."""


def nodes(bits: int) -> Tensor:
    """[K] where the table of this resolution has its nodes: 0 and up, then 0 and down."""
    cells = torch.arange((_OCTAVES << bits) + 1, dtype=torch.int32)
    up = ((cells << (_MANTISSA - bits)) + _ONE).view(torch.float32) - 1.0
    return torch.cat([up, -up])


Curves = Callable[[Tensor], Tensor]
"""Values [V, K] to [V, H, K]."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Curves of one resolution as the rows of one matrix."""

    rows: Tensor
    """[V x K, H]"""
    starts: tuple[Tensor, ...]
    """Of each set of curves [V] int32: the first row of each variable."""
    bits: int
    error: float
    """The largest error measured halfway between nodes, in units of the curve."""

    @classmethod
    def build(cls, sets: Sequence[tuple[Curves, int]], tolerance: float) -> Tables:
        """Tables of sets of curves, each with its number of variables.

        As fine as `tolerance` asks, between 641 and 10,241 nodes a variable.
        """
        for bits in range(_FEWEST, _MOST + 1):
            places = nodes(bits)
            found = [curves(places.expand(count, -1)) for curves, count in sets]
            pairs = zip(sets, found, strict=True)
            error = max(_between(curves, places, values) for (curves, _), values in pairs)
            if error <= tolerance or bits == _MOST:
                break
        rows = [values.permute(0, 2, 1).flatten(0, 1) for values in found]
        every = torch.arange(sum(count for _, count in sets), dtype=torch.int32) * len(places)
        starts = every.split_with_sizes([count for _, count in sets])
        return cls(torch.cat(rows).contiguous(), starts, bits, error)

    def cells(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The lower node of each value, counted from its variable's first row (int32), how far
        behind it the value is (0 to 1), and the largest value by size (NaN where there is one).

        Values beyond the limit are read at the limit.
        """
        shift = _MANTISSA - self.bits
        sizes = values.abs()
        largest = sizes.max() if sizes.numel() else sizes.new_zeros(())
        placed = sizes.clamp_(max=LIMIT).add_(1.0).view(torch.int32).sub_(_ONE)
        # The last node has no cell behind it; a NaN ends up there too.
        placed.clamp_(max=(_OCTAVES << _MANTISSA) - 1)
        cell = placed >> shift
        beyond = placed.bitwise_and_((1 << shift) - 1).to(torch.float32).mul_(2.0**-shift)
        half = (_OCTAVES << self.bits) + 1
        cell.add_(torch.signbit(values), alpha=half)
        return cell, beyond, largest


def _between(curves: Curves, places: Tensor, values: Tensor) -> float:
    """The largest error of linear interpolation halfway between neighbouring nodes."""
    halves = (places[1:] + places[:-1]) / 2.0
    exact = curves(halves.expand(len(values), -1))
    error = (exact - (values[..., 1:] + values[..., :-1]) / 2.0).abs().amax((0, 1))
    error[len(places) // 2 - 1] = 0.0  # from the last node up to the first one down
    return float(error.max())
