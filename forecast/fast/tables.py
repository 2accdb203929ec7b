"""Functions of one number as tables: nodes that lie closer near 0, linear in between.

A value's cell is read off the bits of `1 + |value|`: the exponent and the first bits of the
mantissa. So cells are 2^-bits wide up to 1, twice as wide up to 3, then up to 7, 15 and 31, where
the table ends; position and cell cost two shifts and no search. Inputs are of unit scale and
compressed far out, which is where a network's curves bend. Each variable has as many bits as its
own curves need: a training makes a few of them steep, and most stay flat. A long one makes some too
steep for any table, as a norm over few numbers jumps where they meet: these are computed, not read.

Legend: V variables, K nodes, H hidden size, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

LIMIT = 31.0
"""Values beyond this, of either sign, are outside every table."""
_OCTAVES = 5
_MANTISSA = 23
_ONE = 127 << _MANTISSA
"""The bits of 1.0."""
_FEWEST, _MOST = 7, 13
"""Bits of a cell's width: 1,282 to 81,922 nodes."""
_AT_ONCE = 1 << 18
"""Nodes of all variables that are computed at a time: bounds the memory."""


def nodes(bits: int) -> Tensor:
    """[K] where the table of this resolution has its nodes: 0 and up, then 0 and down."""
    cells = torch.arange((_OCTAVES << bits) + 1, dtype=torch.int32)
    up = ((cells << (_MANTISSA - bits)) + _ONE).view(torch.float32) - 1.0
    return torch.cat([up, -up])


Curves = Callable[[Tensor, list[int]], Tensor]
"""Values [W, K] of the variables numbered [W] to [W, H, K]."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the variables of one set have their nodes; all [V]."""

    starts: Tensor
    """int32: the first row of each variable."""
    shift: Tensor
    """int32: bits of a value behind its cell."""
    width: Tensor
    """float32: 2^-shift."""
    half: Tensor
    """int32: rows from a variable's first node up to its first one down."""

    @classmethod
    def of(cls, bits: Sequence[int], first: int) -> Places:
        """Variables with so many bits each, one behind the other from row `first`."""
        half = torch.tensor([(_OCTAVES << count) + 1 for count in bits], dtype=torch.int64)
        shift = torch.tensor([_MANTISSA - count for count in bits], dtype=torch.int32)
        starts = (2 * half).cumsum(0) - 2 * half + first
        return cls(starts.to(torch.int32), shift, 2.0 ** -shift.float(), half.to(torch.int32))

    def find(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of values [..., V]: the row of the lower node (int32), how far behind it the value is (0
        to 1), and the largest value by size (NaN where there is one).

        Values beyond the limit are read at the limit.
        """
        sizes = values.abs()
        largest = sizes.max() if sizes.numel() else sizes.new_zeros(())
        placed = sizes.clamp_(max=LIMIT).add_(1.0).view(torch.int32).sub_(_ONE)
        # The last node has no cell behind it; a NaN ends up there too.
        placed.clamp_(max=(_OCTAVES << _MANTISSA) - 1)
        cell = placed >> self.shift
        beyond = placed.sub_(cell << self.shift).to(torch.float32).mul_(self.width)
        cell.add_(self.starts).addcmul_(torch.signbit(values).to(torch.int32), self.half)
        return cell, beyond, largest


@dataclass(frozen=True, slots=True)
class Tables:
    """Curves as the rows of one matrix."""

    rows: Tensor
    """[nodes of all variables, H] float32; or uint8, see `in_bytes`."""
    places: tuple[Places, ...]
    """Of each set of curves."""
    bits: tuple[tuple[int, ...], ...]
    """Of each set, of each variable."""
    steep: tuple[tuple[int, ...], ...]
    """Of each set, the variables that no table is fine enough for: their rows are 0."""
    error: float
    """The largest error measured halfway between nodes, in units of the curve."""

    @classmethod
    def build(cls, sets: Sequence[tuple[Curves, int]], tolerance: float) -> Tables:
        """Tables of sets of curves, each with its number of variables.

        As fine as `tolerance` asks, between 1,282 and 81,922 nodes a variable.
        """
        made = [_tabulated(curves, count, tolerance) for curves, count in sets]
        places, first = [], 0
        for each in made:
            places.append(Places.of(each.bits, first))
            first += sum(len(part) for part in each.rows)
        return cls(
            torch.cat([part for each in made for part in each.rows]).contiguous(),
            tuple(places),
            tuple(tuple(each.bits) for each in made),
            tuple(tuple(each.steep) for each in made),
            max(each.error for each in made),
        )


def in_bytes(rows_KH: Tensor) -> Tensor:
    """Rows as bytes [K, H + 8]: a number is one of 256 steps between its row's least and most.

    The last eight bytes of a row say where the steps begin and how wide they are.
    """
    packed: Tensor = torch.ops.quantized.embedding_bag_byte_prepack(rows_KH)
    return packed


@dataclass(slots=True)
class _Made:
    """The tables of one set, variable by variable."""

    rows: list[Tensor]
    """[K, H]"""
    bits: list[int]
    steep: list[int] = field(default_factory=list)
    error: float = 0.0


def _tabulated(curves: Curves, count: int, tolerance: float) -> _Made:
    made = _Made([torch.empty(0)] * count, [_FEWEST] * count)
    todo = dict.fromkeys(range(count), _FEWEST)
    while todo:
        bits = min(todo.values())
        places = nodes(bits)
        these = [at for at, wanted in todo.items() if wanted == bits]
        these = these[: max(1, _AT_ONCE // len(places))]
        values = curves(places.expand(len(these), -1), these)
        found = _between(curves, these, places, values)
        for at, part, error in zip(these, values, found, strict=True):
            del todo[at]
            # Not "error > tolerance": an error may be no number.
            if error <= tolerance:
                made.rows[at], made.bits[at] = part.T, bits
                made.error = max(made.error, error)
            elif bits < _MOST:
                todo[at] = _finer(bits, error / tolerance)
            else:
                made.rows[at] = part.new_zeros(len(nodes(_FEWEST)), len(part))
                made.steep.append(at)
    made.steep.sort()
    return made


def _finer(bits: int, excess: float) -> int:
    """Bits for an error that is `excess` times too large: half the width leaves a quarter of it."""
    more = math.ceil(math.log(excess, 4.0)) if math.isfinite(excess) else _MOST
    return min(bits + max(1, more), _MOST)


def _between(curves: Curves, these: list[int], places: Tensor, values: Tensor) -> list[float]:
    """Per variable, the largest error of linear interpolation halfway between its nodes."""
    halves = (places[1:] + places[:-1]) / 2.0
    exact = curves(halves.expand(len(values), -1), these)
    error = (exact - (values[..., 1:] + values[..., :-1]) / 2.0).abs().amax(1)
    error[:, len(places) // 2 - 1] = 0.0  # from the last node up to the first one down
    largest: list[float] = error.amax(1).tolist()
    return largest
