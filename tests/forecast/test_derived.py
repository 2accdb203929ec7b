"""The derived members: made of the others, learned from what matured, the same after a restart."""

from dataclasses import replace

import numpy as np
import pytest

from forecast.derived import Derived, Limits
from forecast.ledger import Ledger
from forecast.record import ForecastBlock
from forecast.seat import Seat

LEVELS = (0.1, 0.5, 0.9)
TARGETS = ("cpu",)
SERVERS = ("a", "b")
HORIZON = 3
LIMITS = Limits((0.0,), (1.0,), (1e-3,))


def block(slot, member, centre, *, version=None, servers=SERVERS):
    steps = np.full((len(servers), HORIZON, 1, 1), centre, np.float32)
    values = steps + np.array([-0.1, 0.0, 0.1], np.float32)
    return ForecastBlock(slot, member, version, servers, TARGETS, LEVELS, values)


def members(slot, *, servers=SERVERS):
    return (
        block(slot, "champion", 0.5, version=4, servers=servers),
        block(slot, "copy_last", 0.8, servers=servers),
    )


def actual(slot):
    return np.array([[0.5 + 0.05 * np.sin(slot)], [0.79]], np.float32)


def ledger(path, **given):
    return Ledger(
        path=path,
        targets=TARGETS,
        levels=LEVELS,
        horizon=HORIZON,
        step_seconds=300,
        retain_slots=288,
        acknowledge="write",
        limits=LIMITS,
        **given,
    )


def step(ledger, slot):
    ledger.score(slot, SERVERS, actual(slot))
    return ledger.record(members(slot))


def test_all_that_is_of_record_comes_back_the_derived_ones_last(tmp_path):
    blocks = step(ledger(tmp_path / "l"), 0)
    assert [one.member for one in blocks] == [
        "champion",
        "copy_last",
        "champion_calibrated",
        "ensemble",
    ]
    ensemble = blocks[-1]
    assert (ensemble.members, ensemble.versions) == (("champion", "copy_last"), (4, None))
    np.testing.assert_allclose(ensemble.weights.sum(2), 1, rtol=1e-5)


def test_each_server_leans_on_the_member_that_was_right(tmp_path):
    kept = ledger(tmp_path / "l")
    for slot in range(100):
        blocks = step(kept, slot)
    first, second = blocks[-1].weights[:, 0]
    assert first[0] > 0.9
    assert second[1] > 0.6  # its offsets have learned some of it before
    report = kept.accuracy()
    assert report.members[0].member == "ensemble"
    assert report.member("ensemble").pooled.wql < report.member("champion").pooled.wql


@pytest.mark.parametrize("save_every", [1, 5, 100])
def test_a_restart_anywhere_changes_no_bit(tmp_path, save_every):
    whole, cut = ledger(tmp_path / "whole"), ledger(tmp_path / "cut", save_every=save_every)
    for slot in range(25):
        expected, got = step(whole, slot), step(cut, slot)
        for one, other in zip(expected, got, strict=True):
            np.testing.assert_array_equal(one.values, other.values)
        cut.close()
        cut = ledger(tmp_path / "cut", save_every=save_every)
        again = cut.record(members(slot))  # a step done again
        assert [one.member for one in again] == [one.member for one in got]
        for one, other in zip(again, got, strict=True):
            np.testing.assert_array_equal(one.values, other.values)


def test_what_is_derived_keeps_to_the_bounds_and_its_order(tmp_path):
    kept = ledger(tmp_path / "l")
    for slot in range(60):
        kept.score(slot, SERVERS, np.full((2, 1), 1.0, np.float32))
        blocks = kept.record(members(slot))
    for one in blocks[-2:]:
        assert one.values.max() <= 1.0
        assert (np.diff(one.values, axis=-1) >= 0).all()


def test_without_a_champion_nothing_is_derived(tmp_path):
    blocks = ledger(tmp_path / "l").record([block(0, "copy_last", 0.5)])
    assert [one.member for one in blocks] == ["copy_last"]


def test_by_recency_only_versions_take_part():
    fresh = Derived.fresh(TARGETS, LEVELS, HORIZON, LIMITS, "recency")
    older = block(0, "previous_1", 0.2, version=3)
    ensemble = fresh.derive((*members(0), older))[-1]
    assert ensemble.members == ("previous_1", "champion")
    np.testing.assert_allclose(ensemble.weights[0, 0], [0.375, 0.625])


