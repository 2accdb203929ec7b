"""Server optimisers against torch's and against the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.federated.optimizers import Moments, capped, step
from train.federated.settings import AggregatorSettings

DELTAS = np.random.default_rng(3).normal(size=(6, 5)) * 1e-4


def walk(optimizer: str, deltas: np.ndarray = DELTAS, **given) -> tuple[np.ndarray, Moments]:
    """Where the steps for these deltas lead from 0, and the moments then."""
    settings, moments = AggregatorSettings(optimizer=optimizer, **given), Moments()
    place = np.zeros(deltas.shape[1])
    for each in deltas:
        made, moments = step(moments, each.copy(), settings)
        place += made
    return place, moments


def test_the_plain_step_is_the_delta():
    place, moments = walk("plain")
    assert place == pytest.approx(DELTAS.sum(0), rel=1e-15)
    assert walk("plain", learning_rate=0.5)[0] == pytest.approx(DELTAS.sum(0) / 2, rel=1e-15)
    assert moments.steps == 6


def test_momentum_is_torch_s_sgd():
    weight = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([weight], lr=0.3, momentum=0.8)
    for each in DELTAS:
        weight.grad = torch.from_numpy(-each)
        sgd.step()
    place, _ = walk("momentum", learning_rate=0.3, momentum=0.8)
    assert place == pytest.approx(weight.detach().numpy(), rel=1e-12)


def test_adam_is_torch_s_in_units_of_the_first_delta():
    scale = float(np.sqrt(np.mean(DELTAS[0] ** 2)))
    tau, rate = 0.1, 0.3
    weight = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weight], lr=rate, betas=(0.9, 0.99))
    for number, each in enumerate(DELTAS, start=1):
        # Torch corrects the second moment's start at 0; ours starts at tau squared and is not
        # corrected. The same step comes out of a rate and an eps that undo it.
        correction = (1 - 0.99**number) ** 0.5
        adam.param_groups[0].update(lr=rate / correction, eps=tau / correction)
        weight.grad = torch.from_numpy(-each / scale)
        if number == 1:
            begun = {"step": torch.tensor(0.0), "exp_avg": torch.zeros(5, dtype=torch.float64)}
            adam.state[weight] = {**begun, "exp_avg_sq": torch.full((5,), tau**2).double()}
        adam.step()
    place, moments = walk("adam", learning_rate=rate, tau=tau)
    assert place == pytest.approx(weight.detach().numpy() * scale, rel=1e-6)
    assert (moments.steps, moments.scale) == (6, pytest.approx(scale))


def test_yogi_is_the_formula_written_out():
    scale = float(np.sqrt(np.mean(DELTAS[0] ** 2)))
    first, second, place = np.zeros(5), np.full(5, 0.01), np.zeros(5)
    for number, each in enumerate(DELTAS, start=1):
        unit = each / scale
        first = 0.9 * first + 0.1 * unit
        second = second - 0.01 * unit**2 * np.sign(second - unit**2)
        place += scale * first / (1 - 0.9**number) / (np.sqrt(second) + 0.1)
    assert walk("yogi")[0] == pytest.approx(place, rel=1e-12)


@pytest.mark.parametrize("optimizer", ["plain", "momentum", "adam", "yogi"])
def test_a_smaller_delta_gives_a_step_smaller_by_as_much(optimizer):
    place, _ = walk(optimizer)
    tiny, _ = walk(optimizer, DELTAS * 1e-3)
    assert tiny == pytest.approx(place * 1e-3, rel=1e-9)


@pytest.mark.parametrize("optimizer", ["adam", "yogi"])
def test_the_first_step_is_no_multiple_of_tens_of_the_delta(optimizer):
    for size in (1e-5, 1e-3, 1e-1):
        place, _ = walk(optimizer, np.full((1, 4), size))
        assert 0.5 * size < place[0] < 5 * size


@pytest.mark.parametrize("optimizer", ["plain", "momentum", "adam", "yogi"])
def test_deltas_of_nothing_move_nothing_and_a_frozen_coordinate_poisons_nothing(optimizer):
    place, _ = walk(optimizer, np.zeros((3, 4)))
    assert place.tolist() == [0, 0, 0, 0]
    frozen = DELTAS.copy()
    frozen[:, 2] = 0
    place, _ = walk(optimizer, frozen)
    assert np.isfinite(place).all()
    assert place[2] == 0


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "yogi"])
def test_moments_are_replaced_and_never_written_to(optimizer):
    _, moments = walk(optimizer, DELTAS[:2])
    assert moments.first is not None
    before = moments.first.copy()
    step(moments, DELTAS[3].copy(), AggregatorSettings(optimizer=optimizer))
    assert (moments.first == before).all()


def test_a_step_beyond_its_cap_keeps_its_direction():
    made, norm, cut = capped(np.array([3.0, 4.0]), 1.0)
    assert (made.tolist(), norm, cut) == ([pytest.approx(0.6), pytest.approx(0.8)], 1.0, True)
    made, norm, cut = capped(np.array([3.0, 4.0]), np.inf)
    assert (made.tolist(), norm, cut) == ([3.0, 4.0], 5.0, False)
