"""Forgetting least squares against numpy's, and its recursive form against all at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.moments import Moments


def data(group=2, count=40, inputs=3, outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    given_GNP = rng.normal(size=(group, count, inputs))
    wanted = given_GNP @ rng.normal(size=(group, inputs, outputs))
    return given_GNP, wanted + 0.1 * rng.normal(size=wanted.shape)


def moments(inputs, outputs, *, forgetting=0.9):
    return Moments(
        group=len(inputs),
        inputs=inputs.shape[-1],
        outputs=outputs.shape[-1],
        forgetting=forgetting,
    )


def filled(inputs, outputs, age, *, forgetting=0.9):
    made = moments(inputs, outputs, forgetting=forgetting)
    made.add(inputs, outputs, np.broadcast_to(age, inputs.shape[:2]))
    return made


def test_weights_are_those_of_weighted_least_squares():
    inputs, outputs = data(group=1)
    age = np.arange(40.0)[::-1]
    root = 0.9 ** (age / 2)
    wanted, *_ = np.linalg.lstsq(inputs[0] * root[:, None], outputs[0] * root[:, None])
    made = filled(inputs, outputs, age)
    np.testing.assert_allclose(made.pooled(ridge=0.0), wanted, rtol=1e-6)
    np.testing.assert_allclose(made.alone(ridge=0.0)[0], wanted, rtol=1e-6)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(0.5, 1.0))
def test_tick_by_tick_is_the_same_as_all_at_once(pieces, forgetting):
    count = sum(pieces)
    inputs, outputs = data(count=count)
    stepped, now = moments(inputs, outputs, forgetting=forgetting), 0
    for piece in pieces:
        stepped.forget(piece)
        part = slice(now, now + piece)
        now += piece
        age = np.broadcast_to(now - 1.0 - np.arange(count)[part], (2, piece))
        stepped.add(inputs[:, part], outputs[:, part], age)
    whole = filled(inputs, outputs, np.arange(count)[::-1], forgetting=forgetting)
    np.testing.assert_allclose(
        stepped.pooled(ridge=0.1), whole.pooled(ridge=0.1), rtol=1e-6, atol=1e-9
    )


def test_an_example_of_infinite_age_does_not_count():
    inputs, outputs = data()
    age = np.where(np.arange(40) < 10, np.inf, 0.0)
    some = filled(inputs, outputs, age).pooled(ridge=0.1)
    np.testing.assert_allclose(
        some, filled(inputs[:, 10:], outputs[:, 10:], 0.0).pooled(ridge=0.1), rtol=1e-9
    )


def test_without_any_example_the_weights_are_zero():
    made = moments(*data())
    assert (made.pooled(ridge=0.1) == 0).all()
    assert (made.alone(ridge=0.1) == 0).all()


def test_a_member_is_pulled_from_its_own_weights_to_the_centre():
    inputs, outputs = data()
    made = filled(inputs, outputs, 0.0)
    centre, alone = made.pooled(ridge=0.1), made.alone(ridge=0.0)
    np.testing.assert_allclose(made.own(centre, pull=0.0), alone, rtol=1e-6, atol=1e-8)
    held = made.own(centre, pull=1e9)
    np.testing.assert_allclose(held, np.broadcast_to(centre, held.shape), atol=1e-6)
    far = [np.abs(made.own(centre, pull=pull) - centre).sum() for pull in (0.0, 1.0, 10.0)]
    assert far == sorted(far, reverse=True)


def test_a_member_without_examples_has_the_centre():
    inputs, outputs = data()
    age = np.array([[0.0], [np.inf]])
    made = filled(inputs, outputs, age)
    centre = made.pooled(ridge=0.1)
    np.testing.assert_allclose(made.own(centre, pull=10.0)[1], centre, rtol=1e-9)


@pytest.mark.parametrize("forgetting", [0.0, 1.5, -1.0])
def test_a_forgetting_that_is_none_is_refused(forgetting):
    with pytest.raises(ValueError, match="forgetting"):
        Moments(group=1, inputs=1, outputs=1, forgetting=forgetting)


def test_an_error_over_what_its_leverage_leaves_is_the_one_without_the_example():
    inputs, outputs = data(group=1, count=12)
    age = np.arange(12.0)[::-1]
    made = filled(inputs, outputs, age)
    share = made.leverage(inputs, age[None], ridge=0.0, pull=None)
    left = (outputs - inputs @ made.pooled(ridge=0.0)) / (1 - share)[..., None]
    for out in range(12):
        without = filled(inputs, outputs, np.where(np.arange(12) == out, np.inf, age))
        error = outputs[0, out] - inputs[0, out] @ without.pooled(ridge=0.0)
        np.testing.assert_allclose(left[0, out], error, rtol=1e-5)


def test_leverage_is_how_much_a_forecast_moves_with_its_own_output():
    inputs, outputs = data(group=3, count=9)
    age = np.broadcast_to(np.arange(9.0)[::-1], (3, 9))

    def forecast(given):
        made = filled(inputs, given, age)
        return (inputs @ made.own(made.pooled(ridge=0.1), pull=2.0))[1, 4]

    moved = outputs.copy()
    moved[1, 4] += 1.0
    share = filled(inputs, outputs, age).leverage(inputs, age, ridge=0.1, pull=2.0)
    np.testing.assert_allclose(forecast(moved) - forecast(outputs), share[1, 4], rtol=1e-6)


def test_what_was_left_out_has_no_leverage():
    inputs, outputs = data(group=2, count=9)
    age = np.tile(np.arange(9.0)[::-1], (2, 1))
    age[0, 3] = age[1] = np.inf
    share = filled(inputs, outputs, age).leverage(inputs, age, ridge=0.1, pull=2.0)
    assert share[0, 3] == 0.0
    assert (share[1] == 0.0).all()
    assert (np.delete(share[0], 3) > 0.0).all()


def test_the_others_weights_know_nothing_of_a_member():
    inputs, outputs = data(group=3)
    made = filled(inputs, outputs, np.arange(40.0)[::-1])
    rest = filled(inputs[1:], outputs[1:], np.arange(40.0)[::-1])
    np.testing.assert_allclose(made.others(ridge=0.1)[0], rest.pooled(ridge=0.1), rtol=1e-6)
