"""Blocks and snapshots: shapes, look-ups, and the way through bytes."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from forecast.errors import StateError, UnknownServer
from forecast.record import ForecastBlock, Snapshot, pack_windows, unpack_windows
from tests.forecast.record_scene import block, snapshot, windows


def same(left, right):
    for field in fields(left):
        mine, other = getattr(left, field.name), getattr(right, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other)
        elif field.name == "blocks":
            for one, two in zip(mine, other, strict=True):
                same(one, two)
        elif field.name == "raw":
            same(mine, other)
        else:
            assert mine == other


def test_a_block_comes_back_from_bytes_as_it_was():
    values = block().values.copy()
    values[1, 2] = np.nan
    same(
        ForecastBlock.unpack(replace(block(), values=values).pack()),
        replace(block(), values=values),
    )
    same(ForecastBlock.unpack(block("copy_last", None).pack()), block("copy_last", None))


def test_windows_come_back_from_bytes_as_they_were():
    same(unpack_windows(pack_windows(windows())), windows())


def test_a_snapshot_comes_back_from_bytes_as_it_was():
    same(Snapshot.unpack(snapshot().pack()), snapshot())


def test_a_damaged_block_is_refused():
    data = bytearray(block().pack())
    data[-5] ^= 1
    with pytest.raises(StateError, match="checksum"):
        ForecastBlock.unpack(bytes(data))


def test_a_block_gives_one_server_by_name():
    np.testing.assert_array_equal(block().of("db-1"), block().values[1])
    assert block().of("web-9") is None
    assert block().horizon == 4


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 4, 2, 2), np.float32),
        np.zeros((3, 4, 2, 3), np.float32),
        np.zeros((2, 4, 2), np.float32),
        np.zeros((2, 4, 2, 3), np.float64),
    ],
)
def test_a_block_whose_values_do_not_fit_its_names_is_refused(values):
    with pytest.raises(ValueError, match="champion"):
        replace(block(), values=values)


def test_a_block_that_names_a_server_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        block(servers=("web-1", "web-1"))


def test_a_snapshot_names_who_answers_for_each_server():
    known = snapshot()
    assert known.served_block("web-1").version == 3
    assert known.served_block("db-1").member == "seasonal_naive"
    assert known.served_block("old") is None
    assert known.server("db-1").missing_slots == 69
    assert known.block("copy_last") is None


def test_an_unknown_server_is_named_in_the_error():
    with pytest.raises(UnknownServer, match=r"web-9.*demo"):
        snapshot().server("web-9")


def test_a_snapshot_needs_one_answering_member_per_server():
    with pytest.raises(ValueError, match="3 servers, 1 served"):
        replace(snapshot(), served=("champion",))
