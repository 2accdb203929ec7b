from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.schema import Metric
from forecast.windows import RawWindows, Windows, WindowSpec, inverse, transform
from tests.forecast.window_scene import ROLES, SPRING, gauge, made, rate

METRICS = (gauge("cpu", lower=0.0, upper=8.0, resolution=0.01), rate("net"), gauge("mem"))
NAMES = tuple(metric.name for metric in METRICS)
SPEC = WindowSpec(300, 8, 3, METRICS, ("net", "cpu"), ROLES)
ARRAYS = tuple(field.name for field in fields(Windows))


def columns(windows: Windows, name: str) -> np.ndarray:
    """[N, L+H] one feature by name."""
    cont = np.concatenate([windows.encoder_cont, windows.decoder_cont], axis=1)
    return cont[..., SPEC.reals.index(name)]


def assert_same(found: Windows, expected: Windows) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def steady(*values: float, metric: Metric, spread: float = np.nan) -> tuple[RawWindows, WindowSpec]:
    """One window of one metric with these context values and one slot ahead."""
    raw = made([metric.name], count=1, context=len(values), horizon=1)
    raw.values[0, :, 0] = (*values, np.nan)
    raw.spread[:] = spread
    return raw, WindowSpec(300, len(values), 1, (metric,), (metric.name,))


def test_features_know_nothing_of_the_horizon():
    raw = made(NAMES, gaps=0.2)
    blind = replace(raw, values=raw.values.copy())
    blind.values[:, raw.context :] = np.nan
    known, unknown = transform(raw, SPEC), transform(blind, SPEC)
    assert np.isnan(unknown.target).all()
    assert_same(replace(unknown, target=known.target), known)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_whatever_is_missing_features_are_finite_and_scales_positive(seed, gaps):
    windows = transform(made(NAMES, gaps=gaps, seed=seed), SPEC)
    for name in ("encoder_cont", "decoder_cont", "center", "scale"):
        assert np.isfinite(getattr(windows, name)).all()
    assert (windows.scale > 0).all()
    assert windows.encoder_cont.dtype == windows.target.dtype == np.float32


def test_a_rate_is_never_forecast_above_twice_the_highest_value_known():
    raw = made(NAMES, count=3)
    raw.values[0, 2, 1], raw.daily[1, 10, 1] = 40.0, 90.0
    raw.values[2, :8, 1] = raw.daily[2, :, 1] = raw.weekly[2, :, 1] = np.nan
    windows = transform(raw, SPEC)
    natural = inverse(np.full((3, 3, 2, 1), 1e6, np.float32), windows, SPEC)
    np.testing.assert_allclose(natural[:2, 0, 0, 0], [81.0, 181.0], rtol=1e-5)  # resolution 0.5
    assert natural[2, 0, 0, 0] > 1e30  # nothing known, no ceiling
    assert (natural[:, :, 1] == 8.0).all()  # only its bound holds a gauge


@given(st.integers(0, 10_000))
def test_inverse_gives_back_the_labels(seed):
    raw = made(NAMES, gaps=0.2, seed=seed)
    windows = transform(raw, SPEC)
    levels = np.repeat(windows.target[..., None], 3, axis=3)
    labels = raw.values[:, raw.context :, [1, 0]]
    bounded = np.stack([np.maximum(labels[..., 0], 0), np.clip(labels[..., 1], 0, 8)], axis=2)
    found = inverse(levels, windows, SPEC)
    np.testing.assert_allclose(found, np.repeat(bounded[..., None], 3, axis=3), rtol=1e-4)


def test_an_output_of_zero_repeats_the_last_value_seen():
    raw = made(NAMES, count=2)
    raw.values[0, 5:8, 0] = np.nan
    windows = transform(raw, SPEC)
    natural = inverse(np.zeros((2, 3, 2, 1), np.float32), windows, SPEC)
    np.testing.assert_allclose(natural[0, :, 1, 0], raw.values[0, 4, 0], rtol=1e-5)
    np.testing.assert_allclose(natural[1, :, 0, 0], raw.values[1, 7, 1], rtol=1e-5)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=5))
def test_quantiles_come_back_sorted_finite_and_in_bounds(outputs):
    windows = transform(made(NAMES, count=1), SPEC)
    given_NHTQ = np.broadcast_to(np.array(outputs, np.float32), (1, 3, 2, 5))
    natural = inverse(given_NHTQ, windows, SPEC)
    assert np.isfinite(natural).all()
    assert (np.diff(natural, axis=3) >= 0).all()
    assert (natural >= 0).all()
    assert (natural[:, :, 1] <= 8).all()


