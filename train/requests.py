"""Which requests were kept already, and the report that each one got: a bounded set.

report        a request id seen before changes nothing and gets its first report again
written       how far the stream has come, requests that still wait for a sync included
settled       how far it is durable: only this far may it be acknowledged and acted upon
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

from forecast.clock import EventClock
from train.intake import AppendReport

_MOST_REQUESTS = 10_000
_MOST_REJECTS = 100_000
"""Request ids that are remembered, and rejects in their reports, until the oldest are forgotten."""


class Mark(NamedTuple):
    """How far the stream has come: how often something was kept, and the clock after it."""

    number: int = 0
    clock_slot: int | None = None
    closed_slot: int | None = None


class Requests:
    """Reports by request id, the oldest forgotten first, and what of them is durable.

    `settle` may be called from another thread than the rest.
    """

    def __init__(self) -> None:
        self.written = self.settled = Mark()
        self._reports: OrderedDict[str, AppendReport] = OrderedDict()
        self._rejects = 0
        self._settling = threading.Lock()

    def __len__(self) -> int:
        return len(self._reports)

    def report(self, request_id: str) -> AppendReport | None:
        """The report of a request that is remembered."""
        return self._reports.get(request_id)

    def remember(self, request_id: str, report: AppendReport) -> None:
        """Keep a report, and forget the oldest when there are too many."""
        self._reports[request_id] = report
        self._rejects += len(report.rejected)
        while len(self._reports) > _MOST_REQUESTS or (
            self._rejects > _MOST_REJECTS and len(self._reports) > 1
        ):
            _, oldest = self._reports.popitem(last=False)
            self._rejects -= len(oldest.rejected)

    def move(self, clock: EventClock) -> None:
        """Something was written; the stream has come to this clock."""
        self.written = Mark(self.written.number + 1, clock.slot, clock.closed_slot)

    def settle(self, mark: Mark) -> None:
        """What came up to a mark is durable; of two that say so the later mark stands."""
        with self._settling:
            if mark.number > self.settled.number:
                self.settled = mark

    def to_json(self) -> list[list[Any]]:
        """Ids and reports as plain JSON values, oldest first."""
        return [[name, report.to_json()] for name, report in self._reports.items()]

    def restore(self, stored: Iterable[tuple[str, Any]]) -> None:
        """Remember what `to_json` wrote."""
        for request_id, report in stored:
            self.remember(request_id, AppendReport.from_json(report))
