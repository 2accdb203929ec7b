"""Gates and residual networks of fixed weights: linears multiplied out, norms' weights passed on.

Every piece gives its normalised sum without the norm's own weight and bias; what reads it has them
folded in, and what skips it asks for `affine`.

Legend: F features, X features read, R rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from forecast.fast import pieces
from forecast.fast.pieces import Weights

Affine = tuple[Tensor, Tensor]
"""A norm's weight and bias [F, 1]."""


def bent_(values: Tensor) -> Tensor:
    """1 + ELU, in place: the 1 is taken off in the bias of what reads it (see `unbent`)."""
    below = values.clamp(max=0.0).exp_()
    return values.clamp_(min=0.0).add_(below)


def unbent(weight: Tensor, bias: Tensor) -> Tensor:
    """The bias [..., F] of a linear that reads `bent_` instead of ELU."""
    return bias - weight.sum(-1)


def behind(weight: Tensor, bias: Tensor, norm: Affine | None) -> tuple[Tensor, Tensor]:
    """A linear that reads a sum before its norm's weight and bias: weight and bias [F, 1]."""
    if norm is None:
        return weight.contiguous(), bias[:, None].contiguous()
    return (weight * norm[0].T).contiguous(), bias[:, None] + weight @ norm[1]


def collapsed_gate(weights: Weights, key: str) -> tuple[Tensor, Tensor]:
    """fc2 and the gate's linear as one that reads `bent_`: weight [..., 2F, X], bias [..., 2F]."""
    w, fc2, gate = weights, weights[f"{key}_fc2_weight"], weights[f"{key}_gate_weight"]
    weight = gate @ fc2
    bias = (gate @ w[f"{key}_fc2_bias"][..., None])[..., 0] + w[f"{key}_gate_bias"]
    return weight.contiguous(), unbent(weight, bias)


def norm_of(weights: Weights, key: str) -> Affine:
    """A norm's weight and bias as columns, for what `unit_` gives."""
    weight = weights[f"{key}_norm_weight"][:, None]
    return weight * math.sqrt(len(weight)), weights[f"{key}_norm_bias"][:, None]


def unit_(values: Tensor) -> Tensor:
    """Bring features [..., F, R] to mean 0 and length 1 in place: a norm but for the root of F."""
    size = values.shape[-2]
    values.sub_(values.sum(-2, keepdim=True), alpha=1.0 / size)
    return values.mul_(inverse_length(values))


def inverse_length(values: Tensor) -> Tensor:
    """1 over the length of features [..., F, R] of mean 0, as a norm has it."""
    total = values.square().sum(-2, keepdim=True)
    return total.add_(values.shape[-2] * pieces.EPSILON).rsqrt_()


@dataclass(frozen=True, slots=True)
class Gated:
    """A gate over a linear, what skips it, and a norm."""

    weight: Tensor
    """[2F, X]"""
    bias: Tensor
    """[2F, 1]"""
    norm: Affine

    def __call__(self, rows: Tensor, skip: Tensor) -> Tensor:
        """The normalised sum [F, R] from what is read [X, R] and what skips [F, R]."""
        gates = torch.addmm(self.bias, self.weight, rows)
        size = len(skip)
        return unit_(gates[size:].sigmoid_().mul_(gates[:size]).add_(skip))

    def affine(self, normal: Tensor) -> Tensor:
        """A normalised sum with the norm's weight and bias, for what skips the next piece."""
        return torch.addcmul(self.norm[1], normal, self.norm[0])


@dataclass(frozen=True, slots=True)
class Residual:
    """A gated residual network."""

    weight: Tensor
    """[F, X]"""
    bias: Tensor
    """[F, 1]"""
    gate: Gated
    """Reads `bent_`."""

    def inward(self, rows: Tensor) -> Tensor:
        """The first linear [F, R], before ELU."""
        return torch.addmm(self.bias, self.weight, rows)

    def __call__(self, rows: Tensor, skip: Tensor) -> Tensor:
        """The normalised sum [F, R]."""
        return self.rest(self.inward(rows), skip)

    def rest(self, before: Tensor, skip: Tensor) -> Tensor:
        """All behind the first linear; overwrites `before`."""
        return self.gate(bent_(before), skip)

    def affine(self, normal: Tensor) -> Tensor:
        """See `Gated.affine`."""
        return self.gate.affine(normal)


def gated(weights: Weights, key: str, before: Affine | None) -> Gated:
    """The gate of that name, reading a sum before its norm's weights."""
    weight, bias = weights[f"{key}_gate_weight"], weights[f"{key}_gate_bias"]
    return Gated(*behind(weight, bias, before), norm_of(weights, key))


def residual(weights: Weights, key: str, before: Affine | None) -> Residual:
    """The residual network of that name, reading a sum before its norm's weights."""
    inward = behind(weights[f"{key}_fc1_weight"], weights[f"{key}_fc1_bias"], before)
    weight, bias = collapsed_gate(weights, key)
    return Residual(*inward, Gated(weight, bias[:, None].contiguous(), norm_of(weights, key)))
