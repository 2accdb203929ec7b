"""Readers: clients that ask for forecasts without a pause and keep account of every answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp

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
    first_seen: dict[int, float] = field(default_factory=dict)
    spans: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def across(self, moment: float) -> int:
        """Requests that were under way at a moment."""
        return sum(start < moment < end for start, end in self.spans)

    def swap_requests(self) -> int:
        """Requests under way when a later version was first named; the best of all swaps."""
        moments = sorted(self.first_seen.values())[1:]
        return max((self.across(moment) for moment in moments), default=0)


class Readers:
    """`count` readers in a thread of their own; the count may change while they run.

    A reader asks, waits `pause_s`, asks again; while `rush` is on it does not wait.

    Three of four requests read the forecast of record of one server, the fourth has the
    Forecaster compute it. An answer counts as failed when its status is not 200, when a quantile
    is missing or not finite, when quantiles cross, or when nobody is named.
    """

    def __init__(
        self, url: str, servers: list[str], metric: str, *, count: int, pause_s: float
    ) -> None:
        self.account = Account()
        self._url, self._servers, self._metric = url, servers, metric
        self._calm, self._pause_s = count, pause_s
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
        try:
            if number % 4:
                query = {"server": server, "metric": self._metric}
                sent = http.get("/api/v1/forecast", params=query)
            else:
                body = {"series": [{"server": server, "metric": self._metric}]}
                sent = http.post("/api/v1/forecast", json=body, headers=_HEADERS)
            async with sent as response:
                answer = await response.json()
                problem = None if response.status == 200 else f"{response.status}: {answer}"
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            answer, problem = {}, f"{type(error).__name__}: {error}"
        end = time.monotonic()
        self.account.forecasts += 1
        self.account.spans.append((start, end))
        problem = problem or self._read(answer, end)
        if problem is not None:
            self.account.failed += 1
            self.account.failures.append(problem)

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
                    self.account.first_seen.setdefault(member["version"], moment)
        return None
