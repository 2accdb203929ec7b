"""Other levels, and how likely a limit is crossed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forecast.http import distribution
from forecast.http.sheet import quantiles_json

LEVELS = (0.1, 0.5, 0.9)
PATHS = arrays(np.float32, (4, 3), elements=st.floats(-1e6, 1e6, width=32))
ANY_SIZE = arrays(
    np.float32, (4, 3), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def test_levels_between_the_known_ones_are_interpolated():
    found = distribution.at_levels(np.array([[1.0, 3.0, 7.0]]), LEVELS, (0.1, 0.3, 0.7, 0.9))
    assert found[0] == pytest.approx([1.0, 2.0, 5.0, 7.0])


def test_levels_outside_the_known_ones_are_refused():
    with pytest.raises(ValueError, match=r"between 0\.1 and 0\.9"):
        distribution.at_levels(np.array([[1.0, 3.0, 7.0]]), LEVELS, (0.95,))


def test_a_single_level_is_all_there_is_to_say():
    assert distribution.at_levels(np.array([[2.0]]), (0.5,), (0.5,)).tolist() == [[2.0]]
    assert distribution.above(np.array([[2.0]]), (0.5,), 1.0).tolist() == [1.0]
    assert distribution.above(np.array([[2.0]]), (0.5,), 2.0).tolist() == [0.0]


@pytest.mark.parametrize(
    ("limit", "chance"),
    [(10.0, 0.9), (20.0, 0.5), (15.0, 0.7), (30.0, 0.1), (32.5, 0.0), (31.25, 0.05), (7.5, 1.0)],
)
def test_the_chance_of_a_breach_follows_the_quantiles_and_their_outer_slopes(limit, chance):
    q_HQ = np.array([[10.0, 20.0, 30.0]])
    assert distribution.above(q_HQ, LEVELS, limit) == pytest.approx([chance])
    assert distribution.below(q_HQ, LEVELS, limit) == pytest.approx([1 - chance])


def test_a_certain_value_is_neither_above_nor_below_itself():
    sure = np.full((1, 3), 5.0)
    assert distribution.above(sure, LEVELS, 5.0).tolist() == [0.0]
    assert distribution.below(sure, LEVELS, 5.0).tolist() == [0.0]
    assert distribution.above(sure, LEVELS, 4.9).tolist() == [1.0]


@given(ANY_SIZE, NUMBERS)
def test_chances_are_chances_whatever_the_quantiles(q_HQ, limit):
    over = distribution.above(q_HQ, LEVELS, limit)
    under = distribution.below(q_HQ, LEVELS, limit)
    assert ((over >= 0) & (over <= 1) & (under >= 0) & (under <= 1)).all()
    assert (over + under <= 1 + 1e-9).all()


@given(PATHS, st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_a_higher_limit_is_never_likelier_crossed(q_HQ, limit, more):
    lower, higher = (distribution.above(q_HQ, LEVELS, at) for at in (limit, limit + more))
    assert (higher <= lower + 1e-9).all()


@given(ANY_SIZE)
def test_what_is_written_rises_and_is_every_bit_of_a_float32(q_HQ):
    [text] = quantiles_json(q_HQ[None].astype(np.float64), LEVELS, LEVELS)
    written = json.loads(text)
    found_HQ = np.array([written["0.1"], written["0.5"], written["0.9"]]).T
    assert (np.diff(found_HQ, axis=-1) >= 0).all()
    np.testing.assert_array_equal(found_HQ.astype(np.float32), np.sort(q_HQ, axis=-1))


@given(PATHS, st.lists(st.floats(0.1, 0.9), min_size=1, max_size=6, unique=True))
def test_interpolated_levels_never_cross(q_HQ, levels):
    [text] = quantiles_json(q_HQ[None].astype(np.float64), LEVELS, sorted(levels))
    found_QH = np.array(list(json.loads(text).values()))
    assert (np.diff(found_QH, axis=0) >= 0).all()
