"""The gate without raw data: sites' scores, and what they decide."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.windows_scene import CONTEXT, HORIZON, LEVELS, TARGETS, windows
from train.federated.verdict import SiteScore, VerdictRules, decide, score

RULES = VerdictRules(quorum=2)


def told(site: str, change: float, samples: int = 100, **other) -> SiteScore:
    plain = {"version": 1, "lower": change, "upper": change, "blocks": 8}
    return SiteScore(**{"site": site, "change": change, "samples": samples, **plain, **other})


def verdict(*scores: SiteScore, rules: VerdictRules = RULES):
    return decide(scores, rules, version=1)


def test_a_candidate_that_is_better_on_the_whole_is_accepted():
    found = verdict(told("a", -0.03), told("b", 0.01), told("c", -0.02))
    assert found.accept
    assert found.change == pytest.approx(-0.04 / 3)
    assert found.keep_previous == ()
    assert found.sites == 3


def test_the_change_is_weighed_by_samples():
    assert verdict(told("a", 0.01, 100), told("b", -0.006, 200)).accept
    assert not verdict(told("a", 0.01, 200), told("b", -0.006, 100)).accept


def test_a_candidate_that_is_worse_on_the_whole_is_rejected():
    found = verdict(told("a", 0.01), told("b", 0.015), told("c", -0.001))
    assert not found.accept
    assert found.reasons == ("WQL changes by +0.80% over 3 sites",)


def test_a_site_that_is_more_than_two_percent_worse_keeps_its_previous_global():
    found = verdict(told("a", 0.03), told("b", -0.05), told("c", -0.05))
    assert found.accept
    assert found.keep_previous == ("a",)


def test_without_a_quorum_of_sites_that_are_not_worse_it_is_rejected():
    found = verdict(told("a", 0.03), told("b", 0.03), told("c", -0.4))
    assert not found.accept
    assert found.keep_previous == ()
    assert "more than 2.0% worse at 2 of 3 sites" in found.reasons[0]


def test_too_few_sites_that_can_tell_decide_nothing():
    found = verdict(told("a", -0.1), told("b", math.nan), told("c", -0.1, samples=0))
    assert not found.accept
    assert found.reasons[0] == "1 sites could tell, 2 are needed"


def test_one_site_where_it_is_not_finite_is_enough_to_reject_it():
    found = verdict(told("a", -0.1), told("b", -0.1), told("c", -0.1, finite=False))
    assert not found.accept
    assert "not finite at 1 sites, first c" in found.reasons[0]


def test_scores_of_another_candidate_are_left_out():
    found = verdict(told("a", -0.1), told("b", -0.1), told("c", 0.4, version=2))
    assert found.accept
    assert found.sites == 2


def test_a_site_has_one_say_and_no_more_than_twice_the_median_sites():
    honest = [told(name, 0.01) for name in "abc"]
    liars = [told("z", -0.04, samples=10**9)] * 20
    found = verdict(*honest, *liars)
    assert found.sites == 4
    assert found.change == pytest.approx((3 * 0.01 - 2 * 0.04) / 5)


def test_a_quarter_of_liars_cannot_get_a_bad_candidate_through():
    honest = [told(f"h{at}", 0.06) for at in range(12)]
    liars = [told(f"z{at}", -1.0, samples=10**9) for at in range(4)]
    assert not verdict(*honest, *liars).accept


def test_a_lie_counts_for_no_more_than_the_bound_of_a_change():
    found = verdict(*[told(name, 0.0) for name in "abc"], told("z", -1e9))
    assert found.change == pytest.approx(-0.05 / 4)


@given(st.lists(st.floats(-0.04, 0.04), min_size=2, max_size=8), st.randoms())
def test_the_order_of_the_scores_changes_nothing(changes, random):
    scores = [told(f"s{at}", change, 50 + at) for at, change in enumerate(changes)]
    mixed = list(scores)
    random.shuffle(mixed)
    assert verdict(*scores) == verdict(*mixed)


def around(raw, off: float) -> np.ndarray:
    """Forecasts whose median is off by this share of the labels."""
    y = raw.values[:, CONTEXT:]
    return (y * (1 + off))[..., None] * np.array((0.95, 1.0, 1.05), np.float32)


def scored(candidate: float, current: float, raw=None) -> SiteScore:
    raw = windows(10 * HORIZON) if raw is None else raw
    return score(
        "a",
        1,
        raw,
        targets=TARGETS,
        levels=LEVELS,
        candidate=around(raw, candidate),
        current=around(raw, current),
        seed=1,
    )


def test_a_site_scores_with_the_gates_arithmetic():
    found = scored(0.1, 0.2)
    assert found.change < -0.3
    assert found.lower <= found.change <= found.upper < 0
    assert (found.blocks, found.samples) == (10, 10 * HORIZON * HORIZON * 2)
    assert scored(0.2, 0.2).change == 0


def test_too_few_blocks_can_tell_nothing():
    assert scored(0.1, 0.2, windows(2 * HORIZON)).samples == 0


def test_a_score_goes_over_the_wire_and_back():
    for one in (scored(0.1, 0.2), told("b", math.nan, samples=0)):
        wire = json.dumps(one.to_json(), allow_nan=False)
        back = SiteScore.from_json(json.loads(wire))
        assert back.to_json() == one.to_json()


@pytest.mark.parametrize(
    "change",
    [{"change": "much"}, {"samples": -1}, {"samples": True}, {"finite": 1}, {"extra": 1}],
)
def test_what_is_no_score_is_refused(change):
    with pytest.raises(ValueError, match=r"is no|score has|site is"):
        SiteScore.from_json({**told("a", 0.1).to_json(), **change})


def test_a_verdict_is_plain_json():
    found = verdict(told("a", 0.03), told("b", -0.05), told("c", -0.05))
    assert json.loads(json.dumps(found.to_json()))["keep_previous"] == ["a"]
    assert replace(found, accept=False).to_json()["accept"] is False


@pytest.mark.parametrize("wrong", [{"quorum": 0}, {"worse": -0.1}, {"most_samples": 0.5}])
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VerdictRules(**wrong)
