"""Variable selection of fixed weights: shares by small products, curves by one `embedding_bag`.

Curves that are too steep for a table are computed beside it.

Legend: V real variables, K nodes, F features, H hidden size, N windows, S steps, R = N x S rows,
C real columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from forecast.fast.branches import branches, curves
from forecast.fast.gates import Affine, Gated, bent_, collapsed_gate, inverse_length, norm_of
from forecast.fast.pieces import Weights
from forecast.fast.selection import (
    FoldedSelection,
    category_branch,
    flat_linear,
    flat_skip,
    fold,
    skip_inputs,
)
from forecast.fast.shape import Shape
from forecast.fast.tables import Curves

Columns = slice | list[int]


@dataclass(frozen=True, slots=True)
class Shares:
    """The network that says how much of each variable."""

    inward: Tensor
    """[F, V] of the values; its bias comes with the context."""
    bias: Tensor
    """[F, 1]"""
    skip_weight: Tensor
    """[variables, V], centered over the variables where a norm follows."""
    skip_bias: Tensor
    """[variables, 1]"""
    skip_norm: Affine | None
    gate: Gated

    def __call__(self, before: Tensor, skip: Tensor) -> Tensor:
        """[variables, R] from first layer and skip, both overwritten."""
        if self.skip_norm is not None:
            unit = skip.mul_(inverse_length(skip))
            skip = torch.addcmul(self.skip_norm[1], unit, self.skip_norm[0])
        return torch.softmax(self.gate.affine(self.gate(bent_(before), skip)), 0)


def shares_of(weights: Weights, shape: Shape, kind: str) -> Shares | None:
    """The weighing network of one selection; None where there is one variable."""
    key = f"{kind}_flat"
    if f"{key}_fc1_weight" not in weights:
        return None
    weight, bias = collapsed_gate(weights, key)
    norm = None
    if getattr(shape, f"{kind}_reals"):
        inward, first, skip_weight, skip_bias = flat_linear(
            weights, fold(weights, shape, kind), key
        )
    else:
        count = len(weights[f"{key}_norm_weight"])
        first, skip_bias = weights[f"{key}_fc1_bias"], weight.new_zeros(count)
        inward, skip_weight = first.new_zeros(len(first), 0), weight.new_zeros(count, 0)
    if f"{key}_skip_mask" in weights:
        norm = norm_of(weights, f"{key}_skip")
        skip_weight, skip_bias = (part - part.mean(0) for part in (skip_weight, skip_bias))
    gate = Gated(weight, bias[:, None].contiguous(), norm_of(weights, key))
    return Shares(
        inward.contiguous(),
        first[:, None],
        skip_weight.contiguous(),
        skip_bias[:, None],
        norm,
        gate,
    )


def curves_of(weights: Weights, shape: Shape, kind: str) -> tuple[Curves, int]:
    """The curves of one selection's real variables, and how many there are."""
    folded = fold(weights, shape, kind)

    def evaluate(values_WK: Tensor, which: list[int]) -> Tensor:
        some = folded.only(which)
        return curves(values_WK, skip_inputs(some, values_WK), some.each)

    return evaluate, len(getattr(shape, f"{kind}_reals"))


def bag(rows: Tensor, cell_RV: Tensor, beyond_RV: Tensor, share_VR: Tensor) -> Tensor:
    """[R, H] the curves between a node and the next one, each times its share, summed."""
    count, variables = cell_RV.shape
    both = cell_RV.new_empty(count, 2 * variables)
    both[:, :variables] = cell_RV
    torch.add(cell_RV, 1, out=both[:, variables:])
    weight = beyond_RV.new_empty(count, 2 * variables)
    torch.mul(beyond_RV, share_VR.T, out=weight[:, variables:])
    torch.sub(share_VR.T, weight[:, variables:], out=weight[:, :variables])
    if rows.dtype != torch.uint8:
        return functional.embedding_bag(both, rows, mode="sum", per_sample_weights=weight)
    begins = torch.arange(0, both.numel(), 2 * variables, dtype=torch.int32)
    summed: Tensor = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        rows, both.view(-1), begins, per_sample_weights=weight.view(-1)
    )
    return summed


def span(columns: list[int]) -> Columns:
    """The columns as a slice where they are neighbours: a view instead of a copy."""
    first, last = (columns[0], columns[-1]) if columns else (0, -1)
    return slice(first, last + 1) if columns == list(range(first, last + 1)) else columns


@dataclass(frozen=True, slots=True)
class Steep:
    """The variables of one selection that no table is fine enough for: their curves themselves."""

    which: list[int]
    folded: FoldedSelection
    """Of these alone."""

    def add_to(self, chosen_RH: Tensor, values_RV: Tensor, share_VR: Tensor) -> Tensor:
        """[R, H] what was read off the tables, with these, each times its share."""
        if not self.which:
            return chosen_RH
        values_VR = values_RV.T[self.which].contiguous()
        skip_VUR = skip_inputs(self.folded, values_VR)
        each = self.folded.each
        return chosen_RH + branches(values_VR, share_VR[self.which], skip_VUR, 0.0, each).T


