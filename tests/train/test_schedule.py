"""When trainings are due: frequency, quiet hours, urgency; and which hours a fleet's load gives."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from forecast.hours import Hours
from tests.train.streams import DAY, STEP_S, block_of, buffer_of
from train.schedule import Schedule

HOUR = 3600 // STEP_S
MIDNIGHT = 1_767_225_600 // STEP_S  # 2026-01-01T00:00:00Z


def schedule(**changes) -> Schedule:
    rules = {"step_seconds": STEP_S, "every": HOUR, "retrain_every": 0, "min_samples": 10}
    return Schedule(**{**rules, **changes})


def starts(rules: Schedule, *, hours: int = 48, urgent: tuple[int, ...] = (), learned=None):
    """The hours after midnight at whose slot an update began, each right when it was due."""
    last, found = MIDNIGHT - 24 * HOUR, []
    for slot in range(MIDNIGHT - 1, MIDNIGHT - 1 + hours * HOUR):
        pressed = slot - MIDNIGHT in urgent
        if rules.due(slot, last=last, last_full=None, learned=learned, urgent=pressed):
            last = slot
            found.append((slot + 1 - MIDNIGHT) / HOUR)
    return found


def test_updates_come_as_often_as_asked():
    assert starts(schedule(every=6 * HOUR), hours=24) == [0, 6, 12, 18]


def test_in_quiet_hours_alone_updates_begin():
    found = starts(schedule(hours=Hours.parse("22:00-06:00")))
    assert {int(hour) % 24 for hour in found} == {22, 23, 0, 1, 2, 3, 4, 5}
    assert min(hour for hour in found if hour > 12) == 22.0


def test_hours_are_of_their_zone_whose_clock_may_change():
    night = Hours.parse("22:00-06:00 Europe/Berlin")
    winter, summer = (
        datetime(2026, 1, 9, 21, 30, tzinfo=UTC),
        datetime(2026, 7, 9, 20, 30, tzinfo=UTC),
    )
    assert night.contains(winter)
    assert night.contains(summer)
    assert not night.contains(winter.replace(hour=20))


def test_a_confirmed_drift_waits_neither_for_its_turn_nor_for_the_night():
    rules = schedule(every=6 * HOUR, hours=Hours.parse("22:00-06:00"))
    noon = 12 * HOUR - 1
    assert 12.0 not in starts(rules, hours=24)
    assert 12.0 in starts(rules, hours=24, urgent=(noon,))
    assert (rules.enough(1, urgent=True), rules.enough(9), rules.enough(10)) == (True, False, True)
    assert not rules.enough(0, urgent=True)


def test_a_retrain_goes_before_an_update_and_waits_for_quiet_hours_too():
    rules = schedule(retrain_every=24 * HOUR, hours=Hours.parse("22:00-06:00"))
    noon, night = MIDNIGHT + 12 * HOUR, MIDNIGHT + 23 * HOUR
    full = noon - 24 * HOUR
    assert rules.due(noon, last=noon - HOUR, last_full=full) is None
    assert rules.due(night, last=night - HOUR, last_full=full) == "retrain"
    assert rules.due(night, last=night - HOUR, last_full=noon) == "update"


def test_without_updates_there_are_retrains_alone_and_at_once_in_a_drift():
    rules = schedule(every=0, retrain_every=24 * HOUR)
    assert rules.due(MIDNIGHT, last=0, last_full=MIDNIGHT - 1) is None
    assert rules.due(MIDNIGHT, last=0, last_full=MIDNIGHT - 1, urgent=True) == "retrain"
    assert rules.due(MIDNIGHT, last=MIDNIGHT, last_full=0, urgent=True) == "retrain"
    assert rules.due(MIDNIGHT, last=0, last_full=MIDNIGHT - 24 * HOUR) == "retrain"


@pytest.mark.parametrize("text", ["22-6", "25:00-06:00", "06:00-06:00", "22:00-06:00 Mars/Base"])
def test_hours_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"hours as|no stretch|IANA"):
        Hours.parse(text)


def office(*, days: int, busy=range(8, 20), flat: bool = False):
    """A buffer whose servers work in some UTC hours, in targets of very different size."""
    buffer = buffer_of(history_days=8)
    points = []
    for slot in range(MIDNIGHT, MIDNIGHT + days * DAY):
        working = flat or slot // HOUR % 24 in busy
        load = 1.0 if working else 0.25
        points += [("a", slot * STEP_S, "cpu", load), ("a", slot * STEP_S, "peak", 900 * load)]
    buffer.append("all", block_of(points))
    return buffer


def test_quiet_hours_are_those_in_which_the_fleet_is_least_busy():
    buffer, as_of = office(days=4, busy=range(8, 24)), MIDNIGHT + 3 * DAY - 1
    assert buffer.quiet_hours(as_of=as_of) == Hours(0, 8 * 60)
    # What comes after the slot asked for changes nothing.
    assert buffer.quiet_hours(as_of=as_of) == office(days=3, busy=range(8, 24)).quiet_hours(
        as_of=as_of
    )


def test_where_no_hours_are_quieter_or_too_little_is_known_any_will_do():
    assert office(days=3, flat=True).quiet_hours(as_of=MIDNIGHT + 3 * DAY - 1) is None
    assert office(days=3).quiet_hours(as_of=MIDNIGHT + DAY) is None
    assert 12.0 in starts(schedule(hours="learned"), learned=None)
    assert 12.0 not in starts(schedule(hours="learned"), learned=Hours(0, 480))


def test_quiet_hours_are_learned_as_of_the_end_of_the_day_before():
    rules = schedule()
    assert rules.day_of(MIDNIGHT) == rules.day_of(MIDNIGHT + DAY - 1) == MIDNIGHT - 1
