"""The quantile network's gradient by hand against torch's, and AdamW against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forecast.quantile_network import Weights, forward
from tests.forecast.test_least_squares import HORIZON
from train.descent import gradient, moved


def drawn(seed, *, levels, servers=3, targets=2, inputs=7, width=5, embedding=4):
    random = np.random.default_rng(seed)
    shapes = {
        "shared": (targets, embedding),
        "own": (servers, targets, embedding),
        "embedded": (embedding, width),
        "first": (inputs, width),
        "first_bias": (width,),
        "second": (width, width),
        "second_bias": (width,),
        "direct": (inputs, HORIZON),
        "direct_bias": (HORIZON,),
        "out": (width, HORIZON * levels),
        "out_bias": (HORIZON * levels,),
    }
    return Weights(**{k: random.normal(size=v).astype(np.float32) for k, v in shapes.items()})


@pytest.mark.parametrize("levels", [1, 2, 3, 7])
@pytest.mark.parametrize("servers", [0, 3])
def test_the_gradient_is_that_of_automatic_differentiation(levels, servers):
    random = np.random.default_rng(levels)
    weights, count = drawn(levels, levels=levels, servers=servers), 11
    given = random.normal(size=(count, 7)).astype(np.float32)
    server = random.integers(-1, max(servers, 1), count) if servers else np.full(count, -1)
    target = random.integers(0, 2, count)
    kept = [2.0 * random.integers(0, 2, (count, 5)).astype(np.float32) for _ in range(2)]
    slope = random.normal(size=(count, HORIZON, levels)).astype(np.float32)
    passed = forward(weights, given, server, target, kept=(kept[0], kept[1]))
    found = gradient(weights, given, server, target, passed, kept, slope)

    one = {k: torch.tensor(v, requires_grad=True) for k, v in weights.each().items()}
    e = one["shared"][target]
    if servers:
        own = one["own"][np.maximum(server, 0), target]
        e = e + torch.where(torch.tensor(server >= 0)[:, None], own, 0.0)
    x, silu = torch.tensor(given), torch.nn.functional.silu
    h1 = silu(x @ one["first"] + e @ one["embedded"] + one["first_bias"]) * torch.tensor(kept[0])
    h2 = h1 + silu(h1 @ one["second"] + one["second_bias"]) * torch.tensor(kept[1])
    o = (h2 @ one["out"] + one["out_bias"]).view(count, HORIZON, levels)
    at = levels // 2
    middle = (x @ one["direct"] + one["direct_bias"] + o[..., at])[..., None]
    apart = torch.nn.functional.softplus(o - 1)
    below = apart[..., :at].flip(-1).cumsum(-1).flip(-1)
    made = torch.cat([middle - below, middle, middle + apart[..., at + 1 :].cumsum(-1)], -1)
    np.testing.assert_allclose(passed.quantiles, made.detach().numpy(), rtol=1e-4, atol=1e-4)
    (made * torch.tensor(slope)).sum().backward()
    for name, tensor in one.items():
        wanted = np.zeros_like(found[name]) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(found[name], wanted, rtol=2e-3, atol=2e-3, err_msg=name)


def test_a_step_is_that_of_adamw():
    random = np.random.default_rng(2)
    now = {"a": random.normal(size=(3, 2)).astype(np.float32)}
    moments = {"a": (np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32))}
    tensor = torch.tensor(now["a"], requires_grad=True)
    theirs = torch.optim.AdamW([tensor], lr=0.1, weight_decay=0.01)
    for step in range(1, 6):
        slope = random.normal(size=(3, 2)).astype(np.float32)
        now = moved(now, {"a": slope.copy()}, moments, 0.1, step, decay=0.01)
        tensor.grad = torch.tensor(slope)
        torch.nn.utils.clip_grad_norm_([tensor], 1.0)
        theirs.step()
        np.testing.assert_allclose(now["a"], tensor.detach().numpy(), rtol=1e-4, atol=1e-5)
