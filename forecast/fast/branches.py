"""All variables of a selection network at once: each one's gated residual network, weighed, summed.

A real's embedding is linear in its value, so a variable's network is a function of one number; the
linear pieces in front are folded before they come here. What is left is computed in layout
[variable, feature, row], a few hundred rows at a time, so that the working set stays in the second
level cache; the backward pass computes it again rather than reading it back from memory.

Legend: V variables, F features inside a network, H hidden size, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forecast.fast import pieces

_AT_A_TIME = 100_000
"""Numbers [V, H, rows] in one piece of work, half a megabyte a tensor.

Measured: in one piece a training step of 64 windows takes twice as long, a forward pass of 512
three times; half or twice as much changes little.
"""


@dataclass(frozen=True, slots=True)
class Folded:
    """The weights of V networks; each maps one number to H."""

    inward_weight: Tensor
    """[V, F, 1]"""
    inward_bias: Tensor
    """[V, F, 1]"""
    inner_weight: Tensor
    """[V, F, F]"""
    inner_bias: Tensor
    """[V, F, 1]"""
    gate_weight: Tensor
    """[V, 2H, F]"""
    gate_bias: Tensor
    """[V, 2H, 1]"""
    skip_weight: Tensor
    """[V, H, 2] of the two numbers in `skip_VUR`."""
    skip_bias: Tensor
    """[V, H, 1]"""
    norm_weight: Tensor
    """[V, H, 1]"""
    norm_bias: Tensor
    """[V, H, 1]"""

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in order."""
        return tuple(getattr(self, name) for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class _Within:
    """What one piece of the forward pass leaves for the backward pass."""

    slope: Tensor
    first: Tensor
    mask: Tensor | None
    inner: Tensor
    gates: Tensor
    opening: Tensor
    normal: Tensor
    inverse: Tensor


class _Branches(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        values_VR: Tensor,
        share_VR: Tensor,
        skip_VUR: Tensor,
        dropout: float,
        *weights: Tensor,
    ) -> Tensor:
        folded = Folded(*weights)
        variables, rows = values_VR.shape
        inner, hidden = folded.inward_weight.shape[1], folded.norm_weight.shape[1]
        mask = None
        if dropout > 0:
            mask = pieces.kept((variables, inner, rows), dropout, values_VR.device)
        out = values_VR.new_empty(hidden, rows)
        for part in _parts(values_VR, hidden):
            some = _forward(folded, values_VR, skip_VUR, mask, dropout, part)
            share = share_VR[:, part]
            some.normal.mul_(share[:, None]).mul_(folded.norm_weight)
            torch.sum(some.normal, 0, out=out[:, part])
            out[:, part] += folded.norm_bias[..., 0].T @ share
        ctx.save_for_backward(values_VR, share_VR, skip_VUR, mask, *weights)
        ctx.dropout = dropout
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        values_VR, share_VR, skip_VUR, mask, *weights = ctx.saved_tensors
        folded, given = Folded(*weights), gradients[0]
        to_share, to_skip = torch.empty_like(share_VR), torch.empty_like(skip_VUR)
        sums = [torch.zeros_like(weight) for weight in weights]
        for part in _parts(values_VR, given.shape[0]):
            some = _forward(folded, values_VR, skip_VUR, mask, ctx.dropout, part)
            piece = (given[:, part], values_VR[:, part], share_VR[:, part], skip_VUR[..., part])
            moved = _outer_back(folded, some, piece, sums, to_share[:, part])
            to_skip[..., part] = torch.bmm(folded.skip_weight.mT, moved)
            _inner_back(folded, some, moved, piece[1], ctx.dropout, sums)
        return None, to_share, to_skip, None, *sums


def branches(
    values_VR: Tensor, share_VR: Tensor, skip_VUR: Tensor, dropout: float, folded: Folded
) -> Tensor:
    """[H, R] the sum of the networks' outputs, each times its share; `values_VR` get no gradient.

    `skip_VUR` [V, 2, R] are the numbers that the linear skip reads: value and 1, each times the
    skip's normalisation where there is one.
    """
    given = (values_VR, share_VR, skip_VUR, dropout, *folded.tensors())
    result: Tensor = _Branches.apply(*given)  # type: ignore[no-untyped-call]
    return result


def curves(values_VR: Tensor, skip_VUR: Tensor, folded: Folded) -> Tensor:
    """[V, H, R] each network's own output, without dropout; no gradient."""
    some = _forward(folded, values_VR, skip_VUR, None, 0.0, slice(None))
    return torch.addcmul(folded.norm_bias, some.normal, folded.norm_weight)


def _parts(values_VR: Tensor, hidden: int) -> list[slice]:
    """Slices of the rows; one on a GPU, where many small kernels cost more than memory."""
    variables, rows = values_VR.shape
    most = max(64, _AT_A_TIME // (variables * hidden) // 16 * 16)
    size = rows if values_VR.is_cuda else most
    return [slice(start, min(start + size, rows)) for start in range(0, rows, max(size, 1))]


def _forward(
    folded: Folded,
    values_VR: Tensor,
    skip_VUR: Tensor,
    mask: Tensor | None,
    dropout: float,
    part: slice,
) -> _Within:
    """The networks' outputs before the last norm's weights, for some rows."""
    values = values_VR[:, None, part]
    first, slope = pieces.elu_(torch.addcmul(folded.inward_bias, folded.inward_weight, values))
    inner = torch.baddbmm(folded.inner_bias, folded.inner_weight, first)
    grown = None
    if mask is not None:
        grown = mask[..., part].to(inner.dtype).mul_(pieces.boost(dropout))
        inner.mul_(grown)
    gates = torch.baddbmm(folded.gate_bias, folded.gate_weight, inner)
    hidden = gates.shape[1] // 2
    opening = torch.sigmoid(gates[:, hidden:])
    normal = torch.baddbmm(folded.skip_bias, folded.skip_weight, skip_VUR[..., part])
    normal.addcmul_(gates[:, :hidden], opening)
    inverse = pieces.normalise_(normal)
    return _Within(slope, first, grown, inner, gates, opening, normal, inverse)


def _outer_back(
    folded: Folded,
    some: _Within,
    piece: tuple[Tensor, Tensor, Tensor, Tensor],
    sums: list[Tensor],
    to_share: Tensor,
) -> Tensor:
    """Through the weighed sum and the norm; gives the gradient of the gated sum [V, H, rows]."""
    given, _, share, skip = piece
    hidden = len(given)
    weight, bias = folded.norm_weight, folded.norm_bias[..., 0]
    product = some.normal * given
    along = torch.bmm(weight.mT, product)  # [V, 1, rows]
    torch.addmm(along[:, 0], bias, given, out=to_share)
    sums[8] += torch.bmm(product, share[..., None])
    sums[9] += (share @ given.T)[..., None]
    moved = torch.mul(weight, given, out=product)
    moved.sub_((weight[..., 0] @ given)[:, None] / hidden)
    moved.addcmul_(some.normal, along, value=-1.0 / hidden)
    moved.mul_(some.inverse * share[:, None])
    sums[6] += torch.bmm(moved, skip.mT)
    sums[7] += moved.sum(2, keepdim=True)
    return moved


def _inner_back(
    folded: Folded,
    some: _Within,
    moved: Tensor,
    values: Tensor,
    dropout: float,
    sums: list[Tensor],
) -> None:
    """Through gate, dropout and both linears; adds to the sums of their weights."""
    hidden = moved.shape[1]
    gates = torch.empty_like(some.gates)
    torch.mul(moved, some.opening, out=gates[:, :hidden])
    closing = torch.mul(gates[:, :hidden], some.gates[:, :hidden], out=gates[:, hidden:])
    closing.addcmul_(closing, some.opening, value=-1.0)
    sums[4] += torch.bmm(gates, some.inner.mT)
    sums[5] += gates.sum(2, keepdim=True)
    inner = torch.bmm(folded.gate_weight.mT, gates)
    if some.mask is not None:
        inner.mul_(some.mask)
    sums[2] += torch.bmm(inner, some.first.mT)
    sums[3] += inner.sum(2, keepdim=True)
    first = torch.bmm(folded.inner_weight.mT, inner).mul_(some.slope)
    sums[0] += torch.bmm(first, values[..., None])
    sums[1] += first.sum(2, keepdim=True)
