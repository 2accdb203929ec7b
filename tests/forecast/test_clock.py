from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.clock import EventClock, StallWatch, life, missing_slots

DAY = 288


def clock_of(lasts=None, *, lateness_s=300):
    clock = EventClock(step_seconds=300, allowed_lateness_s=lateness_s)
    if lasts is not None:
        clock.observe(np.array(lasts))
    return clock


def test_before_any_data_there_is_no_time():
    clock = clock_of([])
    assert (clock.slot, clock.closed_slot) == (None, None)


def test_the_clock_is_the_slot_that_half_of_the_servers_have_reached():
    assert clock_of([10, 10, 9, 8]).slot == 10
    assert clock_of([10, 9, 9, 8]).slot == 9
    assert clock_of([10, 9, 8, 8, 8]).slot == 8


@pytest.mark.parametrize(("lateness_s", "behind"), [(0, 1), (300, 1), (301, 2), (900, 3)])
def test_a_slot_closes_the_allowed_lateness_behind_the_clock_and_one_at_least(lateness_s, behind):
    assert clock_of([100], lateness_s=lateness_s).closed_slot == 100 - behind


def test_one_server_eight_days_ahead_moves_nothing():
    clock = clock_of([1000] * 23 + [1000 + 8 * DAY])
    for slot in range(1001, 1400):
        clock.observe(np.array([slot] * 23 + [slot + 8 * DAY]))
        assert clock.slot == slot


def test_a_wrong_clock_of_one_in_five_moves_nothing():
    assert clock_of([1000, 1000, 1000, 1000, 1000 + 8 * DAY]).slot == 1000


def test_one_server_two_hours_behind_delays_nothing():
    clock = clock_of([1000] * 23 + [976])
    clock.observe(np.array([1001] * 23 + [977]))
    assert clock.slot == 1001


def test_half_of_the_fleet_dying_does_not_stop_time():
    clock = clock_of([1000] * 24)
    for slot in range(1001, 1010):
        clock.observe(np.array([1000] * 12 + [slot] * 12))
        assert clock.slot == slot


def test_when_most_of_the_fleet_dies_time_goes_on_once_they_are_silent():
    clock = clock_of([1000] * 24)
    seen = []
    for slot in range(1001, 1007):
        clock.observe(np.array([1000] * 17 + [slot] * 7))
        seen.append(clock.slot)
    assert seen == [1000, 1000, 1000, 1004, 1005, 1006]


@pytest.mark.parametrize("fleet", [5, 24, 100])
def test_when_all_but_one_die_time_goes_on_after_a_day(fleet):
    clock = clock_of([1000] * fleet)
    for slot in range(1001, 1001 + DAY):
        clock.observe(np.array([1000] * (fleet - 1) + [slot]))
        assert clock.slot == 1000
    for slot in range(1001 + DAY, 1010 + DAY):
        clock.observe(np.array([1000] * (fleet - 1) + [slot]))
        assert clock.slot == slot


def test_a_leap_of_one_server_while_nobody_else_speaks_is_not_taken_for_a_day_of_progress():
    clock = clock_of([1000] * 24)
    for ahead in (8 * DAY, 9 * DAY, 10 * DAY):
        assert not clock.observe(np.array([1000] * 23 + [1000 + ahead]))
    assert clock.slot == 1000


def test_a_backfill_of_old_slots_moves_nothing():
    clock = clock_of([1000, 1000, 1000])
    assert not clock.observe(np.array([1000, 1000, 1000, 40]))
    assert not clock.observe(np.array([1000, 1000, 1000, 41, 41, 41, 41]))
    assert clock.slot == 1000


def test_retired_servers_do_not_vote():
    clock = clock_of([1000] * 2)
    clock.observe(np.array([1000] * 2 + [1000 - DAY - 1] * 10))
    clock.observe(np.array([1001] * 2 + [1000 - DAY - 1] * 10))
    assert clock.slot == 1001


@given(st.lists(st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 5000)), max_size=12))
def test_the_clock_never_goes_back_and_never_leads_everybody(observed):
    clock, highest = clock_of(), -1
    for lasts in observed:
        before = clock.slot
        moved = clock.observe(lasts)
        highest = max(highest, *lasts.values()) if lasts else highest
        assert moved == (clock.slot != before)
        if clock.slot is not None:
            assert before is None or clock.slot >= before
            assert clock.slot <= highest


@given(
    st.lists(st.lists(st.integers(0, 3000), min_size=1, max_size=9), min_size=2, max_size=8),
    st.integers(1, 7),
)
def test_a_restored_clock_goes_on_as_the_first_would(observed, at):
    first = clock_of()
    for lasts in observed[:at]:
        first.observe(np.array(lasts))
    second = clock_of()
    second.restore(json.loads(json.dumps(first.to_json())))
    for lasts in observed[at:]:
        assert first.observe(np.array(lasts)) == second.observe(np.array(lasts))
    assert (first.slot, first.closed_slot) == (second.slot, second.closed_slot)


def life_at(slot, *, first=100, last=None, missed=0):
    last = slot if last is None else last
    return life(
        first_slot=first, last_slot=last, missed_slots=missed, slot=slot, context=72, day_slots=DAY
    )


def test_a_server_warms_up_until_it_has_a_whole_context():
    assert life_at(100) == "warming_up"
    assert life_at(170) == "warming_up"
    assert life_at(171) == "active"
    assert missing_slots(first_slot=100, slot=100, context=72) == 71
    assert missing_slots(first_slot=100, slot=171, context=72) == 0


def test_a_server_is_stale_after_three_silent_slots_and_retired_after_a_day():
    assert life_at(503, last=500, missed=3) == "active"
    assert life_at(504, last=500, missed=4) == "stale"
    assert life_at(500 + DAY, last=500, missed=DAY) == "stale"
    assert life_at(501 + DAY, last=500, missed=DAY + 1) == "retired"


def test_an_outage_of_the_whole_collection_retires_nobody():
    assert life_at(500 + 10 * DAY, last=500, missed=2) == "stale"


def test_a_stall_is_called_after_three_steps_of_wall_time_without_progress():
    watch = StallWatch(step_seconds=300, now_s=1000.0)
    assert not watch.stalled(1900.0)
    assert watch.stalled(1901.0)
    watch.observe(7, now_s=2000.0)
    assert not watch.stalled(2900.0)
    watch.observe(7, now_s=2800.0)  # the same slot is no progress
    watch.observe(6, now_s=2850.0)
    watch.observe(None, now_s=2860.0)
    assert watch.stalled(2901.0)
    assert watch.age_s(2901.0) == 901.0
