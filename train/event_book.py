"""The events of a stream: logged with its samples, and what they say of its servers and slots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.errors import Unprocessable
from forecast.events import MASKS, MOST_EVENTS, Event, EventReport, Events, Told
from train.cuts import Masker
from train.intake import Intake
from train.segments import Record, SegmentLog

_KEY = "events"
"""A log record that has it tells of events and not of samples."""


class EventBook:
    """The book of events of one buffer; `log` makes them durable, None keeps them in memory.

    An event is known from the first slot on that was not closed when it came: the steps of closed
    slots may have been made already, or may be made again.
    """

    def __init__(self, intake: Intake, log: SegmentLog | None, *, hold_s: int) -> None:
        """`hold_s` is how long after a deploy alarms are held, in seconds."""
        self._log = log
        self.events = Events()
        self._clock, self._roster, self._history = intake.clock, intake.roster, intake.history
        step_seconds = intake.schema.step_seconds
        self._step_ms, self._hold = step_seconds * 1000, -(-hold_s // step_seconds)

    def tell(self, events: Sequence[Event]) -> tuple[EventReport, ...]:
        """Log, then keep, events; one with a known id takes its place.

        Raises Unprocessable when there is no room for them, StateError when they cannot be logged.
        """
        before = self.events
        self._change(events, [])
        return tuple(self._report(event, before) for event in events)

    def withdraw(self, event_id: str) -> Told | None:
        """Log, then forget from now on; the same again changes nothing. None for an unknown id."""
        known = self.events.find(event_id)
        if known is not None and known.until is None:
            self._change([], [event_id])
        return known

    def take(self, record: Record) -> bool:
        """Apply a record read back from the log; False when it tells of samples."""
        told = record.header.get(_KEY)
        if told is None:
            return False
        events = [Event.from_json(data) for data in told["told"]]
        self.events = self._applied(events, told["withdrawn"], told["known"])
        return True

    def restore(self, stored: Iterable[Sequence[Any]]) -> None:
        """Take over what a snapshot holds of them."""
        self.events = Events.from_json(stored)

    def mask(
        self,
        names: Sequence[str],
        slots: NDArray[np.int64],
        known_at: int,
        *,
        roles: Sequence[str] | None = None,
    ) -> NDArray[np.bool_]:
        """Which slots [K] of these servers [S] say nothing, as known at a slot; [S, K].

        With `roles` also of servers that are not in the fleet any more. Raises KeyError for an
        unknown one without.
        """
        found = self._roles(names) if roles is None else roles
        return self.events.mask(names, found, slots, known_at=known_at, step_ms=self._step_ms)

    def masked(self, slot: int, known_at: int) -> tuple[str, ...]:
        """The servers of which a slot says nothing."""
        names = self._roster.names()
        hidden = self.mask(names, np.array([slot]), known_at)[:, 0]
        return tuple(name for name, one in zip(names, hidden, strict=True) if one)

    def held(self, slot: int) -> tuple[str, ...]:
        """The servers whose drift alarm is held at a slot: a deploy, or a holiday."""
        names, step_ms = self._roster.names(), self._step_ms
        roles = self._roles(names)
        return self.events.held(names, roles, slot, hold=self._hold, step_ms=step_ms)

    def masker(self, known_at: int) -> Masker | None:
        """`mask` as known at a slot; None when nothing was masked then."""
        if not self.events.known_at(known_at, MASKS):
            return None
        return lambda names, slots: self.mask(names, slots, known_at)

    def _roles(self, names: Sequence[str]) -> list[str]:
        return [self._roster.info(name).role for name in names]

    def _known(self) -> int:
        closed = self._clock.closed_slot
        return 0 if closed is None else max(0, closed + 1)

    def _applied(self, told: Iterable[Event], withdrawn: Iterable[str], known: int) -> Events:
        oldest = (0 if self._clock.slot is None else self._clock.slot) - self._history
        book = self.events.since(oldest, step_ms=self._step_ms)
        for event in told:
            book = book.told(event, slot=known)
        for event_id in withdrawn:
            book = book.withdrawn(event_id, slot=known)
        return book

    def _change(self, told: Sequence[Event], withdrawn: list[str]) -> None:
        known = self._known()
        after = self._applied(told, withdrawn, known)
        if after == self.events:
            return
        if len(after) > MOST_EVENTS:
            raise Unprocessable(f"{len(after)} events would be kept, the limit is {MOST_EVENTS}")
        if self._log is not None:
            data = [event.to_json() for event in told]
            record = {_KEY: {"told": data, "withdrawn": withdrawn, "known": known}}
            self._log.write(Record(record, {}))
        self.events = after
        if self._log is not None:
            self._log.sync()

    def _report(self, event: Event, before: Events) -> EventReport:
        told, earlier = self.events.find(event.id), before.find(event.id)
        assert told is not None
        first, last = event.slots(self._step_ms)
        closed = told.known - 1
        end = closed if last is None else min(last, closed)
        return EventReport(
            told=told,
            changed=told != earlier,
            unknown=tuple(name for name in event.servers if self._roster.row(name) is None),
            late=(first, end) if event.kind in MASKS and first <= end else None,
        )
