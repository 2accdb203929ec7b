"""The circuit breaker: when it opens, how long it stays so, and what closes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.breaker import Breaker, BreakerRules, fault_of

RULES = BreakerRules(failures=3, window=10, cooldown=5)


def failing(*slots, start=None):
    breaker = Breaker() if start is None else start
    for slot in slots:
        breaker = breaker.failed(slot, RULES)
    return breaker


def test_it_opens_with_so_many_failures_within_the_window_and_not_with_fewer():
    assert failing(1, 5).state(5, RULES) == "closed"
    assert failing(1, 5, 10).state(10, RULES) == "open"
    assert failing(1, 5, 11).state(11, RULES) == "closed"  # the first counts no longer
    assert not failing(1, 5, 10).allows(14, RULES)


def test_after_the_cool_down_one_training_is_let_through():
    opened = failing(1, 2, 3)
    assert [opened.state(slot, RULES) for slot in (7, 8, 80)] == ["open", "half_open", "half_open"]
    assert opened.allows(8, RULES)


def test_a_probe_that_succeeds_closes_it_and_old_failures_are_forgotten():
    closed = failing(1, 2, 3).succeeded(8, RULES)
    assert closed == Breaker()
    assert failing(9, 10, start=closed).state(10, RULES) == "closed"


def test_a_probe_that_fails_opens_it_for_another_cool_down():
    again = failing(1, 2, 3, 9)
    assert [again.state(slot, RULES) for slot in (13, 14)] == ["open", "half_open"]


def test_what_ends_while_it_is_open_changes_nothing():
    opened = failing(1, 2, 3)
    assert failing(5, start=opened) == opened
    assert opened.succeeded(5, RULES) == opened


def test_a_success_while_it_is_closed_forgives_nothing():
    # Trainings that fail every other time are not sound either.
    assert failing(5, start=failing(1, 3).succeeded(4, RULES)).state(5, RULES) == "open"


def test_a_person_closes_it_at_once():
    assert failing(1, 2, 3).reset().allows(4, RULES)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["fail", "ok", "reset"])), max_size=60)
)
def test_whatever_happens_it_lets_a_training_through_within_a_cool_down(events):
    breaker, slot = Breaker(), 0
    for gap, what in events:
        slot += gap
        if what == "reset":
            breaker = breaker.reset()
        else:
            breaker = (breaker.failed if what == "fail" else breaker.succeeded)(slot, RULES)
        assert breaker.allows(slot + RULES.cooldown, RULES)
        assert len(breaker.failures) < RULES.failures
        assert all(slot - at < RULES.window for at in breaker.failed(slot, RULES).failures)


@pytest.mark.parametrize(
    ("report", "fault"),
    [
        ({}, None),
        ({"fault": "weights are not finite"}, "weights are not finite"),
        ({"fault": None, "challenger": {"finite": False}}, "its forecasts are not finite"),
        (
            {"challenger": {"finite": True}, "weight_move": 0.3, "most_weight_move": 0.25},
            "the update moved the weights by 0.3 of their norm",
        ),
        (
            {"weight_move": "nan", "most_weight_move": 0.25},
            "the update moved the weights by nan of their norm",
        ),
        ({"challenger": {"finite": True}, "weight_move": 0.02, "most_weight_move": 0.25}, None),
    ],
)
def test_a_challenger_that_could_not_serve_is_a_fault_and_a_refused_one_is_none(report, fault):
    assert fault_of(report) == fault
