"""Readers: clients that ask for forecasts without a pause and keep account of every answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp
import numpy as np

from connect.replay import Replay

_HEADERS = {"X-Fleetcast": "1"}
_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Account:
    """What the readers saw. Times are seconds of a monotonic clock."""

    forecasts: int = 0
    failed: int = 0
    series: int = 0
    fallback: int = 0
    versions: Counter[int] = field(default_factory=Counter)
    answered: dict[int, set[str]] = field(default_factory=dict)
    """version -> the servers in whose answers it had a share."""
    first_seen: dict[int, float] = field(default_factory=dict)
    spans: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    retries: int = 0
    """Attempts that got no answer or a 5xx and were made again."""
    of_record: dict[tuple[int, str], Any] = field(default_factory=dict)
    """(revision, server) -> the quantiles that were answered, level by level."""
    contradictions: int = 0
    """Answers of record that differ from an earlier one of the same revision."""

    def across(self, moment: float) -> int:
        """Requests that were under way at a moment."""
        return sum(start < moment < end for start, end in self.spans)

    def p99_s(self, periods: Sequence[tuple[float, float]]) -> float | None:
        """The 99th percentile of how long requests took that began in these periods; None: none."""
        took = [
            end - start
            for start, end in self.spans
            if any(begin <= start < until for begin, until in periods)
        ]
        return float(np.quantile(took, 0.99)) if took else None

    def swap_requests(self) -> int:
        """Requests under way when a later version was first named; the best of all swaps."""
        moments = sorted(self.first_seen.values())[1:]
        return max((self.across(moment) for moment in moments), default=0)


def servers_of(replay: Replay) -> list[str]:
    """The servers that spoke just before the stream begins, by name."""
    slots = replay.source.rows_by_slot(replay.start_slot - 12, replay.start_slot)
    return sorted({row["server"] for _, rows in slots for row in rows})


class _Unavailable(Exception):
    """A 5xx: nobody could answer just now."""


class Readers:
    """`count` readers in a thread of their own; the count may change while they run.

    A reader asks, waits `pause_s`, asks again; while `rush` is on it does not wait.

    Three of four requests read the forecast of record of one server, the fourth has the
    Forecaster compute it. An answer counts as failed when its status is not 200, when a quantile
    is missing or not finite, when quantiles cross, or when nobody is named. With `patience_s` a
    request without an answer, or with a 5xx, is made again for so long before it counts as failed,
    as a load balancer would.
    """

    def __init__(
        self,
        url: str,
        servers: list[str],
        metric: str,
        *,
        count: int,
        pause_s: float,
        patience_s: float = 0.0,
        token: str | None = None,
    ) -> None:
        self.account = Account()
        self._url, self._servers, self._metric = url, servers, metric
        self._calm, self._pause_s = count, pause_s
        self._patience_s = patience_s
        self._headers = {"Authorization": f"Bearer {token}"} if token else _HEADERS
        self._rushing = 0
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def rush(self, count: int) -> None:
        """Let `count` readers ask without a pause; 0 ends the rush."""
        self._rushing = count

    def stop(self) -> Account:
        """Let every request under way end, then return the account."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.account

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:  # handed to whoever stops the readers
            self._error = error

    async def _main(self) -> None:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(self._url, timeout=timeout, connector=connector) as http:
            tasks: set[asyncio.Task[None]] = set()
            number = 0
            while not self._stop.is_set():
                while len(tasks) < (self._rushing or self._calm):
                    tasks.add(asyncio.create_task(self._ask(http, number)))
                    number += 1
                done, tasks = await asyncio.wait(
                    tasks, timeout=0.5, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
            if tasks:
                await asyncio.wait(tasks)

    async def _ask(self, http: aiohttp.ClientSession, number: int) -> None:
        if not self._rushing:
            await asyncio.sleep(self._pause_s)
        server = self._servers[number % len(self._servers)]
        start = time.monotonic()
        while True:
            try:
                problem = await self._try(http, server, of_record=bool(number % 4))
                again = False
            except (TimeoutError, aiohttp.ClientError, ValueError, _Unavailable) as error:
                problem, again = f"{type(error).__name__}: {error}", True
            if not again or time.monotonic() - start > self._patience_s:
                break
            self.account.retries += 1
            await asyncio.sleep(0.1)
        self.account.forecasts += 1
        self.account.spans.append((start, time.monotonic()))
        if problem is not None:
            self.account.failed += 1
            self.account.failures.append(problem)

    async def _try(
        self, http: aiohttp.ClientSession, server: str, *, of_record: bool
    ) -> str | None:
        """Ask once; what is wrong with the answer, or None."""
        if of_record:
            query = {"server": server, "metric": self._metric}
            sent = http.get("/api/v1/forecast", params=query, headers=self._headers)
        else:
            body = {"series": [{"server": server, "metric": self._metric}]}
            sent = http.post("/api/v1/forecast", json=body, headers=self._headers)
        async with sent as response:
            if response.status >= 500:
                raise _Unavailable(f"{response.status}: {await response.text()}")
            answer = await response.json()
            if response.status != 200:
                return f"{response.status}: {answer}"
        if of_record and not answer["series"][0]["fallback"]:
            told = answer["series"][0]["quantiles"]
            if self.account.of_record.setdefault((answer["revision"], server), told) != told:
                self.account.contradictions += 1
        return self._read(answer, time.monotonic())

    def _read(self, answer: Mapping[str, Any], moment: float) -> str | None:
        """Take an answer to account; what is wrong with it, or None."""
        for series in answer["series"]:
            levels = sorted(series["quantiles"], key=float)
            paths = [series["quantiles"][level] for level in levels]
            if not paths or any(value is None for path in paths for value in path):
                return f"{series['server']}: a quantile is missing"
            if any(a > b for pair in pairwise(paths) for a, b in zip(*pair, strict=True)):
                return f"{series['server']}: quantiles cross"
            if not series["members"]:
                return f"{series['server']}: nobody is named"
            self.account.series += 1
            self.account.fallback += series["fallback"] is not None
            for member in series["members"]:
                if member["version"] is not None:
                    self.account.versions[member["version"]] += 1
                    if member["weight"] > 0:
                        answered = self.account.answered.setdefault(member["version"], set())
                        answered.add(series["server"])
                    self.account.first_seen.setdefault(member["version"], moment)
        return None
