"""GET, POST, DELETE /events: what happened, and of what came late the way back from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.params import Depends as Dependency
from pydantic import BaseModel, ConfigDict, Field

from forecast.errors import RequestError, TooLarge, UnknownEvent, Unprocessable
from forecast.events import KINDS, Event, EventReport, Kind, Told, read_events
from forecast.http.api import Answer, json_response, rfc3339
from forecast.http.bodies import read_json
from forecast.http.ingest import JSON, listed
from forecast.http.queries import Name
from forecast.http.service import Service
from forecast.rows import LONGEST_NAME
from forecast.schema import Reject
from forecast.touched import Touched

_MOST_BYTES = 1 << 20
_MOST_EVENTS = 1000
_LONGEST_PLACE = LONGEST_NAME + 32
"""An event's start and its id."""

_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["kind", "start"],
    "properties": {
        "id": {"type": "string", "description": "of a known event: takes its place"},
        "kind": {"enum": list(KINDS)},
        "servers": {"type": "array", "items": {"type": "string"}},
        "roles": {
            "type": "array",
            "items": {"type": "string"},
            "description": "with neither servers nor roles: the whole fleet",
        },
        "start": {"description": "ISO 8601 (UTC unless it says), or epoch seconds"},
        "end": {"description": "likewise; null while it lasts"},
        "note": {"type": "string"},
    },
}
_EVENTS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "required": ["events"],
                    "properties": {"events": {"type": "array", "items": _EVENT}},
                }
            }
        },
    }
}


class EventsQuery(BaseModel):
    """The query of GET /events."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Kind | None = None
    server: Name | None = None
    """Only events that name it, or that are about the whole fleet."""
    after: str | None = Field(default=None, min_length=1, max_length=_LONGEST_PLACE)
    """Events after this place, for the next page."""
    limit: int = Field(default=1000, ge=1, le=10_000)


class EventAnswer(Answer):
    """One event that stands."""

    id: str
    kind: Kind
    servers: tuple[str, ...]
    roles: tuple[str, ...]
    start: str
    end: str | None
    note: str
    known_from_slot: int
    """The first slot whose step goes by it."""


class EventsAnswer(Answer):
    """Events by their start."""

    events: list[EventAnswer]
    next_after: str | None
    """Ask again with `after` set to this; null: no more."""


class WayBack(Answer):
    """How to serve what had not learned from a masked stretch."""

    version: int
    method: Literal["POST"] = "POST"
    path: str
    body: dict[str, Any]


class ToldAnswer(EventAnswer):
    """One event that was told, and what its coming late means."""

    changed: bool
    """False: it was known already, as it is."""
    unknown_servers: tuple[str, ...]
    """Names that no server has; they count as soon as one has them."""
    late: bool
    """Whether it masks slots that were scored and may have been learned from before."""
    touched_versions: tuple[int, ...]
    """Accepted versions that were trained on such slots."""
    way_back: WayBack | None


class RefusedEvent(Answer):
    """One event that was not taken."""

    index: int
    reason: str
    detail: str


class ToldEvents(Answer):
    """What became of each event of a request."""

    accepted: int
    rejected_count: int
    rejected: list[RefusedEvent]
    events: list[ToldAnswer]


def event_routes(
    service: Service, *, read: Sequence[Dependency], ingest: Sequence[Dependency]
) -> APIRouter:
    """The routes of events: who may read, may read them; who feeds the stream, may tell them."""
    router = APIRouter()

    @router.get("/events", dependencies=read, responses={200: {"model": EventsAnswer}})
    async def events(query: Annotated[EventsQuery, Query()]) -> Response:
        """Incidents, maintenance, deploys and holidays that stand, by their start."""
        return json_response(page(await service.events(), query))

    @router.post(
        "/events",
        dependencies=ingest,
        responses={200: {"model": ToldEvents}},
        openapi_extra=_EVENTS_BODY,
    )
    async def tell(request: Request) -> Response:
        """Tell of events. One with the id of a known one takes its place: so an incident ends.

        What is accepted is kept before the answer; the same again changes nothing. Incidents and
        maintenance mask their servers' slots: these are not learned from, nor scored. One that
        comes late says which versions have learned from it already, and the way back.
        """
        found, rejects = read_events(await _items(request))
        told = await service.tell_events(found, request.state.principal.name) if found else []
        return json_response(answer(told, rejects))

    @router.delete(
        "/events/{event_id:path}", dependencies=ingest, responses={200: {"model": EventAnswer}}
    )
    async def withdraw(event_id: str) -> Response:
        """Take an event back: it counts no longer from the next slot on."""
        known = await service.withdraw_event(event_id)
        if known is None:
            raise UnknownEvent(f"no event {event_id!r:.80} is known")
        return json_response(EventAnswer(**_fields(known)))

    return router


def page(told: Sequence[Told], query: EventsQuery) -> EventsAnswer:
    """One page of events, of those by start and id."""

    def wanted(event: Event) -> bool:
        about = query.server is None or event.concerns(query.server, "")
        return about and query.kind in (None, event.kind)

    found = [one for one in told if wanted(one.event)]
    if query.after is not None:
        after = _parsed(query.after)
        found = [one for one in found if _place(one) > after]
    shown = found[: query.limit]
    more = len(found) > len(shown)
    return EventsAnswer(
        events=[EventAnswer(**_fields(one)) for one in shown],
        next_after="{}/{}".format(*_place(shown[-1])) if more else None,
    )


def answer(
    told: Sequence[tuple[EventReport, Touched | None]], rejects: Sequence[Reject]
) -> ToldEvents:
    """What became of a request."""
    return ToldEvents(
        accepted=len(told),
        rejected_count=len(rejects),
        rejected=[
            RefusedEvent(index=one.index, reason=one.reason, detail=one.detail) for one in rejects
        ],
        events=[_told(report, touched) for report, touched in told],
    )


def _told(report: EventReport, touched: Touched | None) -> ToldAnswer:
    back = None if touched is None else touched.way_back
    event = report.told.event
    return ToldAnswer(
        **_fields(report.told),
        changed=report.changed,
        unknown_servers=report.unknown,
        late=report.late is not None,
        touched_versions=() if touched is None else touched.versions,
        way_back=None
        if back is None
        else WayBack(
            version=back,
            path="/api/v1/rollout/rollback",
            body={"to": back, "reason": f"{event.kind} {event.id} was reported late"},
        ),
    )


def _fields(told: Told) -> dict[str, Any]:
    event = told.event
    return {
        "id": event.id,
        "kind": event.kind,
        "servers": event.servers,
        "roles": event.roles,
        "start": rfc3339(event.start_ms / 1000),
        "end": None if event.end_ms is None else rfc3339(event.end_ms / 1000),
        "note": event.note,
        "known_from_slot": told.known,
    }


def _place(told: Told) -> tuple[int, str]:
    return told.event.start_ms, told.event.id


def _parsed(after: str) -> tuple[int, str]:
    start, _, event_id = after.partition("/")
    if not start.isdecimal():
        raise Unprocessable(f"`after` is what `next_after` said, not {after!r:.80}")
    return int(start), event_id


async def _items(request: Request) -> list[object]:
    items = listed(await _tree(request), "events")
    if len(items) > _MOST_EVENTS:
        raise TooLarge(f"{len(items)} events in one request, the limit is {_MOST_EVENTS}")
    return items


async def _tree(request: Request) -> Any:  # noqa: ANN401
    """The JSON in the body; raises UnsupportedMedia, TooLarge, RequestError."""
    body = await read_json(request, _MOST_BYTES)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from error