def test_by_recency_the_order_is_that_of_the_blocks_and_the_oldest_have_nothing():
    fresh = Derived.fresh(TARGETS, LEVELS, HORIZON, LIMITS, "recency")
    line = ((4, "champion"), (9, "previous_1"), (3, "previous_2"), (1, "base"))
    versions = [block(0, name, 0.2, version=version) for version, name in line]
    ensemble = fresh.derive((*versions, block(0, "copy_last", 0.8)))[-1]
    assert ensemble.versions == (1, 3, 9, 4)
    np.testing.assert_allclose(ensemble.weights[0, 0], [0, 0.2, 0.3, 0.5])


def line_up(slot):
    """Version 4 is replaced by 5 at slot 12, and comes back at 20."""
    centres = {4: 0.5, 5: 0.9}
    newer = 12 <= slot < 20
    line = (("champion", 5), ("previous_1", 4)) if newer else (("champion", 4),)
    versions = [block(slot, name, centres[number], version=number) for name, number in line]
    return (*versions, block(slot, "copy_last", 0.8))


@pytest.mark.parametrize("save_every", [1, 5])
def test_versions_come_and_go_and_a_restart_changes_no_bit(tmp_path, save_every):
    whole, cut = ledger(tmp_path / "whole"), ledger(tmp_path / "cut", save_every=save_every)
    weights = []
    for slot in range(25):
        for one in (whole, cut):
            one.score(slot, SERVERS, np.full((2, 1), 0.5, np.float32))
        expected, got = whole.record(line_up(slot)), cut.record(line_up(slot))
        for one, other in zip(expected, got, strict=True):
            np.testing.assert_array_equal(one.values, other.values)
            np.testing.assert_array_equal(one.weights, other.weights)
        ensemble = expected[-1]
        weights.append(dict(zip(ensemble.versions, ensemble.weights[0, 0].tolist(), strict=True)))
        cut.close()
        cut = ledger(tmp_path / "cut", save_every=save_every)
    assert weights[12][5] == pytest.approx(weights[12][4])
    assert weights[19][4] > weights[13][4] > weights[13][5] > weights[19][5]
    # What it earned beside the other one is not lost when it is champion again.
    assert weights[20][4] > weights[19][4]
    assert whole.accuracy().member("previous_1").pooled.n > 0


def test_servers_come_and_go(tmp_path):
    kept = ledger(tmp_path / "l")
    for slot in range(30):
        servers = SERVERS if slot < 10 or slot > 20 else ("b", "c")
        kept.score(slot, ("b",), np.array([[0.8]], np.float32))
        blocks = kept.record(members(slot, servers=servers))
        assert blocks[-1].servers == servers
        assert np.isfinite(blocks[-1].values).all()


CANARY = Seat((4, 5), np.array([[1, 0], [0, 1]], np.float32))
"""Server b is in the canary cohort."""


def rolled_out(slot):
    """Version 5 goes beside 4 at slot 6, to server b at 12, and to everyone at 18: the members, and
    who sits in the champion's seat."""
    centres, copied = {4: 0.5, 5: 0.6}, block(slot, "copy_last", 0.8)
    champion = 5 if slot >= 18 else 4
    line = [("champion", champion)] + ([("challenger", 5)] if 6 <= slot < 18 else [])
    versions = [block(slot, name, centres[number], version=number) for name, number in line]
    return (*versions, copied), CANARY if 12 <= slot < 18 else None


def by_member(blocks):
    return {one.member: one for one in blocks}


def test_a_canary_changes_its_own_servers_answers_and_no_others():
    fresh = Derived.fresh(TARGETS, LEVELS, HORIZON, LIMITS, "learned")
    made, seat = rolled_out(12)
    plain, moved = (by_member(fresh.recorded(made, one)) for one in (None, seat))
    one, other = plain["ensemble"], moved["ensemble"]
    np.testing.assert_array_equal(one.values[0], other.values[0])
    assert (other.values[1] > one.values[1]).all()
    assert (other.members, other.versions) == (
        ("champion", "copy_last", "challenger"),
        (4, None, 5),
    )
    np.testing.assert_allclose(other.weights[:, 0], [[0.5, 0.5, 0], [0, 0.5, 0.5]], rtol=1e-6)
    assert (plain["ensemble"].members, plain["ensemble"].shares) == (
        ("champion", "copy_last"),
        None,
    )
    for name in ("champion", "champion_calibrated", "challenger_calibrated"):
        np.testing.assert_array_equal(plain[name].values, moved[name].values)


