"""What learning was worth next to the twin: told with an interval, acted on when it is harm."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from forecast.errors import StateError
from forecast.scoring import StepReport
from train.gain import FLEET, GainRules, GainTracker

RULES = GainRules(targets=("cpu", "disk"), horizon=2, per_hour=1, hours=72)
BLOCK, DAY = 2, 24
SERVERS = ("web-1", "web-2", "db-1", "db-2")
ROLES = {name: name.split("-")[0] for name in SERVERS}


def report(slot, by, *, twin="twin", lost=(), servers=SERVERS, seed=3):
    """A slot in which the champion lost `1 + by` times what the twin did, by server or alike."""
    rng = np.random.default_rng([seed, slot])
    shape = (len(servers), 2)
    actuals = rng.uniform(5, 15, shape).astype(np.float32)
    base = rng.uniform(0.5, 1.5, shape)
    worse = np.array([by.get(name, 0.0) if isinstance(by, dict) else by for name in servers])
    champion = base * (1 + worse[:, None]) * rng.uniform(0.98, 1.02, shape)
    losses = {"champion": champion, twin: base}
    for name in lost:
        losses[twin][servers.index(name)] = np.nan
    members = tuple(sorted(name for name, loss in losses.items() if np.isfinite(loss).any()))
    loss = np.stack([losses[name] for name in members]).astype(np.float32)
    return StepReport(slot, 1, servers, members, (None,) * len(members), loss, actuals)


def fed(days, by, *, start=0, tracker=None, **more):
    """A tracker after so many days; `by` may be a function of the slot."""
    tracker = GainTracker(RULES) if tracker is None else tracker
    tracker.of(1)
    harm = []
    for slot in range(start, start + round(days * DAY)):
        tracker.add(report(slot, by(slot) if callable(by) else by, **more))
        if tracker.ends(slot):
            tracker.close(slot, ROLES)
            if (gain := tracker.harmful(slot)) is not None:
                harm.append((slot, gain))
    return tracker, harm


def test_the_gain_is_how_far_the_champion_lies_below_the_twin_with_its_interval():
    tracker, harm = fed(4, -0.1)
    told = tracker.told()
    gain = told["gains"][FLEET]
    assert gain["ratio"] == pytest.approx(0.1, abs=0.01)
    assert gain["lower"] < gain["ratio"] < gain["upper"]
    assert gain["upper"] - gain["lower"] < 0.02
    assert (told["version"], told["through_slot"], gain["blocks"]) == (1, 95, 48)
    assert harm == []


def test_each_role_has_its_own_gain():
    tracker, _ = fed(4, {"web-1": -0.2, "web-2": -0.2, "db-1": 0.1, "db-2": 0.1})
    gains = tracker.told()["gains"]
    assert gains["web"]["ratio"] == pytest.approx(0.2, abs=0.01)
    assert gains["db"]["ratio"] == pytest.approx(-0.1, abs=0.01)
    assert gains["db"]["upper"] < 0 < gains["web"]["lower"]


def test_three_days_below_zero_beyond_noise_are_harm_and_less_is_none():
    _, harm = fed(5, 0.05)
    # The first block is short: with the first forecasts the twin had not forecast all steps.
    assert harm[0][0] == 3 * DAY - 1
    assert harm[0][1].upper < 0
    assert fed(2.9, 0.05)[1] == []


def test_a_single_bad_day_is_no_harm_however_bad():
    _, harm = fed(8, lambda slot: 0.5 if 3 * DAY <= slot < 4 * DAY else -0.01)
    assert harm == []


def test_noise_around_zero_is_no_harm():
    found = [fed(10, 0.0, seed=seed)[1] for seed in range(12)]
    assert sum(bool(harm) for harm in found) <= 1


def test_what_was_acted_on_is_judged_anew_for_three_days():
    tracker, harm = fed(3, 0.05)
    assert [slot for slot, _ in harm] == [3 * DAY - 1]
    tracker.acted(3 * DAY - 1)
    _, again = fed(2.75, 0.05, start=3 * DAY, tracker=tracker)
    assert again == []
    _, again = fed(0.25, 0.05, start=3 * DAY + 66, tracker=tracker)
    assert [slot for slot, _ in again] == [6 * DAY - 1]


def test_hours_in_which_nothing_was_scored_are_not_held_against_anybody():
    tracker, _ = fed(2, 0.05)
    _, harm = fed(2, 0.05, start=2 * DAY + BLOCK, tracker=tracker)  # a block is missing
    assert harm == []


def test_where_the_base_is_a_member_of_the_ensemble_it_is_the_twin():
    tracker, _ = fed(4, -0.1, twin="base")
    assert tracker.told()["gains"][FLEET]["ratio"] == pytest.approx(0.1, abs=0.01)


def test_steps_that_the_twin_had_not_forecast_yet_are_left_out():
    tracker = GainTracker(RULES)
    tracker.of(1)
    tracker.add(report(0, 9.0))  # two steps ahead there was the champion alone
    for slot in range(1, 3 * DAY):
        tracker.add(report(slot, -0.1))
        if tracker.ends(slot):
            tracker.close(slot, ROLES)
    assert tracker.told()["gains"][FLEET]["ratio"] == pytest.approx(0.1, abs=0.01)


def test_a_server_without_a_twin_counts_on_neither_side():
    some, _ = fed(4, {"web-1": -0.2, "web-2": 9.0}, lost=("web-2",), servers=("web-1", "web-2"))
    assert some.told()["gains"][FLEET]["ratio"] == pytest.approx(0.2, abs=0.01)


def test_the_same_report_again_changes_nothing():
    once, _ = fed(4, -0.1)
    twice = GainTracker(RULES)
    twice.of(1)
    for slot in range(4 * DAY):
        for _ in range(2):
            twice.add(report(slot, -0.1))
        if twice.ends(slot):
            for _ in range(2):
                twice.close(slot, ROLES)
    assert twice.pack() == once.pack()
    assert twice.told() == once.told()


def test_what_is_packed_goes_on_as_if_it_had_never_stopped():
    whole, harm = fed(4, 0.05)
    first, _ = fed(2, 0.05)
    again = GainTracker.unpack(first.pack(), RULES)
    assert again.told() == first.told()
    rest, later = fed(2, 0.05, start=2 * DAY, tracker=again)
    assert rest.pack() == whole.pack()
    assert later == harm
    with pytest.raises(StateError):
        GainTracker.unpack(first.pack()[:-9], RULES)
    others = dataclasses.replace(RULES, targets=("cpu",))
    assert GainTracker.unpack(first.pack(), others).told()["gains"] == {}


def test_another_base_begins_anew_once_the_one_before_has_matured():
    tracker, _ = fed(4, 0.05)
    tracker.of(2)
    assert tracker.told()["gains"] == {}
    for slot in range(4 * DAY, 8 * DAY):
        # At first what matures was still issued by the twin of before.
        known = report(slot, 9.0 if slot < 4 * DAY + 2 else -0.1)
        alone = dataclasses.replace(known, members=("champion",), loss=known.loss[:1], wql=(None,))
        tracker.add(alone if 4 * DAY + 2 <= slot < 4 * DAY + 4 else known)
        if tracker.ends(slot):
            tracker.close(slot, ROLES)
    assert tracker.told()["gains"][FLEET]["ratio"] == pytest.approx(0.1, abs=0.01)


def test_what_is_too_old_is_not_told_of():
    tracker, _ = fed(40, lambda slot: 0.5 if slot < 10 * DAY else -0.1)
    gain = tracker.told()["gains"][FLEET]
    assert gain["ratio"] == pytest.approx(0.1, abs=0.01)
    assert gain["blocks"] <= RULES.days * DAY // BLOCK
