"""The rollout table: cohorts that stay, shares that sum to one, and what is on its way."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.rollout import Cohort, Flight, Rollouts, Share, Table, is_trial, place_of

NAMES = tuple(f"web-{one:03d}" for one in range(2000))


@st.composite
def shares(draw):
    """Some versions whose shares sum to 1, some with none."""
    versions = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True))
    parts = [draw(st.integers(0, 4)) for _ in versions]
    parts[0] += 1
    return tuple(
        Share(version, part / sum(parts)) for version, part in zip(versions, parts, strict=True)
    )


@st.composite
def tables(draw):
    """Any table of up to three cohorts."""
    cohorts = [
        Cohort(f"c{at}", draw(st.floats(0.01, 0.33)), draw(shares()))
        for at in range(draw(st.integers(0, 3)))
    ]
    return Table(draw(shares()), tuple(cohorts))


@given(table=tables(), live=st.sets(st.integers(1, 9)))
def test_each_servers_shares_sum_to_one_and_name_only_live_versions(table, live):
    versions, found = table.shares(NAMES[:50], live)
    assert set(versions) <= live & set(table.versions)
    assert found.shape == (50, len(versions))
    for server, row in zip(NAMES, found, strict=False):
        at = (
            [one.name for one in table.cohorts].index(table.cohort_of(server))
            if (table.cohort_of(server) != "everyone")
            else None
        )
        own = table.everyone if at is None else table.cohorts[at].versions
        someone = any(one.share > 0 and one.version in live for one in own)
        assert row.sum() == pytest.approx(1 if someone else 0, abs=1e-5)


@given(table=tables())
def test_a_table_comes_back_from_json_as_it_was(table):
    assert Table.from_json(json.loads(json.dumps(asdict(table)))) == table


def test_a_server_is_in_the_same_cohort_for_ever_and_cohorts_have_their_share_of_servers():
    canary = Table.canary(3, 4, 0.05)
    first = [name for name in NAMES if canary.cohort_of(name) == "canary"]
    assert 0.03 < len(first) / len(NAMES) < 0.07
    later = Table.canary(8, 9, 0.05)  # other versions, another day: the same servers
    assert [name for name in NAMES if later.cohort_of(name) == "canary"] == first
    wider = Table.canary(3, 4, 0.5)
    assert set(first) <= {name for name in NAMES if wider.cohort_of(name) == "canary"}
    assert place_of("web-000") == 0.022457502666108922  # never another one


def test_what_a_version_that_is_not_live_had_is_the_others():
    table = Table((Share(3, 0.5), Share(4, 0.3), Share(5, 0.2)))
    versions, found = table.shares(("a",), {3, 5})
    assert versions == (3, 5)
    np.testing.assert_allclose(found, [[5 / 7, 2 / 7]], rtol=1e-6)


def test_a_version_without_a_share_is_a_shadow_and_sits_in_no_seat():
    table = Table((Share(3, 1.0), Share(4, 0.0)))
    assert (table.versions, table.shares(("a",), {3, 4})[0]) == ((3, 4), (3,))
    assert table.only(3)


@pytest.mark.parametrize(
    ("everyone", "cohorts", "said"),
    [
        ([(3, 0.5)], [], "sum to 1"),
        ([(3, 2.0), (4, -1.0)], [], "sum to 1"),
        ([(3, 0.5), (3, 0.5)], [], "twice"),
        ([(3, 1.0)], [("b", 0.6, [(4, 1.0)]), ("c", 0.6, [(4, 1.0)])], "1 together"),
        ([(3, 1.0)], [("b", 0.0, [(4, 1.0)])], "above 0"),
        ([(3, 1.0)], [("everyone", 0.5, [(4, 1.0)])], "a name of its own"),
        ([(3, 1.0)], [("b", 0.5, [(4, 0.9)])], "the shares of b"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(everyone, cohorts, said):
    def of(pairs):
        return tuple(Share(*pair) for pair in pairs)

    with pytest.raises(ValueError, match=said):
        Table(of(everyone), tuple(Cohort(name, size, of(pairs)) for name, size, pairs in cohorts))


def flight(version, **changes):
    return Flight(**{"version": version, "stage": "shadow", "began": 0, "since": 0, **changes})


def test_one_is_in_flight_and_of_those_that_wait_the_newest():
    one = Rollouts().accept(flight(4), slot=10, champion=3)
    assert (one.flight.version, one.flight.began, one.table) == (4, 10, None)
    two = one.accept(flight(5), slot=11, champion=3).accept(flight(6), slot=12, champion=3)
    assert (two.flight.version, two.waiting.version, two.accepted) == (4, 6, {4, 6})
    canary = two.advance(slot=20, champion=3)
    assert canary.table == Table.canary(3, 4, 0.05)
    assert (canary.flight.began, canary.flight.since) == (10, 20)
    ended = canary.end(slot=30, champion=3)
    assert (ended.flight.version, ended.flight.began, ended.table, ended.waiting) == (
        (6, 30, None, None)
    )


def test_without_a_shadow_stage_a_version_begins_in_its_canary_cohort():
    begun = Rollouts().accept(flight(4, stage="canary"), slot=10, champion=3)
    assert begun.table == Table.canary(3, 4, 0.05)


def test_with_another_champion_what_flies_begins_anew_beside_it_and_an_own_table_is_over():
    flies = Rollouts().accept(flight(4), slot=10, champion=3).advance(slot=20, champion=3)
    moved = flies.moved(7, slot=25)
    assert (moved.flight.stage, moved.flight.began, moved.table) == ("shadow", 25, None)
    assert flies.moved(4, slot=25).flight is None  # it has arrived
    own = Rollouts().put(Table((Share(3, 0.5), Share(4, 0.5))), slot=5, champion=3)
    assert own.accept(flight(6), slot=6, champion=3).moved(6, slot=7) == Rollouts()


def test_an_own_table_lets_what_was_in_flight_wait_and_ends_with_the_champion_alone():
    flies = Rollouts().accept(flight(4), slot=10, champion=3).advance(slot=20, champion=3)
    own = flies.put(Table((Share(3, 0.5), Share(2, 0.5))), slot=22, champion=3)
    assert (own.flight.version, own.flight.stage, own.waiting.version) == (2, "operator", 4)
    again = own.put(Table((Share(3, 1.0),)), slot=30, champion=3)
    assert (again.flight.version, again.flight.stage, again.table) == (4, "shadow", None)


def test_what_may_not_answer_any_more_is_named_nowhere():
    held = Rollouts(shadows=(2,)).accept(flight(4), slot=1, champion=3)
    held = held.accept(flight(5), slot=2, champion=3)
    assert held.without({4}, slot=3, champion=3).flight.version == 5
    assert held.without({5, 2}, slot=3, champion=3).versions == {4}
    assert held.without({9}, slot=3, champion=3) == held


def test_trials_have_few_names_and_what_is_in_flight_is_the_challenger():
    held = Rollouts(shadows=(2, 1)).accept(flight(4), slot=1, champion=3)
    assert held.trials(3, ()) == {"challenger": 4, "variant_1": 2, "variant_2": 1}
    assert held.trials(3, (2,)) == {"challenger": 4, "variant_1": 1}
    assert [is_trial(name) for name in ("challenger", "variant_2", "previous_1")] == [
        True, True, False,
    ]  # fmt: skip