def steep_of(weights: Weights, shape: Shape, kind: str, which: Sequence[int]) -> Steep:
    """Those of one selection."""
    chosen = list(which)
    return Steep(chosen, fold(weights, shape, kind).only(chosen))


@dataclass(frozen=True, slots=True)
class Selection:
    """The variables of context or horizon."""

    columns: Columns
    rows: Tensor
    """The tables."""
    steep: Steep
    shares: Shares | None

    def __call__(
        self, values_NSV: Tensor, cell: Tensor, beyond: Tensor, context_FN: Tensor
    ) -> Tensor:
        """[N, S, H] weighed and summed; `context_FN` is the first layer's bias per window."""
        count, steps, _ = values_NSV.shape
        values_RV = values_NSV.flatten(0, 1)
        shares = self.shares
        if shares is None:
            share_VR = values_RV.new_ones(1, len(values_RV))
        else:
            before = shares.inward @ values_RV.T
            before.view(-1, count, steps).add_(context_FN[..., None])
            skip = torch.addmm(shares.skip_bias, shares.skip_weight, values_RV.T)
            share_VR = shares(before, skip)
        chosen = bag(self.rows, cell.flatten(0, 1), beyond.flatten(0, 1), share_VR)
        return self.steep.add_to(chosen, values_RV, share_VR).view(count, steps, -1)


@dataclass(frozen=True, slots=True)
class Static:
    """The static variables; of each category all that it adds is precomputed."""

    columns: Columns
    rows: Tensor
    """The tables."""
    steep: Steep | None
    """None where there are categories alone."""
    shares: Shares | None
    category_columns: tuple[int, ...]
    inward: tuple[Tensor, ...]
    """Of each categorical variable [categories, F]: what it adds to the first layer."""
    skips: tuple[Tensor, ...]
    """[categories, variables]: what it adds to the skip."""
    branches: tuple[Tensor, ...]
    """[categories, H]"""

    def __call__(
        self, values: Tensor, cell: Tensor, beyond: Tensor, categories_NK: Tensor
    ) -> Tensor:
        """[H, N] weighed and summed."""
        chosen = [categories_NK[:, column] for column in self.category_columns]
        shares = self.shares
        if shares is None:
            share = values.new_ones(1, len(values))
        else:
            before = torch.addmm(shares.bias, shares.inward, values.T)
            skip = torch.addmm(shares.skip_bias, shares.skip_weight, values.T)
            for inward, skips, rows in zip(self.inward, self.skips, chosen, strict=True):
                before += inward[rows].T
                skip += skips[rows].T
            share = shares(before, skip)
        first = len(chosen)
        total = [
            branch[rows] * share[place][:, None]
            for place, (branch, rows) in enumerate(zip(self.branches, chosen, strict=True))
        ]
        if self.steep is not None:
            read = bag(self.rows, cell, beyond, share[first:])
            total.append(self.steep.add_to(read, values, share[first:]))
        summed = total[0]
        for more in total[1:]:
            summed = summed + more
        return summed.T.contiguous()


def selection_of(
    weights: Weights, shape: Shape, kind: str, rows: Tensor, steep: Sequence[int]
) -> Selection:
    """The variables of `encoder` or `decoder`; those of `steep` are computed."""
    columns = span(shape.columns_of(getattr(shape, f"{kind}_reals")))
    computed = steep_of(weights, shape, kind, steep)
    return Selection(columns, rows, computed, shares_of(weights, shape, kind))


def static_of(weights: Weights, shape: Shape, rows: Tensor, steep: Sequence[int]) -> Static | None:
    """The static variables, None where there are none; those of `steep` are computed."""
    if not shape.static_reals and not shape.static_categories:
        return None
    shares = shares_of(weights, shape, "static")
    inward, skips, branches, at = [], [], [], 0
    for index, category in enumerate(shape.static_categories):
        embedding = weights[f"embedding_{category.column}"]
        branches.append(category_branch(weights, shape, index, embedding.T).T.contiguous())
        if shares is not None:
            columns = slice(at, at + category.size)
            down = flat_skip(weights, "static_flat")[:, columns]
            if shares.skip_norm is not None:
                down = down - down.mean(0)
            inward.append(embedding @ weights["static_flat_fc1_weight"][:, columns].T)
            skips.append(embedding @ down.T)
        at += category.size
    return Static(
        columns=span(shape.columns_of(shape.static_reals)),
        rows=rows,
        steep=steep_of(weights, shape, "static", steep) if shape.static_reals else None,
        shares=shares,
        category_columns=tuple(category.column for category in shape.static_categories),
        inward=tuple(inward),
        skips=tuple(skips),
        branches=tuple(branches),
    )
