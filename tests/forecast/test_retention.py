"""What is kept on disk: the newest, what is named, and a way back to each day and week."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.audit import AuditLog
from forecast.errors import RegistryError, UnknownVersion
from forecast.retention import DAYS, WEEKS, Keeping, kept
from forecast.versions import RegistryState, VersionInfo
from tests.forecast.registry_scene import add, folders, open_registry

DAY = 288
KEEPING = Keeping(newest=2)
MONDAY = 20_000 * DAY + 5 * DAY
"""2024-10-09 was day 20,005, a Wednesday; whatever it is called, days count from here."""


def promoted(state: RegistryState, slot: int, *, kind: str = "update") -> RegistryState:
    """The state with one more version, promoted at a slot."""
    number = state.next_version
    info = VersionInfo(number, kind, None, f"u{number}", slot, "", "", "", "", 1)
    return state.registered(info).promoted(number, slot=slot)


def numbers(state: RegistryState) -> list[int]:
    return [info.version for info in state.versions]


slots = st.lists(st.integers(0, 3 * DAY), min_size=1, max_size=40)
"""Slots between one promotion and the next."""


@given(gaps=slots, keeping=st.builds(Keeping, newest=st.integers(1, 4), beside=st.integers(0, 2)))
def test_nothing_that_is_kept_in_the_end_was_removed_on_the_way(gaps, keeping):
    every, pruned, slot = RegistryState(), RegistryState(), MONDAY
    for number, gap in enumerate(gaps):
        slot += gap
        kind = "base" if number == 0 else "update"
        every, pruned = (promoted(state, slot, kind=kind) for state in (every, pruned))
        pruned = pruned.retained(keeping, slot=slot)
    assert numbers(pruned) == sorted(kept(every, keeping, slot=slot))
    assert numbers(pruned) == numbers(pruned.retained(keeping, slot=slot))


@given(gaps=slots, back=st.integers(0, DAYS - 1))
def test_who_answered_at_the_end_of_each_of_the_last_days_is_there(gaps, back):
    state, slot, answers = RegistryState(), MONDAY, {}
    for gap in gaps:
        slot += gap
        state = promoted(state, slot).retained(KEEPING, slot=slot)
        answers[slot] = state.champion
    end = (slot // DAY + 1 - back) * DAY
    before = [version for at, version in answers.items() if at < end]
    assert not before or before[-1] in numbers(state)


@given(gaps=slots, rolled=st.sets(st.integers(0, 39)))
def test_with_rollbacks_the_champion_and_all_aliases_stay_and_the_number_is_bounded(gaps, rolled):
    state, slot = RegistryState(), MONDAY
    for number, gap in enumerate(gaps):
        slot += gap
        state = promoted(state, slot)
        if number in rolled and "previous" in state.aliases:
            state = state.rolled_back(None, slot=slot)
        state = state.retained(KEEPING, slot=slot)
        assert set(state.aliases.values()) <= set(numbers(state))
        assert state.champion == state.line[-1]
        assert len(state.versions) <= DAYS + WEEKS + 2 + KEEPING.newest + len(state.aliases)


def test_the_last_of_each_day_stays_two_weeks_and_the_last_of_each_week_eight():
    state, slot = RegistryState(), MONDAY
    for _ in range(100 * 4):  # four promotions a day, for a hundred days
        slot += DAY // 4
        state = promoted(state, slot).retained(KEEPING, slot=slot)
    days = sorted({info.promoted_slot // DAY for info in state.versions})
    today = slot // DAY
    assert days[-DAYS:] == list(range(today - DAYS + 1, today + 1))
    sunday = today - (today - 3) % 7  # the epoch began on a Thursday
    ends = {sunday - 7 * back for back in range(WEEKS - 1)}  # the present week has not ended
    assert ends <= set(days)
    assert set(days[:-DAYS]) <= ends


def test_what_was_withdrawn_answers_for_no_day():
    state = RegistryState()
    for day in range(6):
        state = promoted(state, MONDAY + day * DAY)
    state = state.rolled_back(3, slot=MONDAY + 5 * DAY)
    for day in range(6, 9):
        state = promoted(state, MONDAY + day * DAY)
    state = state.retained(KEEPING, slot=MONDAY + 8 * DAY)
    assert numbers(state) == [1, 2, 3, 7, 8, 9]


def test_who_made_forecasts_that_have_not_matured_is_kept():
    state = RegistryState()
    for number in range(8):
        state = promoted(state, MONDAY + number)
    now = MONDAY + 7
    assert kept(state, KEEPING, slot=now) == {7, 8}
    assert kept(state, replace(KEEPING, open_slots=3), slot=now) == {4, 5, 6, 7, 8}


def test_a_version_of_a_record_without_its_promotions_slot_is_kept_by_what_is_known():
    state = RegistryState()
    for day in range(5):
        state = promoted(state, MONDAY + day * DAY)
    old = replace(state, versions=tuple(replace(v, promoted_slot=None) for v in state.versions))
    assert kept(old, KEEPING, slot=MONDAY + 4 * DAY) == kept(state, KEEPING, slot=MONDAY + 4 * DAY)


def test_a_slot_that_lies_behind_does_not_empty_the_past():
    state = RegistryState()
    for day in range(5):
        state = promoted(state, MONDAY + day * DAY)
    assert kept(state, KEEPING, slot=0) == kept(state, KEEPING, slot=MONDAY + 4 * DAY)


# The way back to a time


def test_the_champion_of_a_time_is_known_from_the_log(tmp_path):
    registry = open_registry(tmp_path, keep=9)
    with pytest.raises(RegistryError, match="no champion at slot 5 yet"):
        registry.champion_at(5)
    for number in (1, 2, 3):
        add(registry, f"u{number}", slot=10 * number)
    registry.rollback(2, slot=35, who="ann", reason="bad night")
    assert [registry.champion_at(slot) for slot in (10, 19, 20, 34, 35, 99)] == [1, 1, 2, 3, 2, 2]
    with pytest.raises(RegistryError, match="no champion at slot 9"):
        registry.champion_at(9)


def test_a_champion_of_then_whose_files_are_gone_is_refused_by_name(tmp_path):
    registry = open_registry(tmp_path, keep=1)
    for number in range(1, 6):
        add(registry, f"u{number}", slot=number)
    assert folders(tmp_path) == [4, 5]
    with pytest.raises(UnknownVersion, match=r"version 2 was champion at slot 2.*kept are 4, 5"):
        registry.champion_at(2)


def test_bad_since_friday_found_on_monday(tmp_path):
    registry = open_registry(tmp_path, keep=2)
    for hour in range(6 * 24):
        add(registry, f"u{hour}", slot=MONDAY + 12 * hour, kind="base" if hour == 0 else "update")
    before_friday = MONDAY + 3 * DAY - 1
    version = registry.champion_at(before_friday)
    state = registry.rollback(version, slot=MONDAY + 6 * DAY, who="ann", reason="bad since Friday")
    assert state.champion == version == 3 * 24
    assert registry.load("champion") is not None
    assert registry.newest_servable().refused == ()
    assert len(list(AuditLog(tmp_path / "audit").records(kinds=["rollback"]))) == 1
