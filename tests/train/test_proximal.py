"""The proximal penalty: half the weight times the squared distance from the start."""

from __future__ import annotations

import pytest
import torch

from tests.train.windows_scene import model, windows
from train.learner import Learner
from train.proximal import Proximal
from train.recipes import Recipe


def test_the_distance_is_squared_over_all_weights():
    found = Proximal.of([torch.tensor([1.0]), torch.zeros(2)], weight=0.5)
    moved = [torch.tensor([4.0]), torch.tensor([0.0, 4.0])]
    assert float(found.penalty(moved)) == pytest.approx(0.25 * (9 + 16))


def test_where_it_began_it_pulls_nowhere():
    weight = torch.ones(3, requires_grad=True)
    Proximal.of([weight], weight=2.0).penalty([weight]).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0, 0, 0]


def test_it_pulls_harder_the_farther_away():
    weight = torch.tensor([3.0, -1.0], requires_grad=True)
    Proximal.of([torch.zeros(2)], weight=2.0).penalty([weight]).backward()
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
