"""A buffer that stands still under load: what ingest answers meanwhile, and what memory does.

The buffer's process is stopped (SIGSTOP), as on a disk that hangs. Many clients go on sending big
bodies; each one that is not kept must be refused with 503 and Retry-After.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import aiohttp

from bench.evidence import say
from bench.nodes import Nodes
from connect.replay import Replay

_CLIENTS = 48
_ROWS = 3000
_HEADERS = {"X-Fleetcast": "1", "Content-Type": "application/x-ndjson"}
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Flood:
    """Clients that send the same old rows again and again, each time as a new request."""

    def __init__(self, url: str, replay: Replay) -> None:
        self._url = url
        slots = replay.source.rows_by_slot(replay.first_slot, replay.start_slot)
        rows = [row for _, rows in slots for row in rows]
        self.body = "\n".join(json.dumps(row) for row in rows[-_ROWS:]).encode()
        self.statuses: Counter[int] = Counter()
        self.no_retry_after = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Let every request under way be answered."""
        self._over.set()
        self._thread.join()

    async def _main(self) -> None:
        timeout = aiohttp.ClientTimeout(total=120.0)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(self._url, timeout=timeout, connector=connector) as http:
            numbers = count()
            await asyncio.gather(*(self._send(http, numbers) for _ in range(_CLIENTS)))

    async def _send(self, http: aiohttp.ClientSession, numbers: Any) -> None:  # noqa: ANN401
        while not self._over.is_set():
            headers = {**_HEADERS, "Idempotency-Key": f"flood-{next(numbers)}"}
            try:
                async with http.post("/api/v1/ingest", data=self.body, headers=headers) as answer:
                    await answer.read()
                    status = answer.status
                    told = "Retry-After" in answer.headers
            except (aiohttp.ClientError, TimeoutError) as error:
                say(f"flood: {type(error).__name__}: {error}")
                status, told = 0, False
            self.statuses[status] += 1
            self.no_retry_after += status == 503 and not told
            await asyncio.sleep(0.05 if status == 503 else 0.0)


def stand_still(
    nodes: Nodes, url: str, replay: Replay, buffer_pid: int, seconds: float
) -> dict[str, Any]:
    """Stop the buffer under a flood, then let it go on; the figures of that time."""
    flood = Flood(url, replay)
    before = _memory_mb(nodes, buffer_pid)
    os.kill(buffer_pid, signal.SIGSTOP)
    began, seen = time.monotonic(), []
    try:
        flood.start()
        while time.monotonic() - began < seconds:
            seen.append(_memory_mb(nodes, buffer_pid))
            time.sleep(0.25)
    finally:
        os.kill(buffer_pid, signal.SIGCONT)
    during = dict(flood.statuses)
    flood.stop()
    say(f"flood: {during} while it stood still, {dict(flood.statuses)} in all")
    third = max(1, len(seen) // 3)
    drift = fmean(seen[-third:]) - fmean(seen[third : 2 * third] or seen)
    sent = sum(flood.statuses.values()) * len(flood.body) / 2**20
    return {
        "stopped_s": round(seconds, 1),
        "stopped_sent_mb": round(sent),
        "stopped_503": during.get(503, 0),
        "stopped_other": sum(n for status, n in during.items() if status not in (202, 503)),
        "stopped_without_retry_after": flood.no_retry_after,
        "stopped_memory_before_mb": round(before),
        "stopped_memory_peak_mb": round(max(seen)),
        # From the second third of that time to the last: flat memory is about 0.
        "stopped_memory_drift_mb": round(drift),
    }


def _memory_mb(nodes: Nodes, apart: int) -> float:
    """Resident memory of every worker process but one."""
    pages = 0
    for process in nodes.workers():
        if process.pid != apart:
            try:
                pages += int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            except OSError:
                continue  # it has ended meanwhile
    return pages * _PAGE_BYTES / 2**20
