"""Variable selection: how much of each variable, and the sum; linear pieces folded into one.

A real variable's embedding is linear in its value. So are the first linear layer of its network,
its part in the weighing network's first layer, and the skips around both before they are
normalised: each is folded into one weight and one bias per value. The folding itself is a few
hundred numbers, left to autograd.

Legend: V variables, F features inside, H hidden size, R rows = T steps x N windows, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from forecast.fast import pieces
from forecast.fast.branches import Folded, branches
from forecast.fast.pieces import Weights
from forecast.fast.shape import Shape


@dataclass(frozen=True, slots=True)
class FoldedSelection:
    """One selection network's reals as functions of their values."""

    each: Folded
    curve: tuple[Tensor, Tensor, Tensor] | None
    """[V] a, b, c: the skip's variance is a value² + b value + c; None: it is not normalised."""
    embed_weight: Tensor
    """[V, E]"""
    embed_bias: Tensor
    """[V, E]"""

    def only(self, which: list[int]) -> FoldedSelection:
        """The same of some of the variables."""
        a_b_c = self.curve
        return FoldedSelection(
            Folded(*(weight[which] for weight in self.each.tensors())),
            None if a_b_c is None else (a_b_c[0][which], a_b_c[1][which], a_b_c[2][which]),
            self.embed_weight[which],
            self.embed_bias[which],
        )


def fold(weights: Weights, shape: Shape, kind: str) -> FoldedSelection:
    """The weights of `kind`'s networks with their linear pieces multiplied out."""
    w, key = weights, f"{kind}_each"
    rows = shape.rows_of(getattr(shape, f"{kind}_reals"))
    scale, shift = w["scale_weight"][rows], w["scale_bias"][rows][..., None]  # [V, E, 1]
    fc1 = w[f"{key}_fc1_weight"]
    curve = None
    if f"{key}_skip_mask" in w:
        mask = 2.0 * torch.sigmoid(w[f"{key}_skip_mask"])[..., None]
        up = resampling(shape.per_real, shape.hidden, scale)
        slope, level = (up @ scale) * mask, (up @ shift) * mask
        slope, level = slope - slope.mean(1, keepdim=True), level - level.mean(1, keepdim=True)
        curve = (
            slope.square().mean((1, 2)),
            2.0 * (slope * level).mean((1, 2)),
            level.square().mean((1, 2)),
        )
        grown = w[f"{key}_skip_norm_weight"][..., None]
        skip_weight = torch.cat([slope, level], 2) * grown
        skip_bias = w[f"{key}_skip_norm_bias"][..., None]
    else:
        skip_weight, skip_bias = torch.cat([scale, shift], 2), torch.zeros_like(shift)
    each = Folded(
        inward_weight=fc1 @ scale,
        inward_bias=fc1 @ shift + w[f"{key}_fc1_bias"][..., None],
        inner_weight=w[f"{key}_fc2_weight"],
        inner_bias=w[f"{key}_fc2_bias"][..., None],
        gate_weight=w[f"{key}_gate_weight"],
        gate_bias=w[f"{key}_gate_bias"][..., None],
        skip_weight=skip_weight,
        skip_bias=skip_bias,
        norm_weight=w[f"{key}_norm_weight"][..., None],
        norm_bias=w[f"{key}_norm_bias"][..., None],
    )
    return FoldedSelection(each, curve, scale[..., 0], shift[..., 0])


def resampling(size: int, out: int, like: Tensor) -> Tensor:
    """[out, size] the linear interpolation that brings `size` numbers to `out`."""
    one = torch.eye(size, dtype=like.dtype, device=like.device)[:, None]
    grown = functional.interpolate(one, out, mode="linear", align_corners=True)
    return grown[:, 0].T


def skip_inputs(folded: FoldedSelection, values_VR: Tensor) -> Tensor:
    """[V, 2, R] value and 1, over the skip's deviation where it is normalised."""
    if folded.curve is None:
        return torch.stack([values_VR, torch.ones_like(values_VR)], 1)
    a, b, c = (part[:, None] for part in folded.curve)
    inverse = (values_VR * (values_VR * a + b) + (c + pieces.EPSILON)).rsqrt()
    return torch.stack([values_VR * inverse, inverse], 1)


def select(
    weights: Weights,
    folded: FoldedSelection,
    kind: str,
    values_VTN: Tensor,
    context_HN: Tensor,
    drop: float,
) -> Tensor:
    """[H, T, N] the variables of context or horizon, weighed and summed."""
    values_VR = values_VTN.flatten(1)
    if len(values_VR) == 1:
        share_VR = torch.ones_like(values_VR)
    else:
        share_VR = _shares(weights, folded, kind, values_VTN, context_HN, drop)
    skip_VUR = skip_inputs(folded, values_VR)
    summed = branches(values_VR, share_VR, skip_VUR, drop, folded.each)
    return summed.view(-1, *values_VTN.shape[1:])


def _shares(
    weights: Weights,
    folded: FoldedSelection,
    kind: str,
    values_VTN: Tensor,
    context_HN: Tensor,
    drop: float,
) -> Tensor:
    """[V, R] how much of each variable."""
    w, key = weights, f"{kind}_flat"
    inward, bias, skip_weight, skip_bias = flat_linear(w, folded, key)
    from_context = (w[f"{key}_context"] @ context_HN) + bias[:, None]
    before = (inward @ values_VTN.flatten(1)).view(-1, *values_VTN.shape[1:])
    before = (before + from_context[:, None]).flatten(1)
    skip = torch.addmm(skip_bias[:, None], skip_weight, values_VTN.flatten(1))
    return flat_shares(w, key, before, skip, drop)


