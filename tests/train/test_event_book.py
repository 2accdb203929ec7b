"""Events in the buffer's log: they survive a restart, and they mask what is learned from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecast.errors import Unprocessable
from forecast.events import Event
from tests.bits import bits
from tests.train.streams import DAY, SETTINGS, STEP_S, buffer_of, picture, steady
from train import event_book

BEGIN = 1008
END = BEGIN + 2 * DAY - 1
H = SETTINGS["horizon"]
FIRST, LAST = END - 60, END - 31
OUTAGE = Event("e1", "incident", FIRST * STEP_S * 1000, (LAST + 1) * STEP_S * 1000, ("a",))
DRAW = {"as_of": END - 1, "hours": 24, "count": 9999, "seed": 0, "holdout_hours": 0}


def filled(directory=None, *, told=(OUTAGE,), **changes):
    """Events are told before the last slots come, so that they are known when those close."""
    buffer = buffer_of(directory, **changes)
    buffer.append("first", steady(["a", "b"], range(BEGIN, FIRST)))
    buffer.events.tell(told)
    buffer.append("rest", steady(["a", "b"], range(FIRST, END + 1)))
    return buffer


def labels(raw, server: str) -> set[int]:
    origins = [int(o) for o, name in zip(raw.origin, raw.servers, strict=True) if name == server]
    return {slot for origin in origins for slot in range(origin + 1, origin + H + 1)}


@pytest.mark.parametrize("read", ["draw", "holdout"])
def test_no_window_has_a_label_in_a_masked_slot_of_its_server(read):
    buffer = filled()
    query = DRAW if read == "draw" else {"as_of": END - 1, "hours": 12, "every": 1}
    raw = getattr(buffer, read)(**query)
    hidden = set(range(FIRST, LAST + 1))
    assert not labels(raw, "a") & hidden
    assert hidden <= labels(raw, "b")
    # Nothing else is lost: the slots right before and after it are learned from.
    assert {FIRST - 1, LAST + 1} <= labels(raw, "a")


def test_what_was_not_known_yet_masks_nothing():
    buffer = buffer_of()
    buffer.append("all", steady(["a", "b"], range(BEGIN, END + 1)))
    before = buffer.draw(**DRAW)
    [report] = buffer.events.tell([OUTAGE])
    assert report.told.known == END  # the clock is at END, so END - 1 is closed
    assert report.late == (FIRST, LAST)
    assert bits(buffer.draw(**DRAW)) == bits(before)
    assert len(buffer.draw(**DRAW, known_at=END)) < len(before)


def test_the_expert_and_the_baselines_leave_masked_slots_out():
    told, silent = filled(), filled(told=())
    levels = (0.1, 0.5, 0.9)
    known = np.isfinite(told.examples(as_of=END - 1).values).sum()
    assert known < np.isfinite(silent.examples(as_of=END - 1).values).sum()
    tables = [each.residuals(as_of=END - 1, hours=24, levels=levels) for each in (told, silent)]
    assert str(tables[0]) != str(tables[1])


def test_an_announced_maintenance_masks_the_slots_when_they_come():
    coming = replace(OUTAGE, kind="maintenance")
    buffer = filled(told=(coming,))
    assert [buffer.events.masked(slot, slot) for slot in (FIRST - 1, FIRST, LAST, LAST + 1)] == [
        (), ("a",), ("a",), (),
    ]  # fmt: skip


@pytest.mark.parametrize("compact", [False, True])
def test_events_are_there_again_after_a_restart(tmp_path, compact):
    size = 1 if compact else 1 << 20  # one byte: every append is followed by a snapshot
    buffer = filled(tmp_path, snapshot_every_bytes=size)
    buffer.events.tell([replace(OUTAGE, id="e2", end_ms=None)])
    buffer.events.withdraw("e1")
    if compact:
        buffer.append("more", steady(["a", "b"], range(END + 1, END + 3)))
    want, events = picture(buffer), buffer.events.events
    again = buffer_of(tmp_path, snapshot_every_bytes=size)
    assert again.events.events == events
    assert [told.event.id for told in again.events.events.now()] == ["e2"]
    assert picture(again) == want


def test_a_repeated_request_is_no_second_event(tmp_path):
    buffer = filled(tmp_path)
    logged = buffer.status().log_bytes
    [report] = buffer.events.tell([OUTAGE])
    assert (report.changed, len(buffer.events.events)) == (False, 1)
    assert buffer.events.withdraw("nobody knows it") is None
    assert buffer.status().log_bytes == logged
    assert buffer.events.withdraw("e1") is not None
    assert buffer.events.withdraw("e1") is not None  # as if it were the first time
    assert buffer.events.masked(FIRST, END) == ()


def test_names_that_no_server_has_are_told():
    [report] = filled().events.tell([replace(OUTAGE, id="e2", servers=("a", "ghost"))])
    assert report.unknown == ("ghost",)


def test_there_is_room_for_so_many_events_and_no_more(monkeypatch):
    monkeypatch.setattr(event_book, "MOST_EVENTS", 2)
    buffer = filled()
    with pytest.raises(Unprocessable, match="3 events would be kept"):
        buffer.events.tell([replace(OUTAGE, id="e2"), replace(OUTAGE, id="e3")])
    assert len(buffer.events.events) == 1
