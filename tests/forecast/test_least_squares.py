"""The forgetting least-squares expert: what it learns, what it never says, and from when on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecast import baselines
from forecast.least_squares import least_squares
from forecast.raw_windows import RawWindows
from tests.bits import bits
from train.examples import Examples
from train.expert import fit

LEVELS = (0.1, 0.5, 0.9)
CONTEXT, HORIZON, DAY = 8, 3, 24


def examples(history, *, as_of=None, logs=None, stride=1, targets=None):
    """Every window of a history [S, W, T] that ends at `as_of`, its last slot by itself."""
    history = np.asarray(history, np.float32)
    servers, length, count = history.shape
    as_of = length - 1 if as_of is None else as_of
    origins = np.arange(as_of - HORIZON, DAY - 1, -stride)[::-1]
    slots = origins[:, None] + np.arange(1 - CONTEXT, HORIZON + 1)
    return Examples(
        as_of=as_of,
        servers=tuple(f"s{row}" for row in range(servers)),
        targets=targets or tuple("ab"[:count]),
        logs=logs or (False,) * count,
        floors=(1e-6,) * count,
        context=CONTEXT,
        slots_per_day=DAY,
        origins=np.broadcast_to(origins, (servers, len(origins))),
        values=history[:, slots],
        daily=history[:, slots[:, CONTEXT:] - DAY],
    )


def windows(history, origins, *, servers=None, metrics=None):
    """One window of each server and origin, without labels, from [S, W, T]; origin by origin."""
    history = np.asarray(history, np.float32)
    count, _, width = history.shape
    names = tuple(servers or (f"s{row}" for row in range(count)))
    slots = np.asarray(origins)[:, None] + np.arange(1 - CONTEXT, HORIZON + 1)

    def cut(lag):
        at = slots - lag
        inside = (at >= 0) & (at < history.shape[1])
        found = np.where(inside[None, ..., None], history[:, np.where(inside, at, 0)], np.nan)
        return np.moveaxis(found, 0, 1).reshape(-1, CONTEXT + HORIZON, width)

    values = cut(0)
    values[:, CONTEXT:] = np.nan
    return RawWindows(
        servers=names * len(slots),
        roles=("",) * len(values),
        timezones=("UTC",) * len(values),
        metrics=metrics or tuple("ab"[:width]),
        context=CONTEXT,
        horizon=HORIZON,
        step_seconds=3600,
        origin=np.repeat(np.asarray(origins), count),
        values=values.astype(np.float32),
        daily=cut(DAY).astype(np.float32),
        weekly=np.full_like(values, np.nan, dtype=np.float32),
        spread=np.ones((len(values), width), np.float32),
    )


def noise(servers=4, slots=900, targets=1, seed=0):
    return np.random.default_rng(seed).normal(5, 1, size=(servers, slots, targets))


def loss(history, origins, answer):
    """Mean pinball loss of `answer` against what came."""
    slots = np.asarray(origins)[:, None] + np.arange(1, HORIZON + 1)
    y = np.moveaxis(history[:, slots], 0, 1).reshape(-1, HORIZON, history.shape[2], 1)
    error = y - answer
    levels = np.array(LEVELS)
    inside = ((y[..., 0] >= answer[..., 0]) & (y[..., 0] <= answer[..., 2])).mean()
    return np.maximum(levels * error, (levels - 1) * error).mean(), inside


def compared(history, train):
    """Losses of the expert and both baselines after `train` slots, and the expert's coverage."""
    origins = range(train, history.shape[1] - HORIZON - 1)
    raw = windows(history, origins)
    tables = fit(examples(history[:, :train]), LEVELS)
    residuals = baselines.residual_tables(
        history[:, :train],
        as_of=train - 1,
        servers=tables.servers,
        targets=tables.targets,
        levels=LEVELS,
        horizon=HORIZON,
        season=DAY,
    )
    mine, inside = loss(history, origins, least_squares(raw, tables, tables.targets))
    others = [
        loss(history, origins, forecast(raw, residuals, tables.targets))[0]
        for forecast in (baselines.copy_last, baselines.seasonal_naive)
    ]
    return mine, others, inside


def test_what_reverts_to_its_mean_is_forecast_better_than_by_either_baseline():
    mine, others, inside = compared(noise(), 700)
    assert mine < 0.85 * min(others)
    assert inside == pytest.approx(0.8, abs=0.04)


def test_a_daily_curve_that_wanders_is_forecast_better_than_by_either_baseline():
    rng = np.random.default_rng(1)
    slots = np.arange(900)
    walk = 0.3 * rng.normal(size=(4, 900)).cumsum(axis=1)
    history = (walk + 3 * np.sin(2 * np.pi * slots / DAY))[..., None]
    mine, others, inside = compared(history, 700)
    assert mine < 0.8 * min(others)
    assert inside == pytest.approx(0.8, abs=0.06)


