"""What the drill says of its cases, and what it calls a problem."""

from __future__ import annotations

import pytest

from bench.drill import figures_of
from bench.drill_scene import Outcome, reason_of
from bench.load import Account

COHORT = 2 / 12


def outcome(case="one", *, detected=True, exposed=0.0, **figures):
    return Outcome(
        case=case,
        caught="gate: worse",
        steps=1,
        served=(1,),
        exposed=exposed,
        failed=0,
        after="version 1 is champion",
        detected=detected,
        figures=figures,
    )


def problems(*outcomes, account=None, wanted=("nan",)):
    found = figures_of(outcomes, account or Account(forecasts=9), COHORT, wanted=wanted)
    return found["problems"]


def test_cases_that_were_detected_within_the_cohort_are_no_problem():
    assert problems(outcome(exposed=COHORT), outcome(ratchet_max=1.01)) is None


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (outcome("a bad one", detected=False), "undetected: a bad one"),
        (outcome(exposed=3 / 12), "max_exposed_share"),
        (outcome(ratchet_max=1.06), "ratchet_max"),
    ],
)
def test_what_got_further_than_it_may_is_named(found, named):
    assert problems(found) == named


def test_a_failed_request_and_a_drill_without_load_are_problems():
    assert problems(outcome(), account=Account(forecasts=9, failed=1)) == "failed_requests"
    assert problems(outcome(), account=Account()) == "no forecast was asked for"


def test_a_whole_drill_without_all_cases_is_a_problem():
    assert problems(outcome(), wanted=()) == "cases"


def test_what_somebody_let_by_hand_does_not_count_as_exposed():
    figures = figures_of([outcome(exposed=None)], Account(forecasts=1), COHORT, wanted=("friday",))
    assert figures["max_exposed_share"] == 0
    assert figures["ratchet_max"] is None


def test_the_reason_that_names_what_is_asked_about_is_told():
    detail = {"reasons": ["WQL changes by +9 %", "role 'cache' would be sacrificed"]}
    record = {"who": "gate", "detail": detail}
    assert reason_of(record) == "gate: WQL changes by +9 %"
    assert reason_of(record, about="cache") == "gate: role 'cache' would be sacrificed"
    assert reason_of({"who": "ann", "detail": {"reason": "why"}}) == "ann: why"