def flat_linear(
    weights: Weights, folded: FoldedSelection, key: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weighing network's first layer and its skip as linear functions of its real values.

    Weight and bias of the layer, then of the skip. What categories add, whose columns are the first
    ones, is not part of them.
    """
    w = weights
    first, down = w[f"{key}_fc1_weight"], flat_skip(w, key)
    inward, bias = _embedded_by(first, folded)
    skip_weight, skip_bias = _embedded_by(down, folded)
    return inward, bias + w[f"{key}_fc1_bias"], skip_weight, skip_bias


def flat_skip(weights: Weights, key: str) -> Tensor:
    """[V, embeddings] what skips the weighing network, before it is normalised."""
    first = weights[f"{key}_fc1_weight"]
    count, total = len(weights[f"{key}_norm_weight"]), first.shape[1]
    if f"{key}_skip_mask" not in weights:
        return torch.eye(total, dtype=first.dtype, device=first.device)
    mask = 2.0 * torch.sigmoid(weights[f"{key}_skip_mask"])[:, None]
    return resampling(total, count, first) * mask


def _embedded_by(matrix: Tensor, folded: FoldedSelection) -> tuple[Tensor, Tensor]:
    """A linear function of the embeddings as one of the values: weight and bias."""
    count, size = folded.embed_weight.shape
    last = matrix[:, matrix.shape[1] - count * size :].view(-1, count, size)
    return (last * folded.embed_weight).sum(2), (last * folded.embed_bias).sum((1, 2))


def flat_shares(weights: Weights, key: str, before: Tensor, skip: Tensor, drop: float) -> Tensor:
    """The weighing network behind its first layer, for rows [F, R]: shares [V, R]."""
    w = weights
    if f"{key}_skip_mask" in w:
        skip = pieces.norm(skip, w[f"{key}_skip_norm_weight"], w[f"{key}_skip_norm_bias"])
    inner = torch.addmm(w[f"{key}_fc2_bias"][:, None], w[f"{key}_fc2_weight"], pieces.elu(before))
    inner = pieces.dropout(inner, drop)
    gates = torch.addmm(w[f"{key}_gate_bias"][:, None], w[f"{key}_gate_weight"], inner)
    weighed = pieces.gate_norm(gates, skip, w[f"{key}_norm_weight"], w[f"{key}_norm_bias"])
    return torch.softmax(weighed, 0)


def static_embedding(
    weights: Weights, shape: Shape, cont_NC: Tensor, categories_NK: Tensor, drop: float
) -> Tensor:
    """[H, N] the static variables, categories first, weighed and summed; 0 where there are none."""
    w = weights
    embedded = _embedded(w, shape, categories_NK)
    summed = [category_branch(w, shape, index, each) for index, each in enumerate(embedded)]
    count = len(embedded) + len(shape.static_reals)
    if count == 0:
        return cont_NC.new_zeros(shape.hidden, len(cont_NC))
    values_VN = cont_NC.T[shape.columns_of(shape.static_reals)].contiguous()
    folded = fold(w, shape, "static") if shape.static_reals else None
    if count == 1:
        shares = cont_NC.new_ones(1, len(cont_NC))
    else:
        shares = _static_shares(w, folded, embedded, values_VN, drop)
    total = [share * each for share, each in zip(shares, summed, strict=False)]
    if folded is not None:
        share = shares[len(embedded) :]
        skip = skip_inputs(folded, values_VN)
        total.append(branches(values_VN, share, skip, drop, folded.each))
    return torch.stack(total).sum(0)


def _embedded(weights: Weights, shape: Shape, categories_NK: Tensor) -> list[Tensor]:
    """Of each category [E, N]."""
    return [
        functional.embedding(
            categories_NK[:, category.column],
            weights[f"embedding_{category.column}"],
            padding_idx=0 if category.padded else None,
        ).T
        for category in shape.static_categories
    ]


def category_branch(weights: Weights, shape: Shape, index: int, embedded: Tensor) -> Tensor:
    """[H, N] one category's branch: resampled, masked, normalised."""
    key = f"static_category_{shape.static_categories[index].column}"
    if len(embedded) != shape.hidden:
        embedded = resampling(len(embedded), shape.hidden, embedded) @ embedded
    masked = embedded * (2.0 * torch.sigmoid(weights[f"{key}_mask"]))[:, None]
    return pieces.norm(masked, weights[f"{key}_norm_weight"], weights[f"{key}_norm_bias"])


def _static_shares(
    weights: Weights,
    folded: FoldedSelection | None,
    embedded: list[Tensor],
    values_VN: Tensor,
    drop: float,
) -> Tensor:
    """[V, N] how much of each static variable; these rows are few, so nothing is folded."""
    w, parts = weights, list(embedded)
    if folded is not None:
        real = values_VN[:, None] * folded.embed_weight[..., None] + folded.embed_bias[..., None]
        parts.append(real.flatten(0, 1))
    flat = torch.cat(parts)
    before = torch.addmm(w["static_flat_fc1_bias"][:, None], w["static_flat_fc1_weight"], flat)
    return flat_shares(w, "static_flat", before, flat_skip(w, "static_flat") @ flat, drop)