def test_intervals_widen_where_a_window_is_restless():
    rng = np.random.default_rng(2)
    restless = (np.arange(1200) // 100) % 2 == 1
    history = (np.where(restless, 2.0, 0.1) * rng.normal(size=(3, 1200)))[..., None]
    tables = fit(examples(history[:, :1000]), LEVELS)
    answer = least_squares(windows(history, [1080, 1180]), tables, ("a",))
    width = (answer[..., 2] - answer[..., 0]).mean((1, 2))
    assert width[3:].mean() > 4 * width[:3].mean()


def test_what_came_last_counts_most():
    rng = np.random.default_rng(3)
    history = rng.normal(size=(2, 1200, 1)).cumsum(axis=1)
    history[:, 800:] = history[:, 800:801] + rng.normal(size=(2, 400, 1))  # no walk any more
    raw, origins = windows(history, range(1000, 1190)), range(1000, 1190)
    losses = [
        loss(
            history,
            origins,
            least_squares(
                raw, fit(examples(history[:, :1000]), LEVELS, half_life_slots=slots), ("a",)
            ),
        )[0]
        for slots in (72.0, 1e9)
    ]
    assert losses[0] < 0.97 * losses[1]


@pytest.mark.parametrize(("count", "least"), [(40, 0.6), (80, 0.68), (400, 0.74)])
def test_few_examples_do_not_make_it_certain(count, least):
    origins = range(1000, 1900)
    ahead = np.asarray(origins)[:, None] + np.arange(1, HORIZON + 1)
    inside = []
    for seed in range(10):
        history = np.random.default_rng(seed).normal(size=(1, 2000, 1)).cumsum(axis=1)
        made = fit(examples(history[:, : DAY + HORIZON + count]), LEVELS)
        found = least_squares(windows(history, origins), made, ("a",))[:, :, 0]
        actual = history[0, ahead, 0]
        inside.append(((actual >= found[..., 0]) & (actual <= found[..., 2])).mean())
    assert least < np.mean(inside) < 0.84


@pytest.mark.parametrize("origins", [1, 2, 5, 6, 30])
def test_whatever_the_number_of_examples_there_is_a_forecast(origins):
    history = np.random.default_rng(3).normal(size=(4, DAY + HORIZON + origins, 1)).cumsum(axis=1)
    made = fit(examples(history), LEVELS)
    assert made.weights.shape[0] == 5
    found = least_squares(windows(history, [DAY]), made, ("a",))
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=-1) >= 0).all()


GAPPY = hnp.arrays(
    np.float32,
    (2, 80, 2),
    elements=st.one_of(st.floats(-1e6, 1e6, width=32), st.just(np.nan), st.just(1.0)),
)


@settings(max_examples=40)
@given(GAPPY, st.booleans(), st.booleans())
def test_answers_rise_with_the_level_and_are_missing_only_where_copy_last_is(history, log, own):
    made = replace(examples(history[:, :70]), logs=(log, False))
    tables = fit(made, LEVELS, own_servers=9 if own else 0)
    raw = windows(history, [50, 69, 79], servers=("s0", "new"))
    answer = least_squares(raw, tables, ("a", "b"))
    known = ~np.isnan(baselines.newest(raw, [0, 1]))
    assert (np.isfinite(answer) == known[:, None, :, None]).all()
    rising = np.diff(answer, axis=-1)
    assert (rising[~np.isnan(rising)] >= 0).all()


@pytest.mark.parametrize("shape", [(0, 60, 1), (2, 60, 1), (2, 20, 1)])
def test_without_an_example_the_newest_value_stays(shape):
    tables = fit(examples(np.full(shape, np.nan)), LEVELS)
    answer = least_squares(windows(noise(1, 60), [50], servers=("new",)), tables, ("a",))
    np.testing.assert_allclose(answer, noise(1, 60)[0, 50, 0], rtol=1e-4)


def test_a_flat_series_stays_flat():
    history = np.full((2, 200, 1), 0.25)
    history[1] = noise(1, 200)[0]
    answer = least_squares(windows(history, [190]), fit(examples(history), LEVELS), ("a",))
    np.testing.assert_allclose(answer[0], 0.25, atol=1e-3)


def test_the_unit_of_a_metric_changes_nothing_but_the_unit():
    history = noise()
    plain = least_squares(windows(history, [899]), fit(examples(history), LEVELS), ("a",))
    large = least_squares(
        windows(1000 * history, [899]), fit(examples(1000 * history), LEVELS), ("a",)
    )
    np.testing.assert_allclose(large, 1000 * plain, rtol=1e-3)


def test_a_server_the_tables_do_not_know_is_forecast_as_the_fleet_in_its_own_unit(monkeypatch):
    history = noise(servers=5)
    tables = fit(examples(history[:4]), LEVELS)
    raw = windows(history, [880], servers=("s0", "s1", "s2", "s3", "new"))
    answer = least_squares(raw, tables, ("a",))
    assert np.isfinite(answer[4]).all()
    pooled = fit(examples(history[:4]), LEVELS, own_servers=0)
    assert pooled.weights.shape[0] == 1
    assert tables.weights.shape[0] == 5
    # Not the same to the last bit: errors are those of each server's own weights.
    fleets = least_squares(raw, pooled, ("a",))[4]
    np.testing.assert_allclose(answer[4], fleets, rtol=0.02)
    monkeypatch.setattr("forecast.changes.MIN_RESIDUALS", 4)
    plain = least_squares(raw, tables, ("a",))
    far = least_squares(windows(100 * history, [880], servers=raw.servers), tables, ("a",))
    np.testing.assert_allclose(far[4], 100 * plain[4], rtol=1e-3)


