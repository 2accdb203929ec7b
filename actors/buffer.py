"""BufferActor: the stream of one panel, kept. Owns the log and the grid; restores by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from forecast.baselines import BaselineTables
from forecast.record import ServerStatus
from forecast.schema import SampleBlock
from forecast.windows import RawWindows
from train.buffer import AppendReport, Buffer, BufferStatus


class BufferActor:
    """Shell around `train.buffer.Buffer`.

    Called by Ingest (`append`), the controller (windows) and the gateway (`servers`). Everything
    acknowledged survives a crash: the constructor, which Ray runs again, reads snapshot and log.
    """

    def __init__(self, **settings: Any) -> None:
        self._buffer = Buffer(**settings)
        self._moved = asyncio.Condition()

    async def append(self, request_id: str, block: SampleBlock) -> AppendReport:
        """Log, then keep, a block of samples; a repeated request id changes nothing."""
        before = self._buffer.status().closed_slot
        report = self._buffer.append(request_id, block)
        if report.closed_slot != before:
            async with self._moved:
                self._moved.notify_all()
        return report

    async def wait_closed(self, seen: int | None, timeout_s: float) -> BufferStatus:
        """Status as soon as a slot later than `seen` is closed, or after the timeout."""

        def moved() -> bool:
            closed = self._buffer.status().closed_slot
            return closed is not None and (seen is None or closed > seen)

        async with self._moved:
            try:
                await asyncio.wait_for(self._moved.wait_for(moved), timeout_s)
            except TimeoutError:
                return self._buffer.status()
        return self._buffer.status()

    async def status(self) -> BufferStatus:
        """Clock, counts and sizes."""
        return self._buffer.status()

    async def servers(self, slot: int | None = None) -> tuple[ServerStatus, ...]:
        """Lifecycle of every server as of a slot."""
        return self._buffer.servers(slot)

    async def fleet(self, slot: int) -> RawWindows:
        """One window per server with this origin, without labels."""
        return self._buffer.fleet(slot)

    async def cut(
        self, servers: Sequence[str], origins: Sequence[int], *, labels: bool
    ) -> RawWindows:
        """Windows of these servers with these origins."""
        return self._buffer.cut(servers, np.asarray(origins, np.int64), labels=labels)

    async def draw(self, **query: Any) -> RawWindows:
        """Training windows; see `Buffer.draw`."""
        return self._buffer.draw(**query)

    async def holdout(self, **query: Any) -> RawWindows:
        """Later windows that no training drew; see `Buffer.holdout`."""
        return self._buffer.holdout(**query)

    async def residuals(self, **query: Any) -> BaselineTables:
        """Residual quantiles of the baselines; see `Buffer.residuals`."""
        return self._buffer.residuals(**query)

    async def actuals(self, slot: int) -> tuple[tuple[str, ...], np.ndarray]:
        """What happened in a slot: servers and values [S, T] of the targets."""
        return self._buffer.actuals(slot)

    async def new_rows_since(self, slot: int, as_of: int) -> int:
        """Valid rows in the slots after `slot`, up to `as_of`."""
        return self._buffer.new_rows_since(slot, as_of)

    async def close(self) -> None:
        """Flush and let go of the files."""
        self._buffer.close()
