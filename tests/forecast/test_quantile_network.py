"""The quantile network's answers: what they never are, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from forecast.baselines import newest
from forecast.quantile_network import forward, quantile_network
from tests.forecast.test_least_squares import (
    CONTEXT,
    GAPPY,
    HORIZON,
    LEVELS,
    examples,
    noise,
    windows,
)
from train.quantile_network import fit

HISTORY = noise(servers=3, slots=400, targets=2)
TARGETS = ("a", "b")
NETWORK = fit(examples(HISTORY), LEVELS, seed=3)


def test_it_answers_every_series_with_rising_levels():
    raw = windows(HISTORY, [390, 393])
    found = quantile_network(raw, NETWORK, TARGETS)
    assert found.shape == (6, HORIZON, 2, len(LEVELS))
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=-1) >= 0).all()


def test_a_server_it_does_not_know_is_answered_as_any_server():
    raw = windows(HISTORY, [390])
    unknown = windows(HISTORY, [390], servers=("new-1", "new-2", "new-3"))
    found = quantile_network(unknown, NETWORK, TARGETS)
    assert np.isfinite(found).all()
    width = np.abs(found - quantile_network(raw, NETWORK, TARGETS)).max()
    assert width < HISTORY.max() - HISTORY.min()


@settings(max_examples=40)
@given(GAPPY)
def test_answers_rise_with_the_level_and_are_missing_only_where_copy_last_is(history):
    raw = windows(history, [50, 69, 79], servers=("s0", "new"))
    answer = quantile_network(raw, NETWORK, TARGETS)
    known = ~np.isnan(newest(raw, [0, 1]))
    assert (np.isfinite(answer) == known[:, None, :, None]).all()
    rising = np.diff(answer, axis=-1)
    assert (rising[~np.isnan(rising)] >= 0).all()


def test_windows_of_another_shape_or_metric_are_refused():
    raw = windows(HISTORY, [390], metrics=("a", "c"))
    with pytest.raises(
        ValueError,
        match=r"forecasts \('a', 'b'\), asked for \('a', 'b'\) of windows with \('a', 'c'\)",
    ):
        quantile_network(raw, NETWORK, TARGETS)
    other = replace(NETWORK, context=CONTEXT + 1)
    with pytest.raises(ValueError, match="8 and 3 slots are not the network's 9 and 3"):
        quantile_network(windows(HISTORY, [390]), other, TARGETS)


def test_limits_clip():
    raw = windows(HISTORY, [390])
    low, high = np.array([5.0, 0.0]), np.array([5.5, 1.0])
    found = quantile_network(raw, NETWORK, TARGETS, lower=low, upper=high)
    assert (found[:, :, 0] >= 5.0).all()
    assert (found[:, :, 1] <= 1.0).all()


def test_no_server_of_its_own_is_the_same_as_minus_one():
    weights = replace(NETWORK.weights, own=np.zeros_like(NETWORK.weights.own))
    given_NP = np.random.default_rng(0).normal(size=(4, len(weights.first))).astype(np.float32)
    target = np.array([0, 1, 0, 1])
    known = forward(weights, given_NP, np.array([0, 1, 2, 0]), target).quantiles
    unknown = forward(weights, given_NP, np.full(4, -1), target).quantiles
    np.testing.assert_array_equal(known, unknown)