def test_servers_of_a_small_fleet_that_differ_have_weights_of_their_own():
    rng = np.random.default_rng(4)
    history = rng.normal(size=(6, 900, 1))
    history[3:] = history[3:].cumsum(axis=1)
    raw, origins = windows(history, range(700, 890)), range(700, 890)
    losses = [
        loss(
            history,
            origins,
            least_squares(raw, fit(examples(history[:, :700]), LEVELS, own_servers=most), ("a",)),
        )[0]
        for most in (6, 5)
    ]
    assert losses[0] < losses[1]


def test_a_rate_is_never_said_to_more_than_double_what_was_seen_nor_to_fall_below_zero():
    rng = np.random.default_rng(5)
    history = np.exp(2 * rng.normal(size=(4, 600, 1)))
    tables = fit(examples(history, logs=(True,)), LEVELS)
    raw = windows(history, range(300, 590))
    answer = least_squares(raw, tables, ("a",))
    seen = np.nanmax(np.concatenate([raw.values, raw.daily], axis=1)[..., 0], axis=1)
    assert (answer.max((1, 2, 3)) <= 2 * seen + 1.001).all()
    assert answer.min() >= 0


def test_forecasts_stay_within_the_bounds_that_are_given():
    history = noise()
    raw, tables = windows(history, [700]), fit(examples(history), LEVELS)
    lower, upper = np.array([4.5]), np.array([5.5])
    answer = least_squares(raw, tables, ("a",), lower=lower, upper=upper)
    np.testing.assert_array_equal(
        answer, np.clip(least_squares(raw, tables, ("a",)), np.float32(4.5), np.float32(5.5))
    )
    assert (answer.min(), answer.max()) == (4.5, 5.5)


def test_an_example_with_a_gap_in_its_labels_or_its_newest_value_teaches_nothing():
    made = examples(noise())
    spoilt = made.values.copy()
    spoilt[:, ::3, CONTEXT:] *= 50
    spoilt[:, ::3, CONTEXT + 1] = np.nan
    spoilt[:, 1::3, CONTEXT:] *= 50
    spoilt[:, 1::3, CONTEXT - 1] = np.nan
    kept = slice(2, None, 3)
    some = replace(
        made,
        origins=made.origins[:, kept],
        values=made.values[:, kept],
        daily=made.daily[:, kept],
    )
    unit = fit(made, LEVELS).unit
    answers = []
    for one in (replace(made, values=spoilt), some):
        tables = replace(fit(one, LEVELS), unit=unit)
        answers.append(tables.quantiles)
    assert np.isfinite(answers[0]).all()
    counted = np.isfinite(spoilt[:, :, CONTEXT - 1 :]).all((2, 3))
    assert counted.sum() == some.origins.size


def test_targets_are_found_by_name_in_windows_and_tables():
    history = noise(targets=2)
    tables = fit(examples(history), LEVELS)
    straight = least_squares(windows(history, [700]), tables, ("a", "b"))
    turned = windows(history[:, :, ::-1], [700], metrics=("b", "a"))
    np.testing.assert_array_equal(least_squares(turned, tables, ("b", "a")), straight[:, :, ::-1])


def test_windows_and_targets_that_do_not_fit_the_tables_are_an_error():
    history = noise()
    tables = fit(examples(history), LEVELS)
    raw = windows(history, [700])
    with pytest.raises(ValueError, match=r"\['c'\]"):
        least_squares(raw, tables, ("c",))
    with pytest.raises(ValueError, match="windows of 8 and 3 slots are not the tables' 9 and 3"):
        least_squares(raw, replace(tables, context=9), ("a",))


def test_a_shorter_horizon_is_the_begin_of_a_longer_one():
    history = noise()
    raw, tables = windows(history, [700]), fit(examples(history), LEVELS)
    short = replace(
        raw,
        horizon=1,
        values=raw.values[:, : CONTEXT + 1],
        daily=raw.daily[:, : CONTEXT + 1],
        weekly=raw.weekly[:, : CONTEXT + 1],
    )
    assert least_squares(short, tables, ("a",)).shape == (4, 1, 1, 3)


def test_the_same_examples_give_the_same_bits():
    history = noise(targets=2)
    tables = fit(examples(history), LEVELS)
    assert bits(fit(examples(history.copy()), LEVELS)) == bits(tables)


def test_one_absurd_value_spoils_no_ones_forecast():
    history, origins = noise(), range(800, 890)
    spoilt = history.copy()
    spoilt[0, 400], spoilt[0, 402] = 3e38, -3e38
    raw = windows(history, origins)
    clean, dirty = (
        loss(history, origins, least_squares(raw, fit(examples(one), LEVELS), ("a",)))[0]
        for one in (history, spoilt)
    )
    assert dirty < 1.1 * clean
