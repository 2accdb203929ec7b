from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forecast.definition import define
from forecast.fast.shape import Shape
from forecast.model import Model, ModelSpec, build, forward, pinball, shape_of, with_weights
from forecast.windows import WindowSpec, inverse, transform
from tests.forecast.window_scene import ROLES, gauge, made, rate

METRICS = (gauge("cpu", lower=0.0, upper=8.0), rate("net"), gauge("training"))
NAMES = tuple(metric.name for metric in METRICS)
WINDOW = WindowSpec(300, 8, 3, METRICS, ("net", "cpu"), ROLES)
LEVELS = (0.1, 0.5, 0.9)
SPEC = ModelSpec(WINDOW, LEVELS, hidden_size=4, hidden_continuous_size=2)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(SPEC, build(SPEC, seed=1))


def weights_of(model: Model) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.network.parameters())


def test_weights_are_a_function_of_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = build(SPEC, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = build(SPEC, seed=1), build(SPEC, seed=2)
    pairs = zip(one.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)
    assert not torch.equal(
        torch.nn.utils.parameters_to_vector(one.parameters()),
        torch.nn.utils.parameters_to_vector(other.parameters()),
    )


@given(
    roles=st.integers(0, 90),
    hidden=st.integers(1, 20),
    per_real=st.integers(1, 9),
    layers=st.integers(1, 2),
    targets=st.sampled_from([("net",), ("net", "cpu")]),
)
@settings(max_examples=5)  # a network of the library takes a second to build
@example(roles=64, hidden=16, per_real=8, layers=1, targets=("net",))
@example(roles=3, hidden=2, per_real=2, layers=1, targets=("net",))
def test_the_shape_is_that_of_the_network_that_defines_it(roles, hidden, per_real, layers, targets):
    names = ("", *(f"role-{number}" for number in range(roles)))
    spec = ModelSpec(
        WindowSpec(300, 8, 3, METRICS, targets, names),
        LEVELS,
        hidden_size=hidden,
        lstm_layers=layers,
        hidden_continuous_size=per_real,
    )
    network = define(spec, seed=0)
    assert shape_of(spec) == Shape.of(network)
    again = with_weights(spec, network.state_dict()).state_dict()
    assert all(map(torch.equal, again.values(), (network.state_dict()[name] for name in again)))


def test_a_forecast_is_what_the_network_says_in_natural_units(model):
    raw = made(NAMES, count=5, gaps=0.2)
    natural = model.predict(raw)
    windows = transform(raw, WINDOW)
    with torch.no_grad():
        scaled = forward(model.network, windows).numpy()
    np.testing.assert_array_equal(natural, inverse(scaled, windows, WINDOW))
    assert natural.shape == (5, 3, 2, 3)
    assert natural.dtype == np.float32
    assert (np.diff(natural, axis=3) >= 0).all()
    assert (natural >= 0).all()
    assert (natural[:, :, 1] <= 8).all()


def test_a_forecast_is_repeatable_even_from_a_network_in_training(model):
    raw = made(NAMES, count=5, gaps=0.2)
    first = model.predict(raw)
    model.network.train()
    np.testing.assert_array_equal(model.predict(raw), first)


def test_what_the_other_windows_hold_changes_no_bit(model):
    raw, others = made(NAMES, count=6), made(NAMES, count=6, gaps=0.5, seed=9)
    values = others.values.copy()
    values[2] = raw.values[2]
    mixed = replace(
        others,
        values=values,
        **{
            name: np.concatenate(
                [getattr(others, name)[:2], getattr(raw, name)[2:3], getattr(others, name)[3:]]
            )
            for name in ("daily", "weekly", "spread")
        },
    )
    np.testing.assert_array_equal(model.predict(mixed)[2], model.predict(raw)[2])


def test_how_windows_are_batched_changes_only_the_last_bits(model):
    raw = made(NAMES, count=7, gaps=0.2)
    whole = model.predict(raw)
    scale = transform(raw, WINDOW).scale.min()
    for size in (1, 3, 4):
        np.testing.assert_allclose(model.predict(raw, size), whole, rtol=1e-5, atol=1e-5 * scale)
    order = np.array([4, 2, 6, 0])
    found = model.predict(raw.select(order))
    np.testing.assert_allclose(found, whole[order], rtol=1e-5, atol=1e-5 * scale)


def test_no_windows_give_no_forecasts(model):
    assert model.predict(made(NAMES, count=0)).shape == (0, 3, 2, 3)


def test_a_copy_has_the_weights_but_not_the_memory(model):
    copy = model.copy()
    assert torch.equal(weights_of(copy), weights_of(model))
    with torch.no_grad():
        next(copy.network.parameters()).add_(1.0)
    assert not torch.equal(weights_of(copy), weights_of(model))


def test_every_weight_learns():
    """A feature the network does not read would leave weights without a gradient."""
    network = build(SPEC, seed=1)
    windows = transform(made(NAMES, count=16, gaps=0.2), WINDOW)
    pinball(forward(network, windows), torch.from_numpy(windows.target), LEVELS).backward()
    idle = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert idle == []


def test_the_pinball_loss_of_one_label():
    pred = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 1, 1, 3)
    loss = pinball(pred, torch.tensor([[[3.0]]]), LEVELS)
    # 0.1 * 2, 0.5 * 1, 0.1 * 1
    assert loss.item() == pytest.approx((0.2 + 0.5 + 0.1) / 3)


@given(st.integers(0, 10_000))
def test_unknown_labels_change_neither_loss_nor_gradient(seed):
    draw = torch.Generator().manual_seed(seed)
    pred = torch.randn(4, 3, 2, 3, generator=draw, requires_grad=True)
    target = torch.randn(4, 3, 2, generator=draw)
    hidden = torch.rand(4, 3, 2, generator=draw) < 0.5
    loss = pinball(pred, torch.where(hidden, torch.nan, target), LEVELS)
    [gradient] = torch.autograd.grad(loss, pred)
    assert not gradient[hidden].any()
    if hidden.all():
        assert loss.item() == 0.0
    else:
        seen = pinball(
            pred[~hidden].reshape(-1, 1, 1, 3), target[~hidden].reshape(-1, 1, 1), LEVELS
        )
        torch.testing.assert_close(loss, seen)


def test_a_spec_survives_json():
    assert ModelSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantiles": ()}, "must rise"),
        ({"quantiles": (0.5, 0.1)}, "must rise"),
        ({"quantiles": (0.0, 0.5)}, "must rise"),
        ({"attention_heads": 5}, "5 heads"),
        ({"lstm_layers": 0}, "0 layers"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_a_spec_that_makes_no_network_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SPEC, **change)


def test_windows_and_artifacts_do_without_torch():
    """The buffer and the registry hold both, and torch takes seconds and memory to import."""
    code = "import sys, forecast.windows, forecast.artifact; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
def test_a_network_on_a_gpu_forecasts_what_it_does_on_the_cpu(model):
    windows = transform(made(NAMES, count=5), WINDOW)
    moved = model.copy()
    moved.network.to("cuda")
    np.testing.assert_allclose(moved.scaled(windows), model.scaled(windows), atol=1e-4)
