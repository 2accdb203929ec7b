"""Alarms: when one begins, when it ends, and what a gap does to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.alarms import Episodes, deviation
from forecast.errors import StateError


def told(text: str, *, hold: int = 2, clear: int = 3) -> tuple[str, list[int]]:
    """Outside is x, inside is ., a gap is a space: whether it fires after each, and since when."""
    episodes = Episodes.none(hold=hold, clear=clear)
    fires, since = [], []
    for slot, char in enumerate(text):
        out, known = np.array([char == "x"]), np.array([char != " "])
        episodes = episodes.after(slot, ("web-1",), out, known)
        fires.append("!" if episodes.firing[0] else "-")
        since.append(int(episodes.since[0]))
    return "".join(fires), since


@pytest.mark.parametrize(
    ("slots", "fires"),
    [
        (".x.x.x.x", "--------"),  # never two in a row
        (".xx.....", "--!!!---"),  # ends with the third slot inside
        (".xx..x..", "--!!!!!!"),  # that one counts anew after a slot outside
        (".x x....", "---!!!--"),  # a gap neither adds nor breaks
        (".xx     ", "--!!!!!!"),  # silence ends no alarm
        ("xxxxxxxx", "-!!!!!!!"),
    ],
)
def test_an_alarm_begins_after_the_hold_time_and_ends_after_the_clear_time(slots, fires):
    assert told(slots)[0] == fires


def test_it_is_since_the_first_slot_of_its_run_and_a_run_that_was_none_is_forgotten():
    assert told(".x.xx.x...")[1] == [-1, 1, -1, 3, 3, 3, 3, 3, 3, -1]


@given(st.text("x. ", max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_it_fires_by_its_own_count_of_slots(text, hold, clear):
    firing, expected = False, []
    heard = text.replace(" ", "")
    seen = ""
    for char in text:
        if char != " ":
            seen += char
            firing = firing or seen.endswith("x" * hold)
            firing = firing and not seen.endswith("." * clear)
        expected.append("!" if firing else "-")
    assert seen == heard
    assert told(text, hold=hold, clear=clear)[0] == "".join(expected)


@given(st.lists(st.sampled_from("x. "), min_size=1, max_size=30), st.integers(0, 29))
def test_a_stored_value_goes_on_as_if_it_had_never_been_stored(chars, cut):
    straight = stored = Episodes.none((2,), hold=2, clear=2)
    for slot, char in enumerate(chars):
        out = np.array([[char == "x", char != "x"]])
        known = np.full((1, 2), char != " ")
        straight = straight.after(slot, ("a",), out, known)
        stored = stored.after(slot, ("a",), out, known)
        if slot == cut:
            stored = Episodes.unpack(stored.pack())
    for name in ("firing", "outside", "inside", "since"):
        np.testing.assert_array_equal(getattr(straight, name), getattr(stored, name))


def test_servers_come_and_go_and_one_under_an_old_name_begins_anew():
    episodes = Episodes.none(hold=1, clear=1)
    yes = np.ones(2, bool)
    episodes = episodes.after(0, ("a", "b"), yes, yes)
    episodes = episodes.after(1, ("b", "c"), np.array([True, False]), yes)
    assert dict(zip(episodes.servers, episodes.firing.tolist(), strict=True)) == {
        "b": True,
        "c": False,
    }
    episodes = episodes.after(2, ("a", "b"), np.zeros(2, bool), np.zeros(2, bool))
    assert episodes.firing.tolist() == [False, True]
    assert episodes.since.tolist() == [-1, 0]


def test_a_deviation_counts_half_widths_on_either_side_and_never_by_less_than_the_resolution():
    low, median, high = np.array([2.0, 5.0]), np.array([3.0, 5.0]), np.array([5.0, 5.0])
    found = deviation(
        np.array([[5.0, 5.3], [1.0, 5.0], [np.nan, 4.0]]),
        low,
        median,
        high,
        resolution=np.array([0.1, 0.1]),
    )
    np.testing.assert_allclose(found, [[1, 3], [2, 0], [np.nan, 10]], rtol=1e-5)


def test_what_makes_no_sense_or_is_damaged_is_refused():
    with pytest.raises(ValueError, match="hold 0"):
        Episodes.none(hold=0, clear=1)
    data = bytearray(Episodes.none(hold=1, clear=1).pack())
    data[-1] ^= 1
    with pytest.raises(StateError):
        Episodes.unpack(bytes(data))
