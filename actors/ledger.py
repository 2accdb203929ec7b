"""LedgerActor: what was forecast and what then happened. The only writer of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors import telemetry
from forecast.backup import STATE, CopiedFile, sealed
from forecast.clock import slots_per_day
from forecast.health import lately
from forecast.ledger import AccuracyReport, DailySums, Ledger, StepReport
from forecast.record import ForecastBlock, Snapshot
from forecast.seat import Seat
from forecast.storage import HANDOVER_S, OwnerLock, make_folders


class LedgerActor:
    """Shell around `forecast.ledger.Ledger`; also hands the published snapshot to replicas.

    Called by the controller (`issue`, `score`, `publish`), by the gateway (`wait_newer`,
    `accuracy`). Blocks, sums and the last snapshot survive a crash in one SQLite file, but for a
    replay that is never gone on with: `in_memory`.
    """

    def __init__(self, *, path: Path, owner: str, in_memory: bool = False, **settings: Any) -> None:
        self._name = path.name
        lock = path.with_name(f"{path.name}.lock")
        self._lock = OwnerLock(lock, owner, patience_s=HANDOVER_S)
        try:
            self._ledger = Ledger(path=None if in_memory else path, **settings)
        except BaseException:
            self._lock.release()
            raise
        self._day = slots_per_day(settings["step_seconds"])
        self._known: tuple[int | None, dict[str, Any]] = (None, {"wql": {}})
        self._published = asyncio.Condition()

    async def issue(
        self, blocks: Sequence[ForecastBlock], seat: Seat | None = None
    ) -> tuple[ForecastBlock, ...]:
        """Keep what the members forecast; the blocks of record, with the derived ones."""
        self._lock.check()
        return self._ledger.record(blocks, seat)

    async def score(
        self,
        slot: int,
        actuals: tuple[tuple[str, ...], np.ndarray],
        masked: Collection[str] = (),
    ) -> StepReport:
        """Join a slot's actuals with the forecasts made for it, but for masked servers."""
        self._lock.check()
        servers, values = actuals
        return self._ledger.score(slot, servers, values, masked=masked)

    async def publish(self, snapshot: Snapshot) -> None:
        """Make a snapshot the one that replicas read."""
        self._lock.check()
        self._ledger.publish(snapshot)
        async with self._published:
            self._published.notify_all()

    async def latest(self) -> Snapshot | None:
        """The published snapshot."""
        return self._ledger.latest()

    async def wait_newer(self, seen: int | None, timeout_s: float) -> Snapshot | None:
        """The published snapshot once its revision is not `seen`; None after the timeout."""

        def newer() -> bool:
            latest = self._ledger.latest()
            return latest is not None and latest.revision != seen

        async with self._published:
            try:
                await asyncio.wait_for(self._published.wait_for(newer), timeout_s)
            except TimeoutError:
                return None
        return self._ledger.latest()

    async def accuracy(self, **query: Any) -> AccuracyReport:
        """Errors per member and horizon; see `Ledger.accuracy`."""
        return self._ledger.accuracy(**query)

    async def daily(self, member: str, **days: int | None) -> DailySums:
        """A member's sums and the champion's on the same cells, by day; see `Ledger.daily`."""
        return self._ledger.daily(member, **days)

    async def blocks(self, slot: int) -> tuple[ForecastBlock, ...]:
        """The forecasts of record issued at a slot."""
        return tuple(self._ledger.blocks(slot))

    async def counts(self) -> dict[str, Any]:
        """Rows kept, slots scored, how good forecasts were lately, for telemetry."""
        return {**self._ledger.counts(), **self._lately()}

    async def published(self) -> dict[str, Any] | None:
        """What is said of the published snapshot, for telemetry."""
        return telemetry.published(self._ledger.latest())

    async def copy_to(self, folder: Path) -> tuple[list[CopiedFile], int]:
        """Copy the ledger into a folder, durably; what was copied, and the epoch of the lock."""
        self._lock.check()
        copied = await asyncio.to_thread(self._copy, folder / self._name)
        return [copied], self._lock.epoch

    def _copy(self, path: Path) -> CopiedFile:
        make_folders(path.parent)
        self._ledger.copy_to(path)
        return sealed(path, f"{STATE}/{path.name}")

    async def close(self) -> None:
        """Let go of the file."""
        self._ledger.close()
        self._lock.release()

    def _lately(self) -> dict[str, Any]:
        """Errors since the begin of yesterday; read again when a slot was scored."""
        through = self._ledger.scored_through
        if through is not None and through != self._known[0]:
            report = self._ledger.accuracy(since_slot=through - self._day)
            self._known = (through, lately(report))
        return self._known[1]
