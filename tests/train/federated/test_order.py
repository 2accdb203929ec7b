"""Medians and trimmed means by coordinate, and the reservoir of a fair sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.federated.order import Entry, Reservoir, draw_of, median, trimmed, trimmed_mean


def deltas(count: int, size: int = 7, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32))


@pytest.mark.parametrize("count", [1, 2, 3, 6, 9])
def test_the_median_is_numpy_s(count):
    given_ = deltas(count, 10_000)
    assert median(given_) == pytest.approx(np.median(np.stack(given_).astype(float), axis=0))


def test_a_trimmed_mean_drops_so_many_of_each_coordinate():
    rows = [np.array([value, -value], np.float32) for value in (0, 1, 2, 3, 1e6)]
    assert trimmed_mean(rows, 0.2).tolist() == [2, -2]


def test_four_are_not_trimmed_by_nothing_but_refused():
    rows = [np.array([value], np.float32) for value in (1, 1, 1, 1e6)]
    with pytest.raises(ValueError, match="mean of 4 cannot be trimmed by 1"):
        trimmed_mean(rows, 0.2)
    with pytest.raises(ValueError, match="mean of 6 cannot be trimmed by 3"):
        trimmed_mean([*rows, *rows[:2]], 0.45)


@given(st.integers(1, 400), st.floats(0.001, 0.499))
def test_at_least_one_is_trimmed_and_never_less_than_the_share(count, trim):
    assert trimmed(count, trim) >= max(1, trim * count)
    assert trimmed(count, trim) < trim * count + 1.001 or trimmed(count, trim) == 1


def reservoir(most: int, sites, round: int = 0) -> Reservoir:
    made = Reservoir(most)
    for site in sites:
        made.add(Entry(draw_of(site, round, 0), site, 0, np.full(2, ord(site[0]), np.float32)))
    return made


@given(st.permutations("abcdefgh"), st.integers(1, 9))
def test_who_is_held_depends_on_no_order(sites, most):
    one, other = reservoir(most, "abcdefgh"), reservoir(most, sites)
    assert set(one.entries) == set(other.entries)
    assert len(one.entries) == min(most, 8)


@given(st.permutations("abcdefgh"), st.integers(0, 8), st.integers(1, 4))
def test_reservoirs_that_merge_hold_what_one_would(sites, cut, most):
    one = reservoir(most, sites[:cut])
    one.merge(reservoir(most, sites[cut:]), scale=1.0)
    assert set(one.entries) == set(reservoir(most, sites).entries)


def test_the_sample_is_another_one_in_every_round():
    held = {tuple(sorted(reservoir(2, "abcdefgh", round).entries)) for round in range(20)}
    assert len(held) > 5


def test_a_site_is_held_once_with_its_latest_delta():
    one = Reservoir(4)
    for sequence in (1, 2, 0):
        draw = draw_of("a", 0, 0)
        assert one.would_hold(draw, "a", sequence) == (sequence != 0)
        one.add(Entry(draw, "a", sequence, np.full(1, sequence, np.float32)))
    assert [each.tolist() for each in one.deltas()] == [[2]]


def test_what_would_not_be_held_need_not_be_copied():
    one = reservoir(3, "abcdefgh")
    assert not any(one.would_hold(draw_of(s, 0, 0), s, 0) for s in "abcdefgh")
    assert one.would_hold("0", "z", 0)
    assert not one.would_hold("g", "z", 0)
