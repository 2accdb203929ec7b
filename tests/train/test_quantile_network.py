"""The fit of the quantile network: its gradient, what it learns, and that it repeats itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from forecast.least_squares import least_squares
from forecast.quantile_network import Weights, forward, quantile_network
from tests.forecast.test_least_squares import (
    CONTEXT,
    DAY,
    HORIZON,
    LEVELS,
    examples,
    loss,
    noise,
    windows,
)
from train import expert
from train.quantile_network import LEAST_EXAMPLES, fit, gradient


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


def tents(*, servers=6, slots=2000, seed=1):
    """The tent map: the next value is certain, and no line through the last ones tells it."""
    random = np.random.default_rng(seed)
    found = np.empty((servers, slots))
    found[:, 0] = random.uniform(-0.5, 0.5, servers)
    for slot in range(1, slots):
        found[:, slot] = 0.9 - 1.8 * np.abs(found[:, slot - 1])
    return found[..., None]


def test_it_learns_what_a_line_cannot_say():
    history = tents()
    known = examples(history, as_of=1500)
    origins = range(1500, 1990, 3)
    raw = windows(history, origins)
    network = quantile_network(raw, fit(known, LEVELS, seed=1))
    line = least_squares(raw, expert.fit(known, LEVELS), ("a",))
    assert loss(history, origins, network)[0] < 0.9 * loss(history, origins, line)[0]


def test_the_same_examples_and_seed_give_the_same_network_and_another_seed_another():
    known = examples(noise(targets=2))
    one, same, other = (fit(known, LEVELS, seed=seed) for seed in (4, 4, 5))
    for name, array in one.weights.each().items():
        np.testing.assert_array_equal(array, getattr(same.weights, name))
    assert not np.array_equal(one.weights.first, other.weights.first)


def test_too_few_examples_make_no_network():
    known = examples(noise(servers=1, slots=DAY + HORIZON + LEAST_EXAMPLES))
    assert fit(known, LEVELS, seed=1) is not None
    few = replace(
        known,
        origins=known.origins[:, : LEAST_EXAMPLES - 1],
        values=known.values[:, : LEAST_EXAMPLES - 1],
        daily=known.daily[:, : LEAST_EXAMPLES - 1],
    )
    assert fit(few, LEVELS, seed=1) is None


def test_a_large_fleet_has_nothing_of_each_server():
    network = fit(examples(noise(servers=5)), LEVELS, seed=1, own_servers=4)
    assert network.weights.own.shape[0] == 0
    assert np.isfinite(quantile_network(windows(noise(servers=5), [800]), network)).all()


def test_examples_with_gaps_do_not_count():
    history = noise(servers=2, slots=700)
    known = examples(history)
    values = known.values.copy()
    values[:, ::2, CONTEXT] = np.nan
    holed = fit(replace(known, values=values), LEVELS, seed=1)
    assert all(np.isfinite(one).all() for one in holed.weights.each().values())
