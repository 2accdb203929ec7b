"""What the least-squares expert reads of a window, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.restless import SIGNS, inputs_of, signs_of, spans

ONE = np.ones((1, 1), np.float32)


def read(context, daily, last, unit=1.0):
    lines = [np.array([values], np.float32) for values in (context, daily, [last])]
    return inputs_of(*lines, ONE * unit)


def test_inputs_by_hand():
    found = read([1, 4, 2, 3], [5, np.nan], 3, unit=2)[0]
    assert spans(4) == (1, 2, 4)
    changes = np.arcsinh([-1, 0.5, -0.5, 1, 0])
    lows = np.arcsinh([0, 0, -0.5, 0, -1, 0.5])
    np.testing.assert_allclose(found, [*changes, *lows, 1], rtol=1e-6)


def test_a_gap_has_the_value_before_it_and_what_has_none_is_no_change():
    gap = read([1, np.nan, 3], [0], 3)
    np.testing.assert_array_equal(gap, read([1, 1, 3], [0], 3))
    np.testing.assert_array_equal(read([np.nan, 2, 3], [0], 3), read([3, 2, 3], [0], 3))
    empty = read([np.nan] * 3, [np.nan], 3)
    assert (empty[0, :-1] == 0).all()


@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=9),
    st.integers(-99, 99),
    st.integers(1, 9),
)
def test_neither_the_level_nor_the_unit_of_a_metric_is_read(values, level, unit):
    line = np.array(values, float)
    plain = read(line, line[:1], line[-1])
    moved = read(unit * line + level, unit * line[:1] + level, unit * line[-1] + level, unit)
    np.testing.assert_allclose(moved, plain, rtol=1e-5, atol=1e-5)


def test_signs_by_hand():
    inputs = read([1, 4, 2, 3], [5], 3)
    c = np.arcsinh([-2, 1, -1, 0])
    steps = np.abs(np.diff(c))
    wanted = [steps.mean(), steps[-1], steps.mean(), 0, np.arcsinh(2), 0, c.max() - c.min(), 1]
    np.testing.assert_allclose(signs_of(inputs, 4, 1)[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("context", [1, 2, 5])
def test_a_flat_window_shows_no_sign(context):
    signs = signs_of(read([7] * context, [7, 7], 7), context, 2)
    assert signs.shape == (1, SIGNS)
    assert signs[0].tolist() == [0.0] * (SIGNS - 1) + [1.0]
