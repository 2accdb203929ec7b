"""Adaptation to drifts: the share of the gap that is closed, how long it takes, what comes back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.adaptation import Hours, adaptation, closed, days_after, headroom, revisit
from bench.scenarios import Change
from forecast.metrics import Score, cell_sums

LEVELS = (0.1, 0.5, 0.9)
SLOTS, HOURS = 12, 96
DRIFT = Change("scale", ("a",), 24 * SLOTS, None)
AWAY = Change("splice", ("a",), 24 * SLOTS, 48 * SLOTS)
AGAIN = Change("splice", ("a",), 72 * SLOTS, None)


def hours(errors):
    """A member of one server and one target that errs by so much in each hour."""
    made = np.asarray(errors, float)[:, None, None] + np.array([-0.1, 0.0, 0.1])
    sums = cell_sums(np.zeros((HOURS, 1)) + 10.0, 10.0 + made, LEVELS)
    return Hours(0, {"a": sums}, LEVELS, SLOTS)


def course(before, after, slow=0):
    """The errors of each hour: other ones from the drift on, after so many hours of ten."""
    return [before] * 24 + [10.0] * slow + [after] * (HOURS - 24 - slow)


def test_half_of_the_gap_is_half():
    frozen, oracle, row = (hours(course(1.0, after)) for after in (5.0, 1.0, 3.0))
    assert closed(row, frozen, oracle, [DRIFT]) == pytest.approx(0.5)
    assert headroom(frozen, oracle, [DRIFT]) == pytest.approx(0.8, abs=0.01)
    assert closed(row, oracle, frozen, [DRIFT]) is None


def test_adaptation_ends_where_the_mean_of_six_hours_stays_near_the_oracle():
    oracle = hours(course(1.0, 1.0))
    assert adaptation(oracle, oracle, [DRIFT]) == [6.0]
    # A mean of six hours is good once none of the bad ones is in it.
    assert adaptation(hours(course(1.0, 1.05, slow=10)), oracle, [DRIFT]) == [16.0]
    assert adaptation(hours(course(1.0, 2.0)), oracle, [DRIFT]) == [math.inf]


def test_a_relapse_within_twelve_hours_does_not_count():
    errors = course(1.0, 1.0)
    errors[24 + 10] = 10.0
    assert adaptation(hours(errors), hours(course(1.0, 1.0)), [DRIFT]) == [17.0]


def test_what_comes_back_is_compared_with_the_time_before():
    frozen = hours([1.0] * HOURS)
    forgot = hours([1.0] * 48 + [1.5] * 24 + [9.0] * 24)
    assert revisit(forgot, frozen, [AWAY, AGAIN]) == pytest.approx(1.5, abs=0.05)
    assert revisit(frozen, frozen, [AWAY, AGAIN]) == pytest.approx(1.0)
    assert revisit(frozen, frozen, [DRIFT]) is None


def test_days_after_a_drift_begin_a_horizon_later_and_are_whole():
    sums = days_after(hours(course(1.0, 5.0)), [DRIFT], 1)
    assert len(sums) == (HOURS - 25) // 24
    assert Score(sums, LEVELS).n.tolist() == [24, 24]
    assert days_after(hours(course(1.0, 5.0)), [AWAY], 1).shape[0] == 0
