"""The champion's seat: who really answers in it, and what is shown of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forecast.record import ForecastBlock
from forecast.rollout import Share, Table
from forecast.seat import Seat, shown

SERVERS = ("a", "b", "c")


def values(low, shape=(3, 2, 1, 3)):
    return np.broadcast_to(low + np.array([0.0, 1.0, 2.0], np.float32), shape).copy()


def test_the_champion_alone_needs_no_seat():
    assert Seat.of(None, 3, SERVERS, {3, 4}) is None
    assert Seat.of(Table.of(3), 3, SERVERS, {3, 4}) is None
    assert Seat.of(Table((Share(3, 1.0), Share(4, 0.0))), 3, SERVERS, {3, 4}) is None
    assert Seat.of(Table.canary(3, 4, 0.999), 3, SERVERS, {3}) is None  # 4 is not live here


def test_shares_are_averaged_level_by_level_and_one_alone_is_left_as_it_is():
    seat = Seat((3, 4), np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32))
    crossed = values(0.0)
    crossed[..., 0] = 9.0
    mixed, held = seat.taken(3, [crossed, values(4.0), crossed])
    np.testing.assert_array_equal(mixed[0], crossed[0])  # not even sorted
    np.testing.assert_array_equal(mixed[1], values(4.0)[1])
    np.testing.assert_allclose(mixed[2, 0, 0], sorted([(9 + 4) / 2, (1 + 5) / 2, (2 + 6) / 2]))
    np.testing.assert_array_equal(held[:, 0], [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]])


def test_a_version_without_numbers_has_no_say_and_where_nobody_has_the_champion_answers():
    seat = Seat((4, 5), np.array([[1, 0], [0.5, 0.5], [1, 0]], np.float32))
    broken = values(4.0)
    broken[:2, 1, 0, 2] = np.nan
    mixed, held = seat.taken(3, [broken, values(5.0), values(3.0)])
    np.testing.assert_array_equal(mixed[0], values(3.0)[0])
    np.testing.assert_array_equal(mixed[1], values(5.0)[1])
    np.testing.assert_array_equal(mixed[2], values(4.0)[2])
    np.testing.assert_array_equal(held[:, 0], [[0, 0, 1], [0, 1, 0], [1, 0, 0]])


@given(seed=st.integers(0, 2**32 - 1), silent=st.floats(0, 1))
def test_who_answers_always_adds_up_to_one(seed, silent):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet((1.0, 1.0), size=3).astype(np.float32)
    made = [rng.normal(size=(3, 2, 2, 3)).astype(np.float32) for _ in range(3)]
    for one in made[:2]:
        one[rng.random((3, 2)) < silent] = np.nan  # every level of some steps
    mixed, held = Seat((4, 3), shares).taken(3, [*made[:2], made[2]])
    np.testing.assert_allclose(held.sum(-1), 1, rtol=1e-5)
    assert np.isfinite(mixed).all()


def test_an_answer_names_the_version_really_used_with_the_seats_weight():
    weights = np.array([[[0.6, 0.4]], [[0.2, 0.8]]], np.float32)
    parts = [
        ForecastBlock(
            0, name, version, ("a", "b"), ("cpu",), (0.1, 0.5, 0.9), values(0.0, (2, 1, 1, 3))
        )
        for name, version in (("champion", 3), ("challenger", 4), ("copy_last", None))
    ]
    seat = Seat((3, 4), np.array([[1, 0], [0.25, 0.75]], np.float32))
    _, held = seat.taken(3, [parts[0].values, parts[1].values, parts[0].values])
    names, versions, found = shown(("champion", "copy_last"), (3, None), weights, parts, seat, held)
    assert (names, versions) == (("champion", "copy_last", "challenger"), (3, None, 4))
    np.testing.assert_allclose(found[:, 0], [[0.6, 0.4, 0.0], [0.05, 0.8, 0.15]], rtol=1e-6)
