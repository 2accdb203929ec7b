"""Events: what people and pipelines tell of the fleet that its numbers do not say.

incident, maintenance   the servers' values meanwhile are nothing to learn from or be judged by
deploy, holiday         change is expected: a drift alarm of these servers is held

An event says when it was, and the book of events when each was known: what is decided at a slot
goes by what was known at that slot, so a replay decides what the live run decided, and an event
that is reported late changes nothing that was decided before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from forecast.canonical import canonical, sha256
from forecast.rows import LONGEST_NAME, RowError, RowFields
from forecast.schema import Reject

Kind = Literal["incident", "maintenance", "deploy", "holiday"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MASKS: frozenset[Kind] = frozenset({"incident", "maintenance"})

MOST_EVENTS = 10_000
"""Events that are kept at once, withdrawn ones too; older ones leave with the stream's history."""
_MOST_NAMES = 1000
_LONGEST_NOTE = 2000
_FIELDS = frozenset({"id", "kind", "servers", "roles", "start", "end", "note"})
_LATEST_MS = 253_402_300_799_999
"""Times may lie up to the year 9999: maintenance is announced before it begins."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, or will, to some servers; the whole fleet where none is named.

    >>> event = Event("e1", "incident", 600_000, 900_000, servers=("web-1",))
    >>> event.slots(300_000), event.concerns("web-1", ""), event.concerns("db-1", "db")
    ((2, 2), True, False)
    """

    id: str
    kind: Kind
    start_ms: int
    end_ms: int | None
    """The first moment after it; None: it lasts, a deploy alone is then its moment."""
    servers: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    note: str = ""

    def concerns(self, server: str, role: str) -> bool:
        """Whether it is about this server: by name, by role, or as part of the whole fleet."""
        if not self.servers and not self.roles:
            return True
        return server in self.servers or (role != "" and role in self.roles)

    def slots(self, step_ms: int) -> tuple[int, int | None]:
        """The first and last slot of which it covers a part; None: it has not ended."""
        first = self.start_ms // step_ms
        if self.end_ms is None:
            return first, first if self.kind == "deploy" else None
        return first, (self.end_ms - 1) // step_ms

    def to_json(self) -> dict[str, Any]:
        """The event as plain JSON values."""
        return {**asdict(self), "servers": list(self.servers), "roles": list(self.roles)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The event that `to_json` wrote."""
        names = {key: tuple(data[key]) for key in ("servers", "roles")}
        return cls(**{**data, **names})


@dataclass(frozen=True, slots=True)
class Told:
    """An event and the slots at which it was known as it is here."""

    event: Event
    known: int
    """The first slot whose step knew of it."""
    until: int | None = None
    """The first slot that knew better, because it was changed or withdrawn."""

    def known_at(self, slot: int) -> bool:
        """Whether the step of this slot goes by it."""
        return self.known <= slot and (self.until is None or slot < self.until)


@dataclass(frozen=True, slots=True)
class EventReport:
    """What became of one event of a request."""

    told: Told
    changed: bool
    """Whether the book is another one now; a repeated request changes nothing."""
    unknown: tuple[str, ...]
    """Names in it that no server has, yet or any more."""
    late: tuple[int, int] | None
    """The first and last slot it masks of those that were closed before it was known."""


@dataclass(frozen=True, slots=True)
class Events:
    """What was told, and when it was known; each change gives a new book.

    >>> outage = Event("e1", "incident", 600_000, None)
    >>> book = Events().told(outage, slot=5).withdrawn("e1", slot=9)
    >>> [len(book.known_at(slot)) for slot in (4, 5, 8, 9)]
    [0, 1, 1, 0]
    """

    entries: tuple[Told, ...] = ()
    """In the order in which they were told."""

    def __len__(self) -> int:
        return len(self.entries)

    def now(self) -> tuple[Told, ...]:
        """What stands, by start and id."""
        standing = [told for told in self.entries if told.until is None]
        return tuple(sorted(standing, key=lambda told: (told.event.start_ms, told.event.id)))

    def find(self, event_id: str) -> Told | None:
        """The newest word on an event, a withdrawn one too; None when nothing is known of it."""
        found = (told for told in reversed(self.entries) if told.event.id == event_id)
        return next(found, None)

    def told(self, event: Event, *, slot: int) -> Events:
        """With this event, known from `slot` on; one with the same id gives way to it."""
        known = self.find(event.id)
        if known is not None and known.until is None and known.event == event:
            return self
        return Events((*self.withdrawn(event.id, slot=slot).entries, Told(event, slot)))

    def withdrawn(self, event_id: str, *, slot: int) -> Events:
        """Without this event from `slot` on; what no slot ever went by is forgotten."""
        ended = (
            replace(told, until=slot) if told.event.id == event_id and told.until is None else told
            for told in self.entries
        )
        return Events(tuple(told for told in ended if told.until is None or told.known < slot))

    def since(self, slot: int, *, step_ms: int) -> Events:
        """Without those that ended, or were withdrawn, before `slot`: nothing reads them again."""

        def over(told: Told) -> bool:
            last = told.event.slots(step_ms)[1]
            gone = told.until is not None and told.until < slot
            return gone or (last is not None and max(last, told.known) < slot)

        return Events(tuple(told for told in self.entries if not over(told)))

    def known_at(self, slot: int, kinds: Collection[Kind] = KINDS) -> tuple[Event, ...]:
        """The events of these kinds that the step of a slot goes by."""
        return tuple(
            told.event for told in self.entries if told.event.kind in kinds and told.known_at(slot)
        )

    def mask(
        self,
        names: Sequence[str],
        roles: Sequence[str],
        slots: NDArray[np.int64],
        *,
        known_at: int,
        step_ms: int,
    ) -> NDArray[np.bool_]:
        """Which slots [K] of which servers [S] say nothing, as known at a slot; [S, K]."""
        masked = np.zeros((len(names), len(slots)), dtype=np.bool_)
        for event in self.known_at(known_at, MASKS):
            first, last = event.slots(step_ms)
            inside = slots >= first
            if last is not None:
                inside &= slots <= last
            if inside.any():
                about = [event.concerns(*one) for one in zip(names, roles, strict=True)]
                masked |= np.array(about, dtype=np.bool_)[:, None] & inside
        return masked

    def held(
        self, names: Sequence[str], roles: Sequence[str], slot: int, *, hold: int, step_ms: int
    ) -> tuple[str, ...]:
        """The servers whose drift alarm is held at a slot, by what is known then.

        A deploy holds it from its start until `hold` slots after its end, a holiday while it lasts.
        """
        found: set[str] = set()
        for event in self.known_at(slot, ("deploy", "holiday")):
            first, last = event.slots(step_ms)
            after = hold if event.kind == "deploy" else 0
            if first <= slot and (last is None or slot <= last + after):
                pairs = zip(names, roles, strict=True)
                found.update(name for name, role in pairs if event.concerns(name, role))
        return tuple(name for name in names if name in found)

    def to_json(self) -> list[list[Any]]:
        """The book as plain JSON values."""
        return [[told.event.to_json(), told.known, told.until] for told in self.entries]

    @classmethod
    def from_json(cls, data: Iterable[Sequence[Any]]) -> Self:
        """The book that `to_json` wrote."""
        return cls(tuple(Told(Event.from_json(event), *known) for event, *known in data))


def read_events(items: Sequence[object]) -> tuple[list[Event], list[Reject]]:
    """The events of one request, and why each of the others is refused.

    >>> good = {"kind": "deploy", "start": "2026-01-01T00:00:00Z", "roles": ["web"]}
    >>> events, rejects = read_events([good, {"kind": "party", "start": 1}])
    >>> [event.roles for event in events], [(one.index, one.reason) for one in rejects]
    ([('web',)], [(1, 'malformed')])
    """
    events, rejects = [], []
    fields = RowFields(server_labels=("server",), latest_ms=_LATEST_MS)
    for index, item in enumerate(items):
        try:
            events.append(_event(item, fields))
        except RowError as error:
            rejects.append(Reject(index, error.reason, error.detail))
    return events, rejects


def _event(item: object, fields: RowFields) -> Event:
    if not isinstance(item, Mapping):
        raise RowError("malformed", "an event must be an object")
    if unknown := sorted(set(map(str, item)) - _FIELDS):
        raise RowError("malformed", f"unknown key {unknown[0]!r:.80}; known are {sorted(_FIELDS)}")
    kind = item.get("kind")
    if kind not in KINDS:
        raise RowError("malformed", f"kind must be one of {', '.join(KINDS)}")
    start = fields.time_ms(item, "start")
    end = None if item.get("end") is None else fields.time_ms(item, "end")
    if end is not None and end <= start:
        raise RowError("malformed", "end must lie after start")
    if kind == "holiday" and end is None:
        raise RowError("malformed", "a holiday needs an end")
    note = item.get("note", "")
    if not isinstance(note, str) or len(note) > _LONGEST_NOTE or not _is_text(note):
        raise RowError("malformed", f"note must be text of at most {_LONGEST_NOTE} characters")
    about = Event("", kind, start, end, _names(item, "servers"), _names(item, "roles"), note)
    given = item.get("id")
    # Without an id the content names it, so that a repeated request is the same event.
    name = sha256(canonical(about.to_json()))[:16] if given is None else _word(given, "id")
    return replace(about, id=name)


def _names(item: Mapping[Any, Any], field: str) -> tuple[str, ...]:
    given = item.get(field, [])
    if not isinstance(given, list) or len(given) > _MOST_NAMES:
        raise RowError("malformed", f"{field} must be a list of at most {_MOST_NAMES} names")
    return tuple(sorted({_word(name, f"each of {field}") for name in given}))


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: JSON may hold half of a pair of surrogates."""
    return not any("\ud800" <= one <= "\udfff" for one in value)


def _word(value: object, field: str) -> str:
    fits = isinstance(value, str) and value.strip() and value.isprintable()
    if not fits or len(str(value)) > LONGEST_NAME:
        raise RowError(
            "malformed", f"{field} must be printable text of 1 to {LONGEST_NAME} characters"
        )
    return str(value)