def test_a_shadow_is_computed_and_calibrated_and_has_no_say():
    fresh = Derived.fresh(TARGETS, LEVELS, HORIZON, LIMITS, "learned")
    (champion, shadow, copied), _ = rolled_out(8)
    found = by_member(fresh.recorded((champion, shadow, copied)))
    alone = by_member(fresh.recorded((champion, copied)))
    np.testing.assert_array_equal(found["ensemble"].values, alone["ensemble"].values)
    assert found["challenger_calibrated"].version == 5
    assert "challenger" not in found["ensemble"].members


def test_a_canary_without_numbers_is_answered_by_the_champion_and_the_answer_says_so():
    fresh = Derived.fresh(TARGETS, LEVELS, HORIZON, LIMITS, "learned")
    (champion, challenger, copied), seat = rolled_out(12)
    broken = challenger.values.copy()
    broken[1, 2] = np.nan
    made = (champion, replace(challenger, values=broken), copied)
    ensemble = by_member(fresh.derive(made, seat))["ensemble"]
    plain = by_member(fresh.derive((champion, copied)))["ensemble"]
    np.testing.assert_array_equal(ensemble.values, plain.values)
    np.testing.assert_allclose(ensemble.weights[1, 0], [0.5, 0.5, 0])


@pytest.mark.parametrize("save_every", [1, 5])
def test_a_rollout_and_a_restart_anywhere_change_no_bit(tmp_path, save_every):
    whole, cut = ledger(tmp_path / "whole"), ledger(tmp_path / "cut", save_every=save_every)
    for slot in range(25):
        made, seat = rolled_out(slot)
        for one in (whole, cut):
            one.score(slot, SERVERS, actual(slot))
        expected, got = whole.record(made, seat), cut.record(made, seat)
        assert [one.member for one in expected] == [one.member for one in got]
        for one, other in zip(expected, got, strict=True):
            np.testing.assert_array_equal(one.values, other.values)
            np.testing.assert_array_equal(one.weights, other.weights)
        cut.close()
        cut = ledger(tmp_path / "cut", save_every=save_every)
        kept = by_member(cut.blocks(slot))["ensemble"]
        assert kept.seat == by_member(expected)["ensemble"].seat


def test_a_challenger_that_becomes_champion_keeps_the_offsets_it_had_beside_it(tmp_path):
    kept = ledger(tmp_path / "l")
    for slot in range(19):
        made, seat = rolled_out(slot)
        kept.score(slot, SERVERS, np.full((2, 1), 0.62, np.float32))
        blocks = by_member(kept.record(made, seat))
        if slot == 17:
            beside = blocks["challenger_calibrated"].values
    after = blocks["champion_calibrated"]
    assert after.version == 5
    # One more slot has matured since: an offset moves by less than a hundredth of a width.
    np.testing.assert_allclose(after.values, beside, atol=0.003)
    assert "challenger_calibrated" not in blocks


def test_the_seat_of_a_cohort_earns_what_those_who_sit_in_it_forecast(tmp_path):
    """In an A/B test version 5 is right for server b and 4 is not: b's seat gains weight by it."""
    kept, plain = ledger(tmp_path / "l"), ledger(tmp_path / "p")
    for slot in range(40):
        made = (
            block(slot, "champion", 0.2, version=4),
            block(slot, "challenger", 0.6, version=5),
            block(slot, "copy_last", 0.45),
        )
        for one in (kept, plain):
            one.score(slot, SERVERS, np.full((2, 1), 0.6, np.float32))
        tested, alone = (
            by_member(one.record(made, s)) for one, s in ((kept, CANARY), (plain, None))
        )
    weights = dict(zip(tested["ensemble"].versions, tested["ensemble"].weights[1, 0], strict=True))
    assert weights[5] > 0.7
    assert alone["ensemble"].weights[1, 0, 0] < 0.3
