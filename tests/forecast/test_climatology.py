"""Climatology: a context's own quantiles, and what answers where it says too little."""

from __future__ import annotations

import numpy as np

from forecast.baselines import copy_last
from forecast.climatology import climatology
from tests.forecast.test_baselines import CONTEXT, HORIZON, column, raw, tables

TABLES = tables(column([0, 1, 4, 3, 8]), enough=1)


def test_every_step_has_the_contexts_own_quantiles():
    answer = climatology(raw([[4, 1, 3, 2]]), TABLES, ("a",))
    assert answer.shape == (1, HORIZON, 1, 3)
    assert answer.dtype == np.float32
    wanted = np.quantile([1, 2, 3, 4], TABLES.levels)
    np.testing.assert_allclose(answer[0, :, 0], np.broadcast_to(wanted, (HORIZON, 3)), rtol=1e-6)


def test_gaps_are_left_out_and_below_half_a_context_copy_last_answers():
    windows = raw(
        [[np.nan, 5, np.nan, 7], [np.nan, np.nan, np.nan, 7], [np.nan] * CONTEXT],
        servers=("s0", "s0", "s0"),
    )
    answer = climatology(windows, TABLES, ("a",))
    np.testing.assert_allclose(answer[0, 0, 0], np.quantile([5, 7], TABLES.levels), rtol=1e-6)
    np.testing.assert_array_equal(answer[1:], copy_last(windows, TABLES, ("a",))[1:])
    assert np.isnan(answer[2]).all()


def test_it_stays_within_the_bounds_that_are_given():
    lower, upper = np.array([1.5]), np.array([3.5])
    answer = climatology(raw([[4, 1, 3, 2]]), TABLES, ("a",), lower=lower, upper=upper)
    assert answer[0, 0, 0].tolist() == [1.5, 2.5, 3.5]
