"""Calibration: coverage comes back after the scale changed, whatever the delay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forecast.calibration import Calibration, inward

LEVELS = (0.1, 0.5, 0.9)
NORMAL = np.array([-1.2816, 0.0, 1.2816], np.float32)
FREE = {
    "resolution": np.array([1e-3], np.float32),
    "lower": np.array([-np.inf], np.float32),
    "upper": np.array([np.inf], np.float32),
}


def covered(*, scale, slots, delay=0, seed=0, servers=20, values=NORMAL, rounded=False):
    """Share of outcomes inside the outer interval in the second half; they are `scale` as wide."""
    draw = np.random.default_rng(seed)
    names = tuple(f"web-{row}" for row in range(servers))
    own = np.broadcast_to(values, (servers, 1, 1, 3)).astype(np.float32)
    known, issued, inside = Calibration.fresh(1, 1, LEVELS), [], []
    for slot in range(slots):
        issued.append(known.applied(names, own, **FREE))
        actual = (scale * draw.normal(size=(servers, 1))).astype(np.float32)
        actual = np.round(actual) if rounded else actual
        if slot > delay:
            was = issued[slot - delay - 1][:, 0]
            known = known.learned(names, {1: was}, actual, FREE["resolution"])
            inside.append((was[..., 0] <= actual) & (actual <= was[..., 2]))
    return float(np.mean(inside[slots // 2 :]))


@pytest.mark.parametrize("delay", [0, 12, 48])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_coverage_is_nominal_whatever_the_scale_and_the_delay(scale, delay):
    assert covered(scale=scale, slots=1500, delay=delay) == pytest.approx(0.8, abs=0.04)


def test_without_calibration_a_doubled_scale_would_not_be_covered():
    draw = np.random.default_rng(0).normal(0, 2, 10_000)
    assert np.mean((draw >= NORMAL[0]) & (draw <= NORMAL[2])) < 0.5


def test_outcomes_that_repeat_are_counted_as_inside():
    # A metric that stands still most of the time lies on its quantiles.
    assert covered(scale=0.4, slots=1500, rounded=True) >= 0.8


@given(arrays(np.float32, (5, 9), elements=st.floats(-10, 10, width=32)))
def test_inward_orders_and_keeps_the_outer_pair(values):
    ordered = inward(values)
    assert (np.diff(ordered, axis=-1) >= 0).all()
    kept = values[:, 0] <= values[:, -1]
    np.testing.assert_array_equal(ordered[kept][:, [0, -1]], values[kept][:, [0, -1]])
    rising = np.sort(values, axis=-1)
    np.testing.assert_array_equal(inward(rising), rising)


def test_bounds_hold():
    known = Calibration.fresh(1, 1, LEVELS)
    for _ in range(300):
        known = known.learned(
            ("a",), {1: NORMAL[None, None]}, np.array([[9.0]]), FREE["resolution"]
        )
    limits = {**FREE, "upper": np.array([1.5], np.float32)}
    values = known.applied(("a",), NORMAL[None, None, None], **limits)
    assert values.max() == 1.5


def test_a_new_server_starts_with_the_fleets_typical_offset():
    known = Calibration.fresh(1, 1, LEVELS)
    names = tuple("abc")
    for _ in range(100):
        known = known.learned(
            names, {1: np.stack([NORMAL[None]] * 3)}, np.full((3, 1), 9.0), FREE["resolution"]
        )
    assert (known.among(("d",)).offsets[0] == known.among(("a",)).offsets[0]).all()


def test_a_gap_or_a_missing_forecast_teaches_nothing():
    known = Calibration.fresh(1, 1, LEVELS)
    none = np.full((1, 1, 3), np.nan, np.float32)
    after = known.learned(("a",), {1: none}, np.array([[1.0]]), FREE["resolution"])
    after = after.learned(("a",), {1: NORMAL[None, None]}, np.array([[np.nan]]), FREE["resolution"])
    assert (after.offsets == 0).all()


def test_offsets_are_bitwise_the_same_from_storage():
    known = Calibration.fresh(12, 2, LEVELS).learned(
        ("a", "b"), {3: np.zeros((2, 2, 3), np.float32)}, np.ones((2, 2)), np.ones(2)
    )
    again = Calibration.unpack(known.pack())
    assert (again.servers, again.levels) == (known.servers, known.levels)
    np.testing.assert_array_equal(again.offsets, known.offsets)
    np.testing.assert_array_equal(again.usual, known.usual)


def test_a_burst_is_moved_by_the_usual_width_at_most():
    known = Calibration.fresh(1, 1, LEVELS)
    for _ in range(200):
        issued = known.applied(("a",), NORMAL[None, None, None], **FREE)[:, 0]
        known = known.learned(("a",), {1: issued}, np.array([[9.0]]), FREE["resolution"])
    calm = known.applied(("a",), NORMAL[None, None, None], **FREE)[0, 0, 0, 2] - NORMAL[2]
    wide = 100 * NORMAL
    burst = known.applied(("a",), wide[None, None, None], **FREE)[0, 0, 0, 2] - wide[2]
    assert 0 < burst < 2 * calm
