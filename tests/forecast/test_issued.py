"""What an origin's blocks say of a version, whatever it was called then."""

from __future__ import annotations

import numpy as np

from forecast.issued import calibrated_step, part_of_seat, parts_of, seat_of, step_of
from forecast.record import ForecastBlock
from forecast.seat import Seat

SERVERS = ("a", "b")


def block(member, version, value, **more):
    values = np.full((2, 3, 1, 3), value, np.float32)
    return ForecastBlock(7, member, version, SERVERS, ("cpu",), (0.1, 0.5, 0.9), values, **more)


BLOCKS = [
    block("champion", 3, 3.0),
    block("challenger", 4, 4.0),
    block("champion_calibrated", 3, 3.5),
    block("challenger_calibrated", 4, 4.5),
    block("ensemble", None, 9.0, seat=(3, 4), shares=np.array([[1, 0], [0, 1]], np.float32)),
]
LATER = block("champion", 4, 0.0)
"""Version 4 as it is called once it was promoted."""


def level(values):
    """The one value of each server."""
    return values[:, 0, 0].tolist()


def test_a_version_is_found_by_its_number_and_before_it_came_by_who_was_champion():
    assert level(part_of_seat(BLOCKS, LATER, 1, SERVERS, None)) == [4.0, 4.0]
    assert level(part_of_seat(BLOCKS, block("champion", 9, 0.0), 1, SERVERS, None)) == [3.0, 3.0]
    assert level(calibrated_step(BLOCKS, 4, 2, SERVERS)) == [4.5, 4.5]
    assert level(calibrated_step(BLOCKS, 9, 2, SERVERS)) == [3.5, 3.5]


def test_a_seat_is_told_by_those_who_sit_in_it_today():
    seat = Seat((4, 3), np.array([[1, 0], [0, 1]], np.float32))
    assert level(part_of_seat(BLOCKS, BLOCKS[0], 1, SERVERS, seat)) == [4.0, 3.0]
    expert = block("copy_last", None, 1.0)
    assert level(part_of_seat([*BLOCKS, expert], expert, 1, SERVERS, seat)) == [1.0, 1.0]


def test_who_sat_in_the_seat_is_kept_with_the_ensemble_also_as_bytes():
    [ensemble] = [ForecastBlock.unpack(one.pack()) for one in BLOCKS if one.member == "ensemble"]
    found = seat_of([*BLOCKS[:4], ensemble])
    assert found.versions == (3, 4)
    np.testing.assert_array_equal(found.shares, [[1, 0], [0, 1]])
    assert seat_of(BLOCKS[:4]) is None
    assert ForecastBlock.unpack(BLOCKS[0].pack()).shares is None


def test_what_is_derived_is_made_of_the_others_and_who_issued_nothing_is_unknown():
    assert [one.member for one in parts_of(BLOCKS)] == ["champion", "challenger"]
    assert np.isnan(step_of(BLOCKS, "least_squares", 1, ("a", "c"))).all()
    assert level(step_of(BLOCKS, "champion", 1, ("b",))) == [3.0]
