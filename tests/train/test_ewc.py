"""Springs on the weights: stiff where the loss depends on them, lately more than long ago."""

from __future__ import annotations

import pytest
import torch

from tests.train.windows_scene import model, windows
from train.ewc import Elastic
from train.learner import Learner
from train.recipes import Recipe


def test_springs_are_one_on_average_and_stiff_where_gradients_are_large():
    weights = [torch.zeros(2), torch.zeros(2)]
    gradients = [[torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])]]
    found = Elastic.of(weights, gradients, decay=0.9, weight=2.0)
    assert found.fisher[0].tolist() == [3.0, pytest.approx(1 / 3)]
    assert sum(float(each.sum()) for each in found.fisher) == pytest.approx(4)
    moved = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])]
    assert float(found.penalty(moved)) == pytest.approx(3.0 + 3.0)
    assert float(found.penalty(weights)) == 0


def test_what_was_seen_before_counts_less_with_every_batch():
    gradients = [[torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 1.0])]]
    found = Elastic.of([torch.zeros(2)], gradients, decay=0.5, weight=1.0)
    assert found.fisher[0].tolist() == [pytest.approx(2 / 3), pytest.approx(4 / 3)]


def test_without_any_gradient_nothing_is_held():
    found = Elastic.of([torch.zeros(2)], [[torch.zeros(2)]], decay=0.5, weight=1.0)
    assert float(found.penalty([torch.ones(2)])) == 0


def test_the_distance_is_squared_over_all_weights():
    found = Elastic.even([torch.tensor([1.0]), torch.zeros(2)], weight=0.5)
    moved = [torch.tensor([4.0]), torch.tensor([0.0, 4.0])]
    assert float(found.penalty(moved)) == pytest.approx(0.25 * (9 + 16))


def test_where_it_began_it_pulls_nowhere():
    weight = torch.ones(3, requires_grad=True)
    Elastic.even([weight], weight=2.0).penalty([weight]).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0, 0, 0]


def test_it_pulls_harder_the_farther_away():
    weight = torch.tensor([3.0, -1.0], requires_grad=True)
    Elastic.even([torch.zeros(2)], weight=2.0).penalty([weight]).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [6, -2]


def test_an_update_with_it_stays_nearer_and_says_what_it_cost():
    def moved(weight: float) -> tuple[float, dict[str, float]]:
        recipe = Recipe(
            learning_rate=0.01, epochs=3, batch_size=16, gradient_clip=1.0, proximal_weight=weight
        )
        begun = model()
        made = Learner(recipe, threads=1).update(begun, windows(), seed=0)
        before, after = begun.weights(), made.model.weights()
        away = sum(float((after[name] - before[name]).square().sum()) for name in before)
        return away, dict(made.report.losses)

    free, held = moved(0.0), moved(10.0)
    assert held[0] < free[0] / 2
    assert set(held[1]) == {"pinball", "proximal"}
    assert set(free[1]) == {"pinball"}


def test_a_weight_below_nothing_is_refused():
    with pytest.raises(ValueError, match=r"proximal_weight -1\.0 start at 0"):
        Recipe(learning_rate=0.1, epochs=1, batch_size=8, gradient_clip=1.0, proximal_weight=-1.0)