def test_a_window_does_not_depend_on_the_windows_beside_it():
    raw = made(NAMES, count=7, gaps=0.3, zones=("UTC", "Europe/Berlin"))
    order = np.array([5, 0, 3])
    assert_same(transform(raw.select(order), SPEC), transform(raw, SPEC).select(order))


def test_many_windows_are_the_same_as_few():
    raw = made(NAMES, count=1030, gaps=0.3)
    hidden = np.arange(1030) % 3 == 0
    ends = np.array([0, 1023, 1024, 1029])
    few = transform(raw.select(ends), SPEC, mask_role=hidden[ends])
    assert_same(transform(raw, SPEC, mask_role=hidden).select(ends), few)


def test_columns_are_found_by_name():
    raw = made((*NAMES, "more"), gaps=0.2)
    order = [3, 2, 0, 1]
    moved = replace(
        raw,
        metrics=tuple(raw.metrics[place] for place in order),
        values=raw.values[..., order],
        daily=raw.daily[..., order],
        weekly=raw.weekly[..., order],
        spread=raw.spread[:, order],
    )
    assert_same(transform(moved, SPEC), transform(raw, SPEC))


def test_a_metric_that_is_not_there_is_all_gap():
    raw = made(NAMES)
    blank = replace(raw, values=raw.values.copy(), spread=raw.spread.copy())
    blank.values[..., 2] = blank.spread[:, 2] = np.nan
    fewer = made(NAMES[:2])
    fewer = replace(
        raw,
        metrics=NAMES[:2],
        **{name: getattr(raw, name)[..., :2] for name in ("values", "daily", "weekly", "spread")},
    )
    assert_same(transform(fewer, SPEC), transform(blank, SPEC))
    np.testing.assert_allclose(columns(transform(fewer, SPEC), "gap_share")[:, :8], 1 / 3)


def test_a_hidden_role_is_the_unknown_one():
    raw = made(NAMES, count=4)
    plain, hidden = (
        transform(raw, SPEC, mask_role=mask)
        for mask in (None, np.array([True, False, False, True]))
    )
    assert plain.encoder_cat[:, 0, 0].tolist() == [2, 1, 0, 0]  # web, db, one never seen, none
    assert hidden.encoder_cat[:, 0, 0].tolist() == hidden.decoder_cat[:, -1, 0].tolist()
    assert hidden.encoder_cat[:, 0, 0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("spread", "expected"),
    [(np.nan, 1.5), (5.0, 1.5), (50.0, 5.0)],
    ids=["unknown spread", "small spread", "large spread"],
)
def test_the_scale_is_the_deviation_or_a_share_of_the_long_run_one(spread, expected):
    raw, spec = steady(4.0, 4.0, 7.0, 3.0, metric=gauge("cpu"), spread=spread)
    windows = transform(raw, spec)
    assert windows.center.item() == 3.0
    np.testing.assert_allclose(windows.scale.item(), expected, rtol=1e-6)
    static = windows.encoder_cont[0, 0, spec.reals.index("static_scale_cpu")]
    long_run = expected if np.isnan(spread) else spread
    np.testing.assert_allclose(static, np.log(expected / long_run), rtol=1e-5, atol=1e-7)


def test_the_scale_of_a_flat_window_is_the_resolution():
    raw, spec = steady(4.0, 4.0, metric=gauge("cpu", resolution=0.25))
    np.testing.assert_allclose(transform(raw, spec).scale, 0.25)
    raw, spec = steady(99.0, 99.0, metric=rate("net"))
    np.testing.assert_allclose(transform(raw, spec).scale, np.log1p(99.5) - np.log1p(99.0))


def test_a_resolution_finer_than_float32_is_not_taken_at_its_word():
    raw, spec = steady(1e9, 1e9, metric=gauge("bytes"))
    np.testing.assert_allclose(transform(raw, spec).scale, 1000.0)


def test_the_morning_job_keeps_its_hour_when_clocks_change():
    raw = made(NAMES, count=2, zones=("Europe/Berlin",))
    raw.origin[:] = SPRING + 2 + np.array([-20, 3]) * 12  # 06:00 of the 28th and of the 29th
    windows = transform(raw, SPEC)
    for name in ("cal_day_sin", "cal_day_cos"):
        before, after = columns(windows, name)
        np.testing.assert_allclose(before, after, atol=1e-6)
    day = np.arctan2(*(columns(windows, name)[0, 7] for name in ("cal_day_sin", "cal_day_cos")))
    np.testing.assert_allclose(day % (2 * np.pi), 2 * np.pi * 6 / 24, atol=1e-6)


