"""Learned weights: they follow who was right, per server, and do so after any delay."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.ensemble import Weights, by_rule, combine, parts_of, step_groups
from forecast.packing import pack, unpack

LEVELS = (0.1, 0.5, 0.9)
SERVERS = ("web-1", "web-2")
MEMBERS = ("good", "bad")
HORIZON = 4


def played(slots, centre_KS, *, seed=0, members=MEMBERS, servers=SERVERS, unit=1.0, delay=0):
    """Weights after some slots in which each member forecast around its own centre; y is near 0."""
    draw = np.random.default_rng(seed)
    spread = np.array([-0.5, 0.0, 0.5], np.float32)
    forecast = unit * (np.asarray(centre_KS)[:, :, None, None] + spread).astype(np.float32)
    weights = Weights.fresh(HORIZON, 1, LEVELS)
    shape = (len(members), len(servers), HORIZON, 1, 3)
    every = np.broadcast_to(forecast[:, :, None], shape)
    issued = []
    for slot in range(slots):
        made = weights.of(members, servers)
        issued.append(combine(made, every, weights.groups, weights.parts))
        actual = (unit * draw.normal(0, 0.3, (len(servers), 1))).astype(np.float32)
        matured = {
            step: (forecast, issued[slot - delay - step][:, step - 1])
            for step in range(1, HORIZON + 1)
            if slot - delay >= step
        }
        if matured:
            weights = weights.learned(members, servers, matured, actual, LEVELS)
    return weights


@pytest.mark.parametrize("delay", [0, 12])
def test_the_better_member_of_each_server_gets_the_weight(delay):
    weights = played(200, [[0.0, 3.0], [3.0, 0.0]], delay=delay)
    found = weights.of(MEMBERS, SERVERS)
    assert (found[0, 0] > 0.9).all()
    assert (found[1, 1] > 0.9).all()


@settings(max_examples=30)
@given(st.integers(0, 60), st.integers(0, 1000))
def test_weights_are_shares_that_sum_to_one(slots, seed):
    found = played(slots, [[0.0, 1.0], [1.0, 0.5]], seed=seed).of((*MEMBERS, "new"), SERVERS)
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_the_unit_of_a_target_changes_nothing():
    bits, kilobits = (played(80, [[0.0, 1.0], [1.0, 0.5]], unit=unit) for unit in (1.0, 1024.0))
    same = bits.of(MEMBERS, SERVERS), kilobits.of(MEMBERS, SERVERS)
    np.testing.assert_allclose(*same, rtol=1e-4)


def test_a_new_server_starts_with_what_the_fleet_has_learned():
    found = played(200, [[0.0, 0.0], [3.0, 3.0]]).of(MEMBERS, ("new",))
    assert (found[0, 0] > 0.75).all()
    assert (found[0, 0, ..., 1] > 0.9).all()


def test_a_server_unlike_the_fleet_leaves_its_word_for_what_matures_of_its_own():
    names = tuple(f"web-{number}" for number in range(20))
    weights = played(200, [[0.0] * 19 + [3.0], [3.0] * 19 + [0.0]], servers=names)
    found = weights.of(MEMBERS, (*names, "new"))[:, 0, ..., 1]
    assert (found[19] < 0.1).all()
    assert (found[20] > 0.9).all()


def test_what_is_noise_on_one_server_is_clear_to_the_fleet():
    names = tuple(f"web-{number}" for number in range(40))
    weights = played(16, [[0.0] * 40, [0.15] * 40], servers=names)
    assert (weights.of(MEMBERS, names)[:, 0, ..., 1] > 0.5).mean() > 0.95


def test_a_cell_of_which_nothing_matures_keeps_the_word_of_the_fleet():
    weights = played(50, [[0.0, 0.0], [3.0, 3.0]])
    forecast = np.zeros((2, 1, 1, 3), np.float32)
    gap = np.full((1, 1), np.nan, np.float32)
    before = weights.of(MEMBERS, ("new",))
    alone = weights.learned(MEMBERS, ("new",), {1: (forecast, forecast[0])}, gap, LEVELS)
    np.testing.assert_allclose(alone.of(MEMBERS, ("new",)), before, atol=0.01)


def test_how_many_servers_are_alike_changes_nothing():
    centre = np.array([[0.0, 1.0], [1.0, 0.5]])
    few = played_alike(60, centre, copies=1)
    many = played_alike(60, centre, copies=100)
    np.testing.assert_allclose(many, np.tile(few, (100, 1, 1, 1, 1)), rtol=1e-3)


def played_alike(slots, centre_KS, *, copies):
    """Weights [S, K, G, T, P] after slots in which every server of a copy fares the same."""
    draw = np.random.default_rng(5)
    spread = np.array([-0.5, 0.0, 0.5], np.float32)
    one = (centre_KS[:, :, None, None] + spread).astype(np.float32)
    forecast = np.tile(one, (1, copies, 1, 1))
    servers = tuple(f"web-{number}" for number in range(forecast.shape[1]))
    weights = Weights.fresh(HORIZON, 1, LEVELS)
    for _ in range(slots):
        actual = np.tile(draw.normal(0, 0.3, (len(SERVERS), 1)), (copies, 1))
        matured = {step: (forecast, forecast.mean(0)) for step in range(1, HORIZON + 1)}
        weights = weights.learned(MEMBERS, servers, matured, actual, LEVELS)
    return weights.of(MEMBERS, servers)


def test_a_new_member_starts_as_one_of_many_and_the_others_keep_their_order():
    found = played(200, [[0.0, 0.0], [3.0, 3.0]]).of((*MEMBERS, "new"), SERVERS)
    assert (found[:, 0] > found[:, 1]).all()
    assert (found[:, 2] > 0.01).all()


def test_a_cell_without_an_outcome_teaches_nothing():
    weights = played(20, [[0.0, 0.0], [3.0, 3.0]])
    forecast = np.zeros((2, 2, 1, 3), np.float32)
    gap = np.full((2, 1), np.nan, np.float32)
    after = weights.learned(MEMBERS, SERVERS, {1: (forecast, forecast[0])}, gap, LEVELS)
    before = weights.of(MEMBERS, SERVERS)
    np.testing.assert_allclose(after.of(MEMBERS, SERVERS), before, atol=0.02)
    assert (after.variance <= weights.variance).all()


def test_what_was_known_is_bitwise_the_same_from_storage_and_in_another_order():
    weights = played(50, [[0.0, 3.0], [3.0, 0.0]])
    again = Weights.unpack(weights.pack())
    np.testing.assert_array_equal(again.of(MEMBERS, SERVERS), weights.of(MEMBERS, SERVERS))
    turned = again.of(MEMBERS[::-1], SERVERS[::-1])
    np.testing.assert_allclose(turned[::-1, ::-1], weights.of(MEMBERS, SERVERS), rtol=1e-5)


def test_a_member_that_issued_nothing_has_no_say():
    weights = Weights.fresh(HORIZON, 1, LEVELS)
    values = np.ones((2, 2, HORIZON, 1, 3), np.float32)
    values[1, 0] = np.nan
    values[:, 1] = np.nan
    mixed = combine(weights.of(MEMBERS, SERVERS), values, weights.groups, weights.parts)
    assert (mixed[0] == 1).all()
    assert np.isnan(mixed[1]).all()


def test_quantiles_of_an_ensemble_do_not_cross():
    draw = np.random.default_rng(1)
    values = draw.normal(size=(2, 2, HORIZON, 1, 3)).astype(np.float32)
    weights = Weights.fresh(HORIZON, 1, LEVELS)
    mixed = combine(weights.of(MEMBERS, SERVERS), values, weights.groups, weights.parts)
    assert (np.diff(mixed, axis=-1) >= 0).all()


def test_fixed_rules():
    fresh = Weights.fresh(HORIZON, 1, LEVELS)
    assert (
        by_rule("uniform", fresh, ("a", "b", "c", "d"), SERVERS)[0, :, 0, 0, 0].tolist()
        == [0.25] * 4
    )
    newest = by_rule("recency", fresh, ("v1", "v2", "v3", "v4"), SERVERS)[0, :, 0, 0, 0]
    np.testing.assert_allclose(newest, [0, 0.2, 0.3, 0.5])
    np.testing.assert_allclose(
        by_rule("recency", fresh, ("v1", "v2"), SERVERS)[0, :, 0, 0, 0], [0.375, 0.625]
    )


@given(st.integers(1, 200))
def test_step_groups_rise_from_the_first_step(horizon):
    groups = step_groups(horizon)
    assert groups[0] == 0
    assert (np.diff(groups) >= 0).all()
    assert groups.max() <= 2


def test_levels_fall_into_three_parts():
    assert parts_of((0.02, 0.1, 0.5, 0.9, 0.98)).tolist() == [0, 0, 1, 2, 2]


LINE = ("champion", "previous_1", "base", "expert")


def shares(weights, members, versions):
    """Weights [S, K] in the first cell."""
    return weights.of(members, SERVERS, versions)[:, :, 0, 0, 0]


def earned():
    """A champion, version 7, that is better than the base, version 1, and an expert between."""
    centres = [[0.0, 0.2], [0.6, 0.6], [0.3, 0.1]]
    weights = played(60, centres, members=("champion", "base", "expert"))
    return replace(weights, versions=(7, 1, None))


def test_at_a_promotion_both_have_what_the_champion_earned_and_experts_keep_theirs():
    weights = earned()
    before = shares(weights, ("champion", "base", "expert"), (7, 1, None))
    after = shares(weights, LINE, (8, 7, 1, None))
    np.testing.assert_allclose(after[:, 0], after[:, 1], rtol=1e-5)
    np.testing.assert_allclose(after[:, 3], before[:, 2], atol=0.005)  # but for the common share
    ratio = before[:, 0] / before[:, 1]
    np.testing.assert_allclose(after[:, 0] / after[:, 2], ratio, rtol=0.15)


def test_a_version_that_goes_leaves_its_share_to_the_other_versions():
    weights = earned()
    before = shares(weights, ("champion", "base", "expert"), (7, 1, None))
    after = shares(weights, ("champion", "expert"), (7, None))
    np.testing.assert_allclose(after[:, 1], before[:, 2], atol=0.005)


def test_what_a_version_earned_follows_its_number_back_and_forth():
    weights = earned()
    split = weights.among(LINE, SERVERS, (8, 7, 1, None))
    back = split.among(("champion", "base", "expert"), SERVERS, (7, 1, None))
    np.testing.assert_allclose(back.regret, weights.regret, rtol=1e-4, atol=1e-5)
    turned = weights.among(("champion", "previous_1", "expert"), SERVERS, (1, 7, None))
    np.testing.assert_array_equal(turned.regret[:, [1, 0, 2]], weights.regret)


def test_another_version_under_the_same_name_changes_no_bit_where_only_the_champion_issues():
    weights = replace(played(30, [[0.0, 1.0], [1.0, 0.0]]), members=("champion", "expert"))
    promoted = weights.among(weights.members, SERVERS, (8, None))
    np.testing.assert_array_equal(promoted.regret, weights.regret)
    assert Weights.unpack(promoted.pack()).versions == (8, None)


def test_weights_stored_before_slots_were_counted_are_read():
    weights = earned()
    header, arrays = unpack("weights", weights.pack())
    older = {name: array for name, array in arrays.items() if name != "slots"}
    old = Weights.unpack(pack("weights", header, older))
    assert old.slots.shape == weights.slots.shape
    assert not old.slots.any()
    np.testing.assert_array_equal(old.regret, weights.regret)


def test_weights_stored_before_versions_had_records_are_read():
    weights = earned()
    header, arrays = unpack("weights", weights.pack())
    del header["versions"]
    old = Weights.unpack(pack("weights", header, arrays))
    assert old.versions == ()
    after = shares(old, LINE, (8, 7, 1, None))
    np.testing.assert_allclose(after[:, 0], after[:, 1], rtol=1e-5)
