"""What a gateway asks of the actors when an event is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors import handles
from forecast.errors import Busy, StateError
from forecast.events import Event, EventReport, Told
from forecast.touched import Touched


class EventCalls:
    """The part of a `Service` that is about events; `_actors` has an `ask`, as `handles.Actors`."""

    _actors: Any

    async def events(self) -> Sequence[Told]:
        """The events that stand, by start and id."""
        found: Sequence[Told] = await self._actors.ask(handles.BUFFER, "events")
        return found

    async def tell_events(
        self, events: Sequence[Event], who: str
    ) -> list[tuple[EventReport, Touched | None]]:
        """Keep events; what came late is looked up in the registry. Raises Busy, Unprocessable."""
        reports = await self._written("tell", events)
        return [(report, await self._touched(report, who)) for report in reports]

    async def withdraw_event(self, event_id: str) -> Told | None:
        """Forget an event from now on; None for one that is not known."""
        known: Told | None = await self._written("withdraw", event_id)
        return known

    async def _written(self, method: str, what: Any) -> Any:
        try:
            return await self._actors.ask(handles.BUFFER, method, what)
        except StateError as error:
            # What is wrong is in the buffer's log; the same request may be sent again.
            raise Busy("the buffer cannot write now", retry_after_s=5) from error

    async def _touched(self, report: EventReport, who: str) -> Touched | None:
        if report.late is None:
            return None
        event, known = report.told.event.id, report.told.known
        found: Touched = await self._actors.ask(
            handles.REGISTRY, "late_event", event, *report.late, known=known, who=who
        )
        return found
