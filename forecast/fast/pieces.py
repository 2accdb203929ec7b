"""The pieces a fast network is made of, in the layout that is fast: features first, rows last.

Rows (time and window) lie next to each other, so that a normalisation over features, a gate or a
bias is one pass over long contiguous runs. With features last, sixteen numbers at a time, torch's
own layer norm took ten times as long.

Legend: V variables, F features, R rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]

EPSILON = 1e-5
"""Of every normalisation, as in torch's layer norm."""
_HALF = (torch.bfloat16, torch.float16)
_LANES = 1 << 16


def elu_(values: Tensor) -> tuple[Tensor, Tensor]:
    """ELU in place, and its slope; torch's own takes three times as long."""
    slope = values.clamp(max=0.0).exp_()
    return values.clamp_(min=0.0).add_(slope).sub_(1.0), slope


class Elu(torch.autograd.Function):
    """ELU whose backward pass is one product."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401
        """`values` with ELU."""
        result, slope = elu_(values.clone())
        ctx.save_for_backward(slope)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        """The gradient of `values`."""
        (slope,) = ctx.saved_tensors
        return torch.mul(gradients[0], slope)


def full(values: Tensor) -> Tensor:
    """What a product in half precision gave, in full: sums over features need all their bits."""
    return values.float() if values.dtype in _HALF else values


def elu(values: Tensor) -> Tensor:
    """ELU with a gradient."""
    result: Tensor = Elu.apply(full(values))  # type: ignore[no-untyped-call]
    return result


def kept(shape: torch.Size | tuple[int, ...], share: float, device: torch.device) -> Tensor:
    """Bool: which numbers a dropout of `share` keeps, from torch's generator.

    Four are decided by each random integer, to 1 / 65,536: a twentieth of the time that one
    Bernoulli draw per number takes, which was a fifth of a training step.
    """
    count = 1
    for size in shape:
        count *= size
    drawn = torch.empty((count + 3) // 4, dtype=torch.int64, device=device)
    drawn.random_(-(1 << 63), None)
    lanes = drawn.view(torch.int16)[:count].view(shape)
    return lanes.ge(dropped_lanes(share) - _LANES // 2)


def dropped_lanes(share: float) -> int:
    """How many of 65,536 values mean "dropped"."""
    return min(round(share * _LANES), _LANES - 1)


def boost(share: float) -> float:
    """By what the numbers that are kept grow, so that the mean stays."""
    return _LANES / (_LANES - dropped_lanes(share))


def dropout(values: Tensor, share: float) -> Tensor:
    """`values` with a share of them 0 and the others grown."""
    if share <= 0:
        return values
    mask = kept(values.shape, share, values.device)
    return values * (mask.to(values.dtype) * boost(share))


def normalise_(values: Tensor) -> Tensor:
    """Bring features [..., F, R] to mean 0 and deviation 1 in place; gives 1 / deviation."""
    size = values.shape[-2]
    values.sub_(values.sum(-2, keepdim=True), alpha=1.0 / size)
    inverse = values.square().sum(-2, keepdim=True).div_(size).add_(EPSILON).rsqrt_()
    values.mul_(inverse)
    return inverse


def normalise_back(gradient: Tensor, normal: Tensor, inverse: Tensor) -> Tensor:
    """The gradient before `normalise_` from the one behind it; overwrites `gradient`."""
    share = 1.0 / normal.shape[-2]
    along = (gradient * normal).sum(-2, keepdim=True)
    gradient.sub_(gradient.sum(-2, keepdim=True), alpha=share)
    gradient.addcmul_(normal, along, value=-share)
    return gradient.mul_(inverse)


class Norm(torch.autograd.Function):
    """Layer norm over features [F, R] with weight and bias [F]."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401
        """The normalised values."""
        normal = values.clone()
        inverse = normalise_(normal)
        ctx.save_for_backward(normal, inverse, weight)
        return torch.addcmul(bias[:, None], normal, weight[:, None])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        """The gradients of values, weight and bias."""
        normal, inverse, weight = ctx.saved_tensors
        (given,) = gradients
        moved = normalise_back(given * weight[:, None], normal, inverse)
        return moved, (given * normal).sum(1), given.sum(1)


class GateNorm(torch.autograd.Function):
    """Gate a sum [2F, R], add what skipped it [F, R] and normalise, as one step."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        gates: Tensor,
        skip: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        """The normalised sum."""
        size = gates.shape[-2] // 2
        opening = torch.sigmoid(gates[size:])
        normal = torch.addcmul(skip, gates[:size], opening)
        inverse = normalise_(normal)
        ctx.save_for_backward(gates, opening, normal, inverse, weight)
        return torch.addcmul(bias[:, None], normal, weight[:, None])

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *gradients: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The gradients of gates, skip, weight and bias."""
        gates, opening, normal, inverse, weight = ctx.saved_tensors
        (given,) = gradients
        size = len(opening)
        moved = normalise_back(given * weight[:, None], normal, inverse)
        both = torch.empty_like(gates)
        torch.mul(moved, opening, out=both[:size])
        torch.mul(both[:size], gates[:size], out=both[size:])
        both[size:].addcmul_(both[size:], opening, value=-1.0)
        return both, moved, (given * normal).sum(1), given.sum(1)


def norm(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer norm over features [F, R]."""
    result: Tensor = Norm.apply(full(values), weight, bias)  # type: ignore[no-untyped-call]
    return result


def gate_norm(gates: Tensor, skip: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Gate [2F, R], add `skip` [F, R], normalise; `weight` and `bias` are the norm's."""
    result: Tensor = GateNorm.apply(full(gates), full(skip), weight, bias)  # type: ignore[no-untyped-call]
    return result
