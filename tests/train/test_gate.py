"""The gate: who may pass. Each rule has a case that only it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.losses_scene import covering, losses, only
from train.gate import Evidence, Rules, decide

RULES = Rules(validate=True, threshold=0.05, weight_move=0.25)
OFF = replace(RULES, validate=False)


def gate(found, rules=RULES, *, champion=7, anchor=7, **evidence):
    return decide(
        Evidence(losses=found, **evidence), rules, champion=champion, anchor=anchor, seed=11
    )


def against(by, *, noise=0.0, **more):
    """A challenger so much worse than the champion; others by name."""
    return losses({"challenger": by, "champion": 0.0, **more}, noise=noise)


def refusal(decision):
    """The one reason of a refusal."""
    assert not decision.promote
    [reason] = decision.reasons
    return reason


def test_the_better_and_the_equal_challenger_pass_with_the_numbers():
    for by in (-0.03, 0.0):
        passed = gate(against(by))
        assert passed.promote
        assert passed.report["relative_change"] == pytest.approx(by)
        assert passed.report["validated"] is True
    assert passed.reasons == (
        "WQL changes by +0.00% against the champion, by +0.00% at most, on 9600 held-out label "
        "cells in 24 blocks",
    )


def test_while_promotion_is_held_back_a_pass_is_a_refusal_and_a_refusal_stays_as_it_is():
    passed, refused = gate(against(-0.03)), gate(against(0.001))
    held = passed.held("paused by ann")
    assert (held.promote, held.reasons) == (False, ("paused by ann", *passed.reasons))
    assert held.report == passed.report
    assert refused.held("paused by ann") == refused
    assert passed.held(None) == passed


def test_a_challenger_that_is_worse_at_the_point_does_not_pass():
    assert refusal(gate(against(0.001))).startswith("WQL changes by +0.10% against the champion")


def test_a_challenger_that_may_be_much_worse_by_chance_does_not_pass():
    found = against(0.0)
    shaky = np.where(np.arange(24) % 6 == 0, 3.0, 0.5)[:, None, None]  # terrible every sixth hour
    pinball = {**found.pinball, "challenger": found.pinball["champion"] * shaky}
    found = replace(found, pinball=pinball)
    decision = gate(found)
    assert decision.report["relative_change"] <= 0
    assert decision.report["upper_bound"] > 0.05
    assert refusal(decision).startswith("WQL may change by")
    assert gate(found, replace(RULES, threshold=0.9)).promote


def test_a_challenger_behind_the_anchor_does_not_pass_however_good_next_to_the_champion():
    found = against(-0.01, anchor=-0.07)
    decision = gate(found, anchor=3)
    assert refusal(decision).startswith("against the anchor WQL changes by +6.45%")
    assert decision.report["anchor"] == 3
    assert decision.report["anchor_relative_change"] == pytest.approx(0.99 / 0.93 - 1)
    assert gate(found, anchor=7).promote  # the anchor is the champion itself
    close = against(-0.01, anchor=-0.04)
    assert gate(close, anchor=3).promote


def test_what_counts_against_the_anchor_is_the_bound():
    found = against(-0.0, noise=0.1, anchor=-0.03)
    decision = gate(found, replace(RULES, threshold=0.5), anchor=3)
    point, bound = (
        decision.report[f"anchor_{name}"] for name in ("relative_change", "upper_bound")
    )
    assert point < (point + bound) / 2 < bound
    told = gate(found, replace(RULES, threshold=(point + bound) / 2), anchor=3)
    assert any("against the anchor" in reason for reason in told.reasons)
    assert not told.promote


def test_no_role_is_sacrificed_to_the_mean():
    found = only(against(-0.2), "challenger", "db", 0.5)
    assert gate(found).report["relative_change"] < 0
    assert refusal(gate(found)).startswith("role 'db' (50% of the labels) would be sacrificed")
    little = only(against(-0.05), "challenger", "db", 0.08)
    assert gate(little).promote  # worse by less than the threshold


def test_a_role_that_is_worse_by_chance_alone_has_no_veto():
    found = only(against(-0.3), "challenger", "db", 0.5)
    noisy = found.pinball["challenger"].copy()
    noisy[:, 0] *= np.where(np.arange(24) == 3, 40, 0.1)[:, None]  # one terrible hour
    shaken = replace(found, pinball={**found.pinball, "challenger": noisy})
    decision = gate(shaken, replace(RULES, threshold=0.9))
    assert decision.report["roles"]["db"]["relative_change"] > 0.3
    assert decision.report["roles"]["db"]["lower_bound"] < 0
    assert not any("sacrificed" in reason for reason in decision.reasons)


def test_a_tiny_role_has_no_veto():
    found = only(against(-0.2), "challenger", "db", 0.5)
    cells = found.cells_BRT.copy()
    cells[:, 0] = 1  # 1 % of the labels
    inside = dict.fromkeys(found.pinball, 0.8 * cells)
    assert gate(replace(found, cells_BRT=cells, inside=inside)).promote


def test_coverage_may_not_be_worse_whatever_accuracy_says():
    found = covering(against(-0.05), "challenger", 0.76)
    told = "76.0% of the labels are covered, 80.0% by the champion: 4.0% further from nominal"
    assert refusal(gate(found)).startswith(told)
    assert refusal(gate(found, OFF)).startswith(told)
    assert gate(covering(against(-0.05), "challenger", 0.775)).promote
    assert gate(covering(found, "champion", 0.75)).promote
    assert not gate(covering(against(-0.05), "challenger", 0.84)).promote  # too wide counts alike


def test_coverage_may_not_slide_away_from_the_anchors():
    found = covering(covering(against(-0.05, anchor=0.0), "champion", 0.78), "challenger", 0.76)
    assert "by the anchor" in refusal(gate(found, anchor=3))


def test_coverage_that_is_worse_by_chance_alone_does_not_matter():
    found = against(-0.05)
    inside = found.inside["challenger"].copy()
    inside[5] = 0  # one hour without a hit, 3.3 points
    assert gate(replace(found, inside={**found.inside, "challenger": inside})).promote


def test_an_update_that_moved_the_weights_too_far_does_not_pass():
    for rules in (RULES, OFF):
        told = refusal(gate(against(-0.1), rules, moved=0.3))
        assert told == "the update moved the weights by 0.3 of their norm, allowed are 0.25"
        assert not gate(against(-0.1), rules, moved=float("nan")).promote
    assert gate(against(-0.1), moved=0.25).promote
    assert gate(against(-0.1), moved=None).promote  # started from elsewhere


def test_a_challenger_that_cannot_be_read_does_not_pass():
    for champion in (7, None):
        decision = gate(None, OFF, champion=champion, fault="2 weights are not finite, first x")
        assert "2 weights are not finite" in refusal(decision)
        assert decision.anchor == "stays"


def without(found, model):
    left = {name: sums for name, sums in found.pinball.items() if name != model}
    return replace(found, pinball=left)


def test_forecasts_that_are_not_finite_never_pass():
    for rules in (RULES, OFF):
        told = refusal(gate(without(against(0.0), "challenger"), rules))
        assert told == "the challenger's forecasts are not finite"
    assert not gate(without(losses({"challenger": 0.0}), "challenger"), champion=None).promote


def test_the_first_model_needs_only_to_be_finite():
    for found in (losses({"challenger": 9.0}), losses({"challenger": 0.0}, blocks=0)):
        decision = gate(found, champion=None, anchor=None)
        assert decision.promote
        assert decision.anchor == "challenger"
        assert decision.report["champion"] is None
        assert decision.report["validated"] is False


def test_a_champion_that_is_not_finite_gives_way():
    decision = gate(without(against(0.5), "champion"))
    assert decision.promote
    assert decision.anchor == "challenger"


def test_validation_off_drops_only_accuracy_and_says_so():
    worse = gate(against(0.5, anchor=-0.5), OFF, anchor=3)
    assert worse.promote
    assert "validation is off" in worse.reasons[0]
    assert worse.report["validated"] is False
    assert worse.report["relative_change"] == pytest.approx(0.5)
    sacrificed = only(against(-0.2), "challenger", "db", 2.0)
    assert gate(sacrificed, OFF).promote


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_nothing_is_promoted_over_a_champion_on_too_little(blocks):
    found = losses({"challenger": -0.1, "champion": 0.0}, blocks=blocks)
    decision = gate(found)
    assert not decision.promote
    assert gate(found, OFF).promote
    told = "no held-out label" if not blocks else f"{blocks} held-out blocks are too few"
    assert told in decision.reasons[0]


def test_the_champion_becomes_the_anchor_when_it_is_better_beyond_chance():
    assert gate(against(0.0, anchor=0.05), anchor=3).anchor == "champion"
    assert gate(against(0.0, anchor=0.0), anchor=3).anchor == "stays"
    assert gate(against(0.0, anchor=-0.01), anchor=3).anchor == "stays"
    few = losses({"challenger": 0.0, "champion": 0.0, "anchor": 0.5}, blocks=2)
    assert gate(few, anchor=3).anchor == "stays"
    unsure = against(0.0, noise=0.3, anchor=0.005)
    assert gate(unsure, anchor=3).anchor == "stays"
    # What cannot be compared is no anchor; a verdict against the challenger changes nothing here.
    assert gate(without(against(0.2, anchor=0.0), "anchor"), anchor=3).anchor == "champion"
    assert gate(against(0.2), anchor=None).anchor == "champion"
    assert gate(against(0.2, anchor=0.5), anchor=3).anchor == "champion"


def test_a_day_of_updates_each_a_percent_worse_ends_near_the_start():
    """The worst that can be: chance makes every one of them look a little better than it is."""
    champion, anchor, levels = 0, 0, {0: 0.0}
    for hour in range(48):
        levels[hour + 1] = 1.01 * (1 + levels[champion]) - 1
        lucky = {"challenger": levels[champion] - 0.001, "champion": levels[champion]}
        found = losses({**lucky, "anchor": levels[anchor]}, noise=0.01, seed=hour)
        decision = gate(found, champion=champion, anchor=anchor)
        anchor = champion if decision.anchor == "champion" else anchor
        champion = hour + 1 if decision.promote else champion
    assert anchor == 0
    assert champion > 0
    assert levels[champion] <= 0.05 + 0.02


def test_the_same_seed_gives_the_same_decision():
    found = against(-0.01, noise=0.1, anchor=0.0)
    assert gate(found, anchor=3) == gate(found, anchor=3)


@settings(deadline=None, max_examples=60)
@given(
    challenger=st.floats(-1, 10),
    champion=st.none() | st.floats(-1, 10),
    anchor=st.none() | st.floats(-1, 10),
    broken=st.sets(st.sampled_from(("challenger", "champion", "anchor"))),
    validate=st.booleans(),
    blocks=st.integers(0, 5),
    moved=st.none() | st.floats(0, 1),
)
def test_every_decision_has_a_reason_and_a_report_that_is_json(
    challenger, champion, anchor, broken, validate, blocks, moved
):
    models = {"challenger": challenger, "champion": champion, "anchor": anchor}
    found = losses({name: by for name, by in models.items() if by is not None}, blocks=blocks)
    for name in broken:
        found = without(found, name)
    decision = gate(
        found,
        replace(RULES, validate=validate),
        champion=None if champion is None else 7,
        anchor=None if anchor is None else 3,
        moved=moved,
    )
    assert decision.reasons
    json.dumps(decision.report, allow_nan=False)
    usable = "challenger" not in broken and (moved is None or moved <= 0.25)
    assert not decision.promote or usable


def test_the_report_names_the_targets_and_the_roles():
    report = gate(against(-0.1)).report
    assert set(report["challenger"]["per_target"]) == {"cpu_usage_ratio", "network_kb_per_s"}
    assert report["challenger"]["wql"] < report["champion"]["wql"]
    assert set(report["roles"]) == {"db", "web"}
    assert (report["blocks"], report["windows"], report["bound_level"]) == (24, 192, 0.95)
