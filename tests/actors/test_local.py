"""What goes through a local handle: copies that cannot change the sender's, and no more of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from actors.local import LocalHandle, copied


@dataclass(frozen=True, slots=True)
class Message:
    name: str
    parts: Any


@dataclass
class Loose:
    numbers: list[int]


def test_what_cannot_change_is_not_copied():
    plain = ("a", 1, 2.5, None, b"x", Message("m", (1, "b")), np.float32(3))
    assert copied(plain) is plain


@pytest.mark.parametrize(
    "of",
    [
        lambda a: a,
        lambda a: (a,),
        lambda a: [a],
        lambda a: {"a": a},
        lambda a: Message("m", (a, 1)),
    ],
)
def test_an_array_arrives_as_it_was_and_cannot_be_written_to(of):
    array = np.arange(6.0).reshape(2, 3)[:, ::2]
    sent, wanted = of(array), array.copy()
    got = _array_in(copied(sent))
    array[:] = -1
    assert np.array_equal(got, wanted)
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1


def _array_in(value):
    while not isinstance(value, np.ndarray):
        if isinstance(value, Message):
            value = value.parts
        value = value["a"] if isinstance(value, dict) else value[0]
    return value


def test_a_read_only_array_goes_on_as_it_is_unless_others_can_write_to_its_memory():
    once = copied(np.zeros(3))
    assert copied(once) is once
    base = np.zeros(3)
    view = base[:2]
    view.flags.writeable = False
    got = copied(view)
    base[:] = 7
    assert got.tolist() == [0, 0]


def test_all_else_is_copied_deeply():
    loose, numbers = Loose([1]), [[1]]
    sent = Message("m", (loose, numbers))
    got = copied(sent)
    loose.numbers.append(2)
    numbers[0].append(2)
    assert got.parts[0].numbers == [1]
    assert got.parts[1] == [[1]]


async def test_results_and_pending_results_are_copied():
    class Actor:
        def __init__(self):
            self.kept = {"a": [1]}

        def read(self):
            return self.kept

        def add(self, given):
            given["a"].append(2)
            return given

    handle = LocalHandle(Actor())
    assert await handle.add.remote(handle.read.remote()) == {"a": [1, 2]}
    assert await handle.read.remote() == {"a": [1]}
