"""Packed pieces come back as they were, or are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecast.errors import StateError
from forecast.packing import pack, pack_names, unpack, unpack_names

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.sampled_from(["<f4", "<f8", "<i4", "<i8", "<u2", "|u1"]).flatmap(
    lambda dtype: hnp.arrays(dtype, SHAPES)
)


@given(st.lists(ARRAYS, max_size=4), st.booleans())
def test_arrays_come_back_bit_for_bit(arrays, deflate):
    named = {f"a{place}": array for place, array in enumerate(arrays)}
    data = pack("thing", {"servers": ["ä", "b"], "x": None}, named, deflate=deflate)
    header, back = unpack("thing", data)
    assert header == {"servers": ["ä", "b"], "x": None}
    assert list(back) == list(named)
    for name, array in named.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


def test_what_repeats_is_deflated_and_the_rest_left_as_it_is():
    plain, noise = np.zeros(1000), np.frombuffer(np.random.default_rng(0).bytes(8000), "<i8")
    small = pack("thing", {}, {"a": plain, "b": noise, "c": plain}, deflate=True)
    assert 8000 < len(small) < 8500 < 16000 < len(pack("thing", {}, {"a": plain, "b": noise}))
    _, back = unpack("thing", small)
    np.testing.assert_array_equal(back["b"], noise)
    np.testing.assert_array_equal(back["c"], plain)
    with pytest.raises(ValueError, match="read-only"):
        back["a"][0] = 1


def test_what_the_format_before_packed_is_still_read():
    data = pack("thing", {"x": 1}, {"a": np.arange(4.0)})
    old = data[:4] + (1).to_bytes(4, "little") + data[8:]
    np.testing.assert_array_equal(unpack("thing", old)[1]["a"], np.arange(4.0))
    with pytest.raises(StateError, match="3 is unknown, need 2"):
        unpack("thing", data[:4] + (3).to_bytes(4, "little") + data[8:])


@given(st.lists(st.text(), max_size=5))
def test_names_come_back_as_they_were(names):
    assert unpack_names(pack_names(names)) == tuple(names)


def test_the_same_content_gives_the_same_bytes():
    def make() -> bytes:
        return pack("thing", {"levels": (0.1, 0.5)}, {"a": np.arange(6.0).reshape(2, 3)})

    assert make() == make()


def test_a_transposed_or_big_endian_array_is_stored_by_its_values():
    wide = np.arange(6, dtype=">f4").reshape(2, 3).T
    _, back = unpack("thing", pack("thing", {}, {"a": wide}))
    np.testing.assert_array_equal(back["a"], wide)


def test_what_is_read_cannot_be_written_to():
    _, back = unpack("thing", pack("thing", {}, {"a": np.zeros(3)}))
    with pytest.raises(ValueError, match="read-only"):
        back["a"][0] = 1


@pytest.mark.parametrize("place", [0, 5, 20, -1])
def test_a_changed_byte_is_refused(place):
    data = bytearray(pack("thing", {"x": 1}, {"a": np.arange(4.0)}))
    data[place] ^= 1
    with pytest.raises(StateError, match="thing"):
        unpack("thing", bytes(data))


@pytest.mark.parametrize("size", [0, 3, 16, 40])
def test_a_cut_tail_is_refused(size):
    data = pack("thing", {"x": 1}, {"a": np.arange(4.0)})
    with pytest.raises(StateError, match="thing"):
        unpack("thing", data[:size])


def test_another_kind_is_refused_by_its_name():
    with pytest.raises(StateError, match="holds a block"):
        unpack("snapshot", pack("block", {}, {}))


def test_objects_are_not_stored():
    with pytest.raises(ValueError, match="dtype object"):
        pack("thing", {}, {"a": np.array([object()])})
