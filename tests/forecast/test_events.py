"""Events: what they cover, when they are known, and which are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.events import Event, Events, read_events

STEP = 300_000
OUTAGE = Event("e1", "incident", 10 * STEP, 12 * STEP, servers=("a",))
NAMES, ROLES = ["a", "b", "c"], ["", "db", "db"]


def masked(book: Events, *, known_at: int) -> list[tuple[str, int]]:
    slots = np.arange(8, 15)
    found = book.mask(NAMES, ROLES, slots, known_at=known_at, step_ms=STEP)
    return [(NAMES[row], int(slots[at])) for row, at in zip(*np.nonzero(found), strict=True)]


def test_every_slot_of_which_an_incident_covers_a_part_is_masked():
    late = replace(OUTAGE, start_ms=10 * STEP + 1, end_ms=11 * STEP + 1)
    assert masked(Events().told(late, slot=0), known_at=0) == [("a", 10), ("a", 11)]
    assert masked(Events().told(OUTAGE, slot=0), known_at=0) == [("a", 10), ("a", 11)]


def test_an_event_is_about_names_roles_or_the_whole_fleet():
    by_role = replace(OUTAGE, kind="maintenance", servers=(), roles=("db",), end_ms=11 * STEP)
    fleet = replace(by_role, roles=())
    assert masked(Events().told(by_role, slot=0), known_at=0) == [("b", 10), ("c", 10)]
    assert masked(Events().told(fleet, slot=0), known_at=0) == [("a", 10), ("b", 10), ("c", 10)]


def test_an_incident_without_an_end_lasts_and_a_deploy_masks_nothing():
    open_ended = Events().told(replace(OUTAGE, end_ms=None), slot=0)
    assert masked(open_ended, known_at=0) == [("a", slot) for slot in range(10, 15)]
    assert masked(Events().told(replace(OUTAGE, kind="deploy"), slot=0), known_at=0) == []


def test_what_was_known_at_a_slot_stays_what_it_was():
    ended = replace(OUTAGE, end_ms=11 * STEP)
    book = Events().told(OUTAGE, slot=20).told(ended, slot=30).withdrawn("e1", slot=40)
    assert [len(masked(book, known_at=slot)) for slot in (19, 20, 29, 30, 39, 40)] == [
        0, 2, 2, 1, 1, 0,
    ]  # fmt: skip
    assert Events.from_json(book.to_json()) == book


def test_the_same_word_twice_changes_nothing_and_a_correction_within_a_slot_leaves_no_trace():
    book = Events().told(OUTAGE, slot=20)
    assert book.told(OUTAGE, slot=25) is book
    other = replace(OUTAGE, end_ms=None)
    assert Events().told(other, slot=20).told(OUTAGE, slot=20) == book
    assert len(book.withdrawn("e1", slot=20)) == 0


def test_what_is_over_for_longer_than_the_history_is_forgotten():
    book = Events().told(OUTAGE, slot=20).told(replace(OUTAGE, id="open", end_ms=None), slot=20)
    assert book.since(20, step_ms=STEP) == book  # known at 20: a step of then may be made again
    assert [told.event.id for told in book.since(21, step_ms=STEP).entries] == ["open"]


def test_a_deploy_holds_alarms_for_a_while_and_a_holiday_while_it_lasts():
    deploy = Event("d", "deploy", 10 * STEP, None, roles=("db",))
    holiday = Event("h", "holiday", 30 * STEP, 32 * STEP)
    book = Events().told(deploy, slot=0).told(holiday, slot=0)

    def held(slot: int) -> tuple[str, ...]:
        return book.held(NAMES, ROLES, slot, hold=3, step_ms=STEP)

    assert [held(slot) for slot in (9, 10, 13, 14)] == [(), ("b", "c"), ("b", "c"), ()]
    assert [len(held(slot)) for slot in (29, 30, 31, 32)] == [0, 3, 3, 0]


GOOD = {"kind": "incident", "start": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "party"}, "kind must be one of"),
        ({"start": None}, "start must be ISO 8601"),
        ({"end": "2025-12-31T00:00:00Z"}, "end must lie after start"),
        ({"kind": "holiday"}, "a holiday needs an end"),
        ({"servers": "web-1"}, "servers must be a list"),
        ({"roles": [""]}, "each of roles must be printable"),
        ({"note": 7}, "note must be text"),
        ({"id": ""}, "id must be printable"),
        ({"serves": ["a"]}, "unknown key 'serves'"),
    ],
)
def test_an_event_that_cannot_be_meant_is_refused_by_its_place(change, told):
    events, [reject] = read_events([GOOD, {**GOOD, **change}])
    assert len(events) == 1
    assert reject.index == 1
    assert told in reject.detail


def test_without_an_id_the_content_names_an_event():
    [one, again, other], _ = read_events([GOOD, dict(GOOD), {**GOOD, "note": "x"}])
    assert one == again
    assert one.id != other.id


_EVENT = st.builds(
    Event,
    st.sampled_from(["x", "y"]),
    st.sampled_from(["incident", "deploy"]),
    st.integers(0, 9).map(lambda slot: slot * STEP),
    st.none() | st.integers(10, 12).map(lambda slot: slot * STEP),
)


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | _EVENT), max_size=8))
def test_later_words_never_change_what_a_slot_went_by(changes):
    book, slot, seen = Events(), 0, {}
    for ahead, event in changes:
        for passed in range(slot, slot + ahead):
            seen[passed] = set(book.known_at(passed))
        slot += ahead
        book = book.told(event, slot=slot) if event else book.withdrawn("x", slot=slot)
    assert all(set(book.known_at(passed)) == known for passed, known in seen.items())
