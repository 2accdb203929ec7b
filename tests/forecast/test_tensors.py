"""Arrays under a JSON header: what was dumped is loaded, what is anything else is refused."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from forecast.tensors import dump, load

ARRAYS = {"values": np.arange(5, dtype=np.int8), "scales": np.array([0.5], np.float32)}


def test_equal_content_has_equal_bytes_and_comes_back():
    one, other = dump({"b": 1, "a": [2]}, ARRAYS), dump({"a": [2], "b": 1}, ARRAYS)
    assert one == other
    header, arrays = load(one)
    assert header == {"a": [2], "b": 1}
    assert all((arrays[name] == ARRAYS[name]).all() for name in ARRAYS)


@given(cut=st.integers(0, 200), flip=st.integers(0, 80), bit=st.integers(0, 7))
def test_bytes_that_were_cut_or_changed_are_refused_or_still_whole(cut, flip, bit):
    data = bytearray(dump({"site": "a"}, ARRAYS))
    data[flip % len(data)] ^= 1 << bit
    for bad in (bytes(data), bytes(data[:cut])):
        try:
            header, arrays = load(bad)
        except ValueError:
            continue
        assert isinstance(header, dict)
        assert all(array.dtype.name in ("float32", "uint16", "int8") for array in arrays.values())


@pytest.mark.parametrize(
    "metadata", [None, {"other": "x"}, {"fleetcast": "[1]"}, {"fleetcast": "{"}]
)
def test_a_file_without_our_header_is_refused(metadata):
    with pytest.raises(ValueError, match="metadata"):
        load(safetensors.numpy.save(ARRAYS, metadata=metadata))


def test_a_kind_of_number_that_does_not_travel_is_refused():
    data = safetensors.numpy.save({"x": np.zeros(1, np.float64)}, metadata={"fleetcast": "{}"})
    with pytest.raises(ValueError, match="float64"):
        load(data)


def test_a_header_that_says_it_is_huge_is_not_read():
    with pytest.raises(ValueError, match="header of"):
        load(struct.pack("<Q", 1 << 40) + json.dumps({}).encode())
