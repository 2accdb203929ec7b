"""The precision of the record: small errors, order and bounds kept, and not a bit lost on disk."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.streams import from_file
from forecast.packing import pack
from forecast.rounding import as_recorded, decode, encode

SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
EVERY = st.floats(width=32)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
USUAL = st.one_of(st.floats(-1e4, 1e4, width=32), st.just(0.0), st.just(np.nan))


def blocks(elements):
    return SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=elements))


def same_bits(one, other):
    known = ~np.isnan(one)
    np.testing.assert_array_equal(known, ~np.isnan(other))
    np.testing.assert_array_equal(one.view(np.int32)[known], other.view(np.int32)[known])


@given(blocks(st.one_of(EVERY, USUAL)), st.booleans())
def test_whatever_is_encoded_comes_back_bit_for_bit(values, rounded):
    values = as_recorded(values) if rounded else values
    back = decode(encode(values), values.shape)
    assert back.dtype == np.float32
    assert not back.flags.writeable
    same_bits(back, values)


@given(blocks(st.one_of(EVERY, USUAL)))
def test_what_was_rounded_once_stays_as_it_is(values):
    once = as_recorded(values)
    same_bits(as_recorded(once), once)


@given(
    blocks(st.floats(-100, 100, width=32)),
    st.floats(-120, 0, width=32),
    st.floats(0, 120, width=32),
)
def test_bounds_and_their_rounding_hold_twice(values, low, high):
    targets = values.shape[2]
    lower, upper = np.full(targets, low, np.float32), np.full(targets, high, np.float32)
    once = as_recorded(np.clip(values, low, high), lower=lower, upper=upper)
    assert ((once >= low) & (once <= high)).all()
    same_bits(as_recorded(once, lower=lower, upper=upper), once)
    open_ended = np.full(targets, np.inf, np.float32)
    same_bits(as_recorded(values, lower=-open_ended, upper=open_ended), as_recorded(values))


@given(blocks(FINITE))
def test_levels_that_were_in_order_stay_in_order(values):
    assert (np.diff(as_recorded(np.sort(values, axis=-1)), axis=-1) >= 0).all()


@given(blocks(st.floats(-1e6, 1e6, width=32)))
def test_the_error_is_small_beside_the_interval_or_the_value(values):
    values = np.sort(values, axis=-1).astype(np.float64)
    error = np.abs(as_recorded(values.astype(np.float32)) - values)
    width = values[..., -1:] - values[..., :1]
    widest = width.max(axis=1, keepdims=True, initial=0)
    # No finer than what a float32 of the row's largest value holds.
    size = np.abs(values).max(axis=(1, 3), keepdims=True, initial=0)
    allowed = np.maximum(np.maximum(width, widest / 16) / 4096, size * 2.0**-24)
    assert (error <= allowed + 1e-30).all()


def test_what_is_not_finite_stays_as_it_is():
    values = np.array([[[[np.nan, 0.3, np.inf]], [[-np.inf, 0.1, 0.2]]]], np.float32)
    found = as_recorded(values)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(values))
    np.testing.assert_array_equal(found[~np.isfinite(values)], values[~np.isfinite(values)])


def test_a_row_that_lies_on_no_grid_is_kept_whole_beside_the_others():
    values = as_recorded(np.random.default_rng(0).random((5, 4, 3, 7), np.float32))
    values[2, 0, 1, 3] = np.float32(1) / 3
    arrays = encode(values)
    assert arrays["rows"].tolist() == [2 * 3 + 1]
    same_bits(decode(arrays, values.shape), values)


@pytest.mark.data
def test_real_forecasts_take_a_quarter_of_their_bytes(data_dir):
    # Residuals of real servers around their last value, as the copy-last member has them.
    stream = from_file(data_dir / "bitbrains.parquet", ("cpu_usage_ratio",), servers=40, days=2)
    y = np.nan_to_num(np.moveaxis(stream.values, 0, 1))
    levels = np.arange(1, 10) / 10
    steps = [np.quantile(y[:, h:] - y[:, :-h], levels, axis=1) for h in range(1, 13)]
    table = np.moveaxis(np.stack(steps, 1), 0, -1).transpose(1, 0, 2, 3)
    values = (y[:, -1][:, None, :, None] + table).astype(np.float32)
    kept = len(pack("block", {}, encode(as_recorded(values)), deflate=True))
    assert kept < len(zlib.compress(values.tobytes(), 9))
    assert kept < values.nbytes / 4
