"""Local time, against pandas; and what happens where clocks change within a window."""

from __future__ import annotations

import zoneinfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.local_time import calendar
from tests.forecast.window_scene import SPRING

ZONES = sorted(zoneinfo.available_timezones() - {"localtime"})
DAY = 86_400


def expected(first, count: int, zone: str, step: int) -> np.ndarray:
    """[N, K, 4] by pandas."""
    seconds = (np.asarray(first)[:, None] + np.arange(count)) * step
    moments = pd.to_datetime(seconds.ravel(), unit="s", utc=True).tz_convert(zone)
    minutes = (moments.hour * 60 + moments.minute) + moments.second / 60
    week = moments.weekday * 1440 + minutes
    angles = np.stack([2 * np.pi * minutes / 1440, 2 * np.pi * week / 10_080], axis=1)
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=2)
    return waves.reshape(*seconds.shape, 4)


@given(
    st.sampled_from(ZONES),
    st.sampled_from([60, 300, 900, 3600]),
    st.lists(st.integers(366, 45_000), min_size=1, max_size=4),
    st.integers(0, DAY - 1),
)
def test_every_zone_is_read_as_pandas_reads_it(zone, step, days, second):
    first = (np.array(days) * DAY + second) // step
    found = calendar(first, 90, [zone] * len(first), step)
    np.testing.assert_allclose(found, expected(first, 90, zone, step), atol=1e-6)


@pytest.mark.parametrize("count", [3, 700], ids=["each slot by itself", "from a table"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/New_York"])
def test_clocks_change_within_windows(count, zone):
    first = SPRING - 20 + 5 * np.arange(count)
    found = calendar(first, 60, [zone] * count, 300)
    np.testing.assert_allclose(found, expected(first, 60, zone, 300), atol=1e-6)


def test_few_windows_are_the_same_bits_as_many():
    first = SPRING - 40 + np.arange(200)
    zones = ["Europe/Berlin", "UTC", "Asia/Kolkata", "America/New_York"] * 50
    many = calendar(first, 84, zones, 300)
    for row in (0, 39, 40, 199):
        alone = calendar(first[row : row + 1], 84, zones[row : row + 1], 300)
        np.testing.assert_array_equal(alone[0], many[row])


def test_no_windows_have_no_calendar():
    assert calendar(np.zeros(0, np.int64), 84, [], 300).shape == (0, 84, 4)


@pytest.mark.parametrize(
    ("zone", "begin", "days"),
    [("Africa/Casablanca", "2026-02-01", 60), ("Europe/Berlin", "2026-03-01", 250)],
)
def test_clocks_that_change_there_and_back_within_one_window(zone, begin, days):
    first = np.array([int(pd.Timestamp(begin, tz="UTC").timestamp()) // 3600])
    count = days * 24
    found = calendar(first, count, [zone], 3600)
    np.testing.assert_allclose(found, expected(first, count, zone, 3600), atol=1e-6)
