"""Numbers of versions: accepted ones, a candidate, and no number twice."""

from __future__ import annotations

import pytest

from train.federated.history import History


def test_staleness_counts_accepted_versions_and_not_numbers():
    one = History(3, most_staleness=2)
    for accepted in (False, True, False, True, True):
        one.propose()
        one.accept() if accepted else one.reject()
    assert one.accepted == [5, 7, 8]
    assert [one.staleness(version) for version in (3, 4, 5, 6, 7, 8, 9)] == [
        None,
        None,
        2,
        None,
        1,
        0,
        None,
    ]


def test_a_repeated_verdict_is_told_from_a_wrong_one():
    one = History(0, most_staleness=5)
    assert one.propose() == 1
    assert one.accept(1)
    assert not one.accept(1)
    assert one.propose() == 2
    assert one.reject(2)
    assert not one.reject(2)
    for wrong in (one.accept, one.reject):
        with pytest.raises(
            ValueError, match="version 9 does not wait for a verdict, the last is 1"
        ):
            wrong(9)
    with pytest.raises(ValueError, match="version 1 does not wait"):
        one.reject(1)


def test_it_comes_back_from_json():
    one = History(0, most_staleness=5)
    one.propose()
    one.accept()
    one.propose()
    back = History.from_json(one.to_json(), most_staleness=5)
    assert back.to_json() == one.to_json()
    assert back.accept(2)
    assert History.from_json(back.to_json(), most_staleness=0).accepted == [2]
