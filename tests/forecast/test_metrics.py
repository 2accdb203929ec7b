"""Losses and scores against numbers by hand and a naive implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecast import metrics
from forecast.metrics import Score, cell_sums, sums_width

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
NUMBERS = st.floats(-1e3, 1e3, width=32)
WITH_GAPS = st.one_of(NUMBERS, st.just(math.nan))


@st.composite
def forecasts(draw, gaps=True):
    elements = WITH_GAPS if gaps else NUMBERS
    n = draw(st.integers(1, 12))
    y = draw(hnp.arrays(np.float32, n, elements=elements))
    q = draw(hnp.arrays(np.float32, (n, len(LEVELS)), elements=elements))
    return y, q


def naive_wql(y, q):
    known = [i for i in range(len(y)) if not (math.isnan(y[i]) or any(map(math.isnan, q[i])))]
    size = sum(abs(float(y[i])) for i in known)
    if size == 0:
        return math.nan
    by_level = []
    for place, level in enumerate(LEVELS):
        loss = 0.0
        for i in known:
            error = float(y[i]) - float(q[i, place])
            loss += level * error if error >= 0 else (level - 1) * error
        by_level.append(2 * loss / size)
    return sum(by_level) / len(by_level)


def test_pinball_by_hand():
    # y - q = 2, 0, -2 at the levels 0.1, 0.5, 0.9: 0.1 * 2, 0, (0.9 - 1) * -2
    loss = metrics.pinball(np.array(3.0), np.array([1.0, 3.0, 5.0]), (0.1, 0.5, 0.9))
    np.testing.assert_allclose(loss, [0.2, 0.0, 0.2])


@given(forecasts())
def test_pinball_is_never_negative_and_zero_only_where_met(case):
    y, q = case
    loss = metrics.pinball(y, q, LEVELS)
    known = ~np.isnan(loss)
    assert (loss[known] >= 0).all()
    assert ((loss == 0) == (y[:, None] == q))[known].all()


@given(forecasts(gaps=False), st.floats(0.125, 8))
def test_pinball_grows_with_the_unit(case, unit):
    y, q = (array.astype(np.float64) for array in case)
    np.testing.assert_allclose(
        metrics.pinball(y * unit, q * unit, LEVELS), unit * metrics.pinball(y, q, LEVELS), atol=1e-9
    )


@given(forecasts(gaps=False))
def test_pinball_of_the_median_is_half_the_absolute_error(case):
    y, q = case
    loss = metrics.pinball(y, q[:, 2:3], (0.5,))[:, 0]
    np.testing.assert_allclose(loss, np.abs(y.astype(np.float64) - q[:, 2]) / 2)


@given(
    hnp.arrays(np.float64, st.integers(1, 30), elements=NUMBERS), st.sampled_from(LEVELS), NUMBERS
)
def test_no_constant_beats_the_quantile_under_its_pinball_loss(y, level, other):
    best = np.quantile(y, level, method="inverted_cdf")
    losses = [
        metrics.pinball(y, np.full((len(y), 1), value), (level,)).sum() for value in (best, other)
    ]
    assert losses[0] <= losses[1] + 1e-6


@given(forecasts())
def test_wql_equals_the_naive_one(case):
    np.testing.assert_allclose(metrics.wql(*case, LEVELS), naive_wql(*case), rtol=1e-6)


@given(forecasts())
def test_the_read_out_of_sums_equals_the_functions(case):
    y, q = case
    score = Score(cell_sums(y, q, LEVELS).sum(0), LEVELS)
    np.testing.assert_allclose(score.wql, metrics.wql(y, q, LEVELS), rtol=1e-9)
    shares = metrics.coverage(y, q, LEVELS)
    if score.n:
        np.testing.assert_allclose(score.coverage, list(shares.values()))
        known = ~(np.isnan(y) | np.isnan(q).any(-1))
        error = (y.astype(np.float64) - q[:, 2])[known]
        np.testing.assert_allclose(score.mae, np.abs(error).mean())
        np.testing.assert_allclose(score.rmse, np.sqrt((error**2).mean()))
        assert score.n == known.sum()
        np.testing.assert_allclose(score.below, (y[known][:, None] <= q[known]).mean(0))
    else:
        assert shares == {}


@given(forecasts(), st.integers(0, 12))
def test_scores_of_parts_add_up_to_the_score_of_the_whole(case, cut):
    cells = cell_sums(*case, LEVELS)
    parts = Score(cells[:cut].sum(0), LEVELS) + Score(cells[cut:].sum(0), LEVELS)
    np.testing.assert_allclose(parts.sums, cells.sum(0), rtol=1e-9)


def test_coverage_counts_the_ends_of_an_interval():
    q = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]] * 4)
    y = np.array([1.0, 2.0, 5.0, 5.1])
    assert metrics.coverage(y, q, LEVELS) == {0.8: 0.75, 0.4: 0.25}


def test_the_share_below_a_level_counts_its_end_and_needs_no_symmetry():
    levels = (0.1, 0.5, 0.8, 0.9)
    q = np.array([[1.0, 2.0, 3.0, 4.0]] * 4)
    score = Score(cell_sums(np.array([1.0, 2.5, 3.0, 9.0]), q, levels).sum(0), levels)
    assert score.below.tolist() == [0.25, 0.25, 0.75, 0.75]
    assert score.coverage.tolist() == [0.75]


def test_central_intervals_need_both_sides():
    assert metrics.central_intervals((0.1, 0.5, 0.8, 0.9)) == ((0.8, 0, 3),)
    assert metrics.central_intervals((0.2, 0.5)) == ()


def test_a_masked_cell_and_an_infinite_forecast_add_nothing():
    y = np.array([1.0, 2.0, 3.0])
    q = np.array([[1.0, 1.0, 1.0]] * 3)
    q[1, 2] = np.inf
    cells = cell_sums(y, q, (0.1, 0.5, 0.9), np.array([True, True, False]))
    assert cells[:, 0].tolist() == [1, 0, 0]
    assert np.isfinite(cells).all()


def test_nothing_compared_reads_as_nan():
    score = Score(np.zeros(sums_width(LEVELS)), LEVELS)
    assert score.n == 0
    assert all(np.isnan(value) for value in (score.mae, score.rmse, score.wql, score.pinball))
    assert np.isnan(score.coverage).all()
    assert np.isnan(score.below).all()
    assert math.isnan(metrics.wql(np.zeros(2), np.zeros((2, 5)), LEVELS))


def test_point_errors_need_the_median():
    with pytest.raises(ValueError, match=r"0\.5"):
        cell_sums(np.zeros(1), np.zeros((1, 2)), (0.1, 0.9))
