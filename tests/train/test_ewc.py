"""Springs on the weights: stiff where the loss depends on them, lately more than long ago."""

from __future__ import annotations

import pytest
import torch

from train.ewc import Elastic


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
