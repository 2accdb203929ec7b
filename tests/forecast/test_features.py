"""The arithmetic of windows at its edges: other windows, far values, small steps, no values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.windows import RawWindows, WindowSpec, transform
from tests.forecast.test_windows import METRICS, NAMES, SPEC, assert_same, steady
from tests.forecast.window_scene import ROLES, gauge, made, rate


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([1, 3]))
def test_what_other_windows_hold_changes_no_bit(seed, gaps, metrics):
    spec = WindowSpec(300, 8, 3, METRICS[:metrics], ("cpu",), ROLES)
    raw = made(NAMES[:metrics], count=5, gaps=0.2, seed=seed)
    other = made(NAMES[:metrics], count=5, gaps=gaps, seed=seed + 1)
    other.values[:, 0, 0] = np.inf
    mixed = RawWindows.concat([other.rows(slice(0, 2)), raw.rows(slice(2, 3)), other])
    alone = transform(raw.rows(slice(2, 3)), spec)
    assert_same(transform(raw, spec).rows(slice(2, 3)), alone)
    assert_same(transform(mixed, spec).rows(slice(2, 3)), alone)


def test_a_far_outlier_is_squashed_and_not_infinite():
    raw, spec = steady(3e38, 0.0, 0.0, metric=gauge("cpu", resolution=1e-3))
    raw.daily[0, :, 0], raw.weekly[0, :, 0] = 3e38, -3e38
    raw.values[0, 0, 0] = np.nan
    windows = transform(raw, spec)
    far = np.arcsinh(float(np.float32(3e38)) / 1e-3)  # the ratio itself leaves float32
    lags = [spec.reals.index(f"{kind}_cpu") for kind in ("lagd", "lagw")]
    expected = np.broadcast_to([far, -far], (3, 2))
    np.testing.assert_allclose(windows.encoder_cont[0][:, lags], expected, rtol=1e-6)


def test_small_steps_of_a_large_rate_are_not_lost_to_rounding():
    counts = (1e6, 1e6 + 2, 1e6 + 1, 1e6)
    raw, spec = steady(*counts, metric=rate("net"))
    windows = transform(raw, spec)
    moved = np.log1p(np.array(counts)) - np.log1p(1e6)
    expected = np.arcsinh(moved / windows.scale.item())
    found = windows.encoder_cont[0, :, spec.reals.index("val_net")]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_a_gap(value):
    raw = made(NAMES, count=2)
    strange = replace(raw, values=raw.values.copy(), weekly=raw.weekly.copy())
    gappy = replace(raw, values=raw.values.copy(), weekly=raw.weekly.copy())
    for at in ((0, 0), (0, 4), (1, 7), (1, 9)):
        strange.values[at], gappy.values[at] = value, np.nan
        strange.weekly[at], gappy.weekly[at] = value, np.nan
    assert_same(transform(strange, SPEC), transform(gappy, SPEC))


def test_parts_share_the_memory_of_the_whole_and_selected_windows_do_not():
    raw = made(NAMES, count=5)
    parts = list(raw.parts(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert all(np.shares_memory(part.values, raw.values) for part in parts)
    assert not np.shares_memory(raw.select(range(2)).values, raw.values)
    assert_same(transform(RawWindows.concat(parts), SPEC), transform(raw, SPEC))
