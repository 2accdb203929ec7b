"""Copy-last and seasonal naive with residual quantiles, against numbers by hand and numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecast import baselines
from forecast.baselines import residual_tables
from forecast.windows import RawWindows
from tests.bits import bits

LEVELS = (0.1, 0.5, 0.9)
CONTEXT, HORIZON, DAY = 4, 2, 8


def tables(history, *, horizon=HORIZON, season=DAY, levels=LEVELS, enough=3, servers=None):
    history = np.asarray(history, np.float32)
    return residual_tables(
        history,
        as_of=history.shape[1] - 1,
        servers=servers or tuple(f"s{row}" for row in range(history.shape[0])),
        targets=tuple("ab"[: history.shape[2]]),
        levels=levels,
        horizon=horizon,
        season=season,
        min_residuals=enough,
    )


def raw(values, *, daily=None, weekly=None, servers=("s0",), metrics=("a",)):
    """Windows of one metric from values [N][CONTEXT]; lags [N][CONTEXT + HORIZON]."""
    shape = (len(servers), CONTEXT + HORIZON, len(metrics))
    whole = np.full(shape, np.nan, np.float32)
    whole[:, :CONTEXT] = np.asarray(values, np.float32).reshape(len(servers), CONTEXT, -1)

    def lag(given):
        return np.full(shape, np.nan if given is None else given, np.float32)

    return RawWindows(
        servers=tuple(servers),
        roles=("",) * len(servers),
        timezones=("UTC",) * len(servers),
        metrics=tuple(metrics),
        context=CONTEXT,
        horizon=HORIZON,
        step_seconds=10800,
        origin=np.zeros(len(servers), np.int64),
        values=whole,
        daily=lag(daily),
        weekly=lag(weekly),
        spread=np.ones((len(servers), len(metrics)), np.float32),
    )


def lag_of(*steps):
    """A lag that is known for the horizon only."""
    return np.array([np.nan] * CONTEXT + list(steps))[None, :, None]


def column(values):
    return np.asarray(values, np.float32)[None, :, None]


def test_residual_quantiles_by_hand():
    # One step: 1, 3, -1, 5, sorted -1, 1, 3, 5: median 2. Two steps: 4, 2, 4: median 4.
    # A season of 3 slots: 3, 7: at 0.1 it is 3 + 0.1 * 4.
    found = tables(column([0, 1, 4, 3, 8]), season=3, enough=1)
    assert found.copy_last.shape == (1, 2, 1, 3)
    assert found.copy_last[0, :, 0, 1].tolist() == [2, 4]
    np.testing.assert_allclose(found.copy_last[0, 0, 0], [-0.4, 2, 4.4], rtol=1e-6)
    np.testing.assert_allclose(found.seasonal[0, 0, 0], [3.4, 5, 6.6], rtol=1e-6)
    np.testing.assert_array_equal(found.seasonal[0, 1], found.seasonal[0, 0])


HISTORY = hnp.arrays(
    np.float32,
    (2, 20, 2),
    elements=st.one_of(st.floats(-100, 100, width=32), st.just(np.nan)),
)


@given(HISTORY)
def test_residual_quantiles_equal_numpys_whatever_the_gaps(history):
    found = tables(history, enough=1)
    for server in range(2):
        for target in range(2):
            y = history[server, :, target]
            for step, kind in ((1, found.copy_last), (2, found.copy_last), (DAY, found.seasonal)):
                residuals = y[step:] - y[:-step]
                residuals = residuals[~np.isnan(residuals)].astype(np.float64)
                if residuals.size:
                    row = kind[server, step - 1 if step <= HORIZON else 0, target]
                    np.testing.assert_allclose(
                        row, np.quantile(residuals, LEVELS), rtol=1e-5, atol=1e-4
                    )


@given(HISTORY)
def test_tables_are_always_finite_and_rise_with_the_level(history):
    found = tables(history)
    for table in (found.copy_last, found.seasonal, found.pooled_copy_last, found.pooled_seasonal):
        assert np.isfinite(table).all()
        assert (np.diff(table, axis=-1) >= 0).all()


def test_a_server_with_few_residuals_takes_the_pooled_ones_times_its_own_deviation():
    rng = np.random.default_rng(1)
    walk = rng.normal(size=(1, 400, 1)).cumsum(axis=1)
    short = np.full((1, 400, 1), np.nan)
    short[0, -30:, 0] = 100 * rng.normal(size=30)
    found = tables(np.concatenate([walk, 10 * walk, short]), enough=30)
    # The same walk in another unit: the same residuals in deviations.
    np.testing.assert_allclose(found.copy_last[1], 10 * found.copy_last[0], rtol=1e-4, atol=1e-4)
    deviation = np.nanstd(short.astype(np.float32))
    np.testing.assert_allclose(
        found.copy_last[2], found.pooled_copy_last * deviation, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        found.pooled_copy_last[0, 0], found.copy_last[0, 0, 0] / walk.std(), atol=0.03
    )


def test_a_server_with_hardly_a_value_has_the_fleets_deviation():
    rng = np.random.default_rng(2)
    history = rng.normal(size=(4, 200, 1)) * np.array([1, 2, 3, 1])[:, None, None]
    history[3, :-2] = np.nan
    found = tables(history, enough=10)
    np.testing.assert_allclose(found.deviation, history[1].std(), rtol=0.01)
    np.testing.assert_allclose(
        found.copy_last[3], found.pooled_copy_last * found.deviation, rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(0, 9, 1), (2, 0, 1), (2, 1, 1), (2, 2, 1)])
def test_a_fleet_without_history_forecasts_points(shape):
    found = tables(np.zeros(shape), enough=5)
    assert (found.copy_last == 0).all()
    assert (found.pooled_seasonal == 0).all()
    answer = baselines.copy_last(raw([[1, 2, 3, 7]], servers=("new",)), found, ("a",))
    assert (answer == 7).all()


def test_a_large_fleet_is_thinned_evenly_over_the_day():
    rng = np.random.default_rng(3)
    history = rng.normal(size=(60, 3000, 1)).astype(np.float32)
    found = tables(history, season=288, levels=(0.1, 0.3, 0.5, 0.7, 0.9))
    np.testing.assert_allclose(
        found.pooled_copy_last[0, 0], found.copy_last[:, 0, 0].mean(0), atol=0.03
    )


def test_copy_last_adds_the_residuals_to_the_newest_value():
    found = tables(column([0, 1, 4, 3, 8]), season=3, enough=1)
    answer = baselines.copy_last(raw([[9, 9, 20, np.nan]]), found, ("a",))
    assert answer.shape == (1, HORIZON, 1, 3)
    assert answer.dtype == np.float32
    assert answer[0, :, 0, 1].tolist() == [22, 24]


def test_seasonal_naive_adds_the_residuals_to_yesterdays_value():
    found = tables(column([0, 1, 4, 3, 8]), season=3, enough=1)
    answer = baselines.seasonal_naive(raw([[9, 9, 9, 9]], daily=lag_of(30, 40)), found, ("a",))
    assert answer[0, :, 0, 1].tolist() == [35, 45]


def test_seasonal_naive_falls_back_to_copy_last_step_by_step():
    found = tables(column([0, 1, 4, 3, 8]), season=3, enough=1)
    window = raw([[9, 9, 9, 20]], daily=lag_of(np.nan, 40))
    answer = baselines.seasonal_naive(window, found, ("a",))
    assert answer[0, :, 0, 1].tolist() == [22, 45]


def test_an_empty_context_is_answered_from_the_day_or_the_week_before():
    found = tables(column([0, 1, 4, 3, 8]), season=3, enough=1)
    empty = [[np.nan] * CONTEXT]
    from_day = baselines.copy_last(raw(empty, daily=lag_of(5, 6), weekly=1), found, ("a",))
    from_week = baselines.copy_last(raw(empty, weekly=1), found, ("a",))
    assert from_day[0, 0, 0, 1] == 6 + 2
    assert from_week[0, 0, 0, 1] == 1 + 2


def test_a_server_never_seen_has_no_number_to_answer_with():
    found = tables(column([0, 1, 4, 3, 8]), enough=1)
    empty = raw([[np.nan] * CONTEXT])
    assert np.isnan(baselines.copy_last(empty, found, ("a",))).all()
    assert np.isnan(baselines.seasonal_naive(empty, found, ("a",))).all()


def test_a_server_the_tables_do_not_know_takes_the_pooled_ones_times_a_deviation(monkeypatch):
    rng = np.random.default_rng(4)
    found = tables(rng.normal(size=(3, 300, 1)).cumsum(axis=1))
    window = raw([[0, 2, 0, 2], [1, 2, 3, 4]], servers=("new", "s1"))
    known_deviation = baselines.copy_last(window, found, ("a",))
    typical = 2 + found.pooled_copy_last * found.deviation[0]
    np.testing.assert_allclose(known_deviation[0], typical, rtol=1e-5)
    np.testing.assert_allclose(known_deviation[1], 4 + found.copy_last[1], rtol=1e-5)
    monkeypatch.setattr(baselines, "MIN_RESIDUALS", CONTEXT)
    own = baselines.copy_last(window, found, ("a",))
    np.testing.assert_allclose(own[0], 2 + found.pooled_copy_last * 1.0, rtol=1e-5)


def test_forecasts_stay_within_the_bounds_that_are_given():
    found = tables(column([0, 5, -4, 3, 8]), season=2, enough=1)
    lower, upper = np.array([2.5]), np.array([np.inf])
    window = raw([[1, 1, 1, 3]], daily=lag_of(3, 3))
    for forecast in (baselines.copy_last, baselines.seasonal_naive):
        answer = forecast(window, found, ("a",), lower=lower, upper=upper)
        free = forecast(window, found, ("a",))
        np.testing.assert_array_equal(answer, np.maximum(free, np.float32(2.5)))
        assert answer.min() == 2.5


def test_targets_are_found_by_name_in_windows_and_tables():
    history = np.stack([np.arange(20.0), np.zeros(20)], axis=-1)[None]
    found = tables(history)
    window = raw([[[0, 1, 9], [0, 2, 9], [0, 3, 9], [0, 4, 9]]], metrics=("x", "b", "a"))
    answer = baselines.copy_last(window, found, ("b", "a"))
    assert answer[0, :, 0, 1].tolist() == [4, 4]
    assert answer[0, :, 1, 1].tolist() == [10, 11]


def test_an_unknown_target_or_a_longer_horizon_is_an_error():
    found = tables(column([0, 1, 4, 3, 8]), enough=1)
    with pytest.raises(ValueError, match=r"\['c'\]"):
        baselines.copy_last(raw([[1, 2, 3, 4]]), found, ("c",))
    short = tables(column([0, 1, 4, 3, 8]), horizon=1, enough=1)
    with pytest.raises(ValueError, match="horizon 2 is longer than the tables' 1"):
        baselines.copy_last(raw([[1, 2, 3, 4]]), short, ("a",))


def test_history_that_does_not_fit_its_names_is_an_error():
    with pytest.raises(ValueError, match="2 servers"):
        tables(np.zeros((1, 9, 1)), servers=("a", "b"))


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(5)
    walk = rng.normal(size=(8, 3000, 1)).cumsum(axis=1)
    found = tables(walk[:, :2000], season=288)
    later = walk[:, 2000:]
    inside = [
        (
            (change >= found.copy_last[:, step - 1, :, 0][:, None])
            & (change <= found.copy_last[:, step - 1, :, 2][:, None])
        ).mean()
        for step in (1, 2)
        for change in [later[:, step:] - later[:, :-step]]
    ]
    np.testing.assert_allclose(inside, 0.8, atol=0.03)


def test_the_same_history_gives_the_same_bits():
    history = np.random.default_rng(7).normal(size=(3, 60, 2))
    assert bits(tables(history)) == bits(tables(history.copy()))