def test_a_lag_is_read_at_its_own_slot_and_says_when_it_is_missing():
    raw = made(NAMES, count=1)
    raw.values[0, :8, 0] = 2.0
    raw.spread[0, 0] = 10.0  # scale 1
    raw.daily[0, :, 0] = 2.0 + np.arange(11)
    raw.daily[0, 9] = np.nan
    raw.weekly[:] = np.nan
    windows = transform(raw, SPEC)
    expected = np.arcsinh(np.arange(11.0))
    expected[9] = 0
    np.testing.assert_allclose(columns(windows, "lagd_cpu")[0], expected, rtol=1e-6)
    assert columns(windows, "seen_lagd")[0].tolist() == [1.0] * 9 + [0.0, 1.0]
    assert not columns(windows, "lagw_cpu").any()
    assert not columns(windows, "seen_lagw").any()


def test_gaps_are_told_by_age_and_share():
    raw = made(NAMES, count=1)
    raw.values[0, 3:6, :2] = np.nan  # both targets
    windows = transform(raw, SPEC)
    age = np.expm1(columns(windows, "gap_age")[0])
    np.testing.assert_allclose(age, [0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0], atol=1e-6)
    share = columns(windows, "gap_share")[0, :8]
    np.testing.assert_allclose(share, [0, 0, 0, 2 / 3, 2 / 3, 2 / 3, 0, 0], atol=1e-6)


def test_no_windows_are_no_windows():
    windows = transform(made(NAMES, count=0), SPEC)
    assert len(windows) == 0
    assert windows.encoder_cont.shape == (0, 8, len(SPEC.reals))
    assert inverse(np.zeros((0, 3, 2, 5), np.float32), windows, SPEC).shape == (0, 3, 2, 5)


@pytest.mark.parametrize(
    "how",
    [{"context": 9}, {"horizon": 2}, {"step_seconds": 60}],
    ids=["context", "horizon", "step"],
)
def test_windows_cut_for_another_model_are_refused(how):
    with pytest.raises(ValueError, match="the model reads"):
        transform(made(NAMES, **how), SPEC)


def test_a_zone_that_nobody_knows_is_an_error():
    with pytest.raises(KeyError, match="Mars/Base"):
        transform(made(NAMES, zones=("Mars/Base",)), SPEC)


def test_select_and_concat_are_opposites():
    raw = made(NAMES, count=5, gaps=0.2)
    parts = [raw.select(range(2)), raw.select(np.array([False, False, True, True, True]))]
    whole = RawWindows.concat(parts)
    assert whole.servers == raw.servers
    assert_same(transform(whole, SPEC), transform(raw, SPEC))
    assert len(raw.select([])) == 0
    with pytest.raises(ValueError, match="different kinds"):
        RawWindows.concat([raw, made(NAMES, horizon=2)])
    with pytest.raises(ValueError, match="nothing to concatenate"):
        RawWindows.concat([])


def test_arrays_that_do_not_fit_are_refused():
    raw = made(NAMES)
    with pytest.raises(ValueError, match=r"daily is \(6, 10, 3\), need \(6, 11, 3\)"):
        replace(raw, daily=raw.daily[:, 1:])
    with pytest.raises(ValueError, match="roles is 5, need 6"):
        replace(raw, roles=raw.roles[1:])


def test_names_are_prefixed_and_cannot_collide():
    hostile = ("cpu", "training", "a.b", "a%2Eb", "seen", "role", "day_sin", "age")
    metrics = tuple(gauge(name) for name in hostile)
    spec = WindowSpec(300, 8, 3, metrics, hostile)
    assert len(set(spec.reals)) == len(spec.reals)
    assert not any("." in name or name in hostile for name in spec.reals)


def test_a_spec_survives_json():
    assert WindowSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ("disk",)}, "not all among"),
        ({"targets": ()}, "not all among"),
        ({"targets": ("cpu", "cpu")}, "named twice"),
        ({"metrics": (*METRICS, gauge("cpu"))}, "named twice"),
        ({"roles": ("web",)}, "roles start with ''"),
        ({"roles": ("", "web", "web")}, "roles start with ''"),
        ({"context": 1}, "needs 2 slots"),
        ({"most_growth": 0.9}, "most_growth 0.9 at 1"),
        ({"scale_floor_share": float("nan")}, "scale_floor_share nan"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SPEC, **change)
