"""BufferActor: the stream of one panel, kept. Owns the log and the grid; restores by itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.commits import Commits
from actors.copied import Copied
from forecast.backup import STATE, files_below
from forecast.baselines import BaselineTables
from forecast.errors import Busy, StateError
from forecast.events import Event, EventReport, Told
from forecast.free_space import FreeSpace
from forecast.hours import Hours
from forecast.least_squares import LeastSquaresTables
from forecast.quantile_network import QuantileNetwork
from forecast.record import ServerStatus
from forecast.schema import SampleBlock
from forecast.storage import HANDOVER_S, OwnerLock
from forecast.windows import RawWindows
from train import expert, quantile_network
from train.buffer import AppendReport, Buffer, BufferStatus
from train.rehearsal import Rehearsal

log = logging.getLogger("fleetcast.buffer")

_REPAIR_EVERY_S = 5.0


class BufferActor(Copied):
    """Shell around `train.buffer.Buffer`.

    Called by Ingest (`append`), the controller (windows) and the gateway (`servers`). Everything
    acknowledged survives a crash: the constructor, which Ray runs again, reads snapshot and log.
    """

    def __init__(
        self,
        *,
        directory: Path,
        owner: str,
        learning_free_bytes: int = 0,
        ingest_free_bytes: int = 0,
        replay_windows: int = 0,
        **settings: Any,
    ) -> None:
        self._directory = directory
        self._lock = OwnerLock(directory / "owner.lock", owner, patience_s=HANDOVER_S)
        try:
            self._buffer = Buffer(directory=directory, **settings)
            self._rehearsal = _rehearsal(self._buffer, directory, replay_windows, settings)
        except BaseException:
            self._lock.release()
            raise
        self._space = FreeSpace(
            directory, learning_bytes=learning_free_bytes, ingest_bytes=ingest_free_bytes
        )
        self._commits = Commits(self._buffer.sync)
        self._repair_at = 0.0
        self._told = self._buffer.closed_slot
        self._ingested = {"appends": 0, "accepted": 0, "rejected": 0}
        self._moved = asyncio.Condition()

    async def append(self, request_id: str, block: SampleBlock) -> AppendReport:
        """Log, then keep, a block of samples; a repeated request id changes nothing.

        Returns when they are durable; appends that wait at the same time share one sync. Raises
        Busy when there is too little free space, and StateError when the log cannot be written or
        another owner has come.
        """
        self._lock.check()
        self._space.check_ingest()
        self._repair()
        try:
            report = self._buffer.write(request_id, block)
            if not self._buffer.settled:
                await self._commits.wait()
        except StateError as error:
            log.error("request %s is not kept: %s", request_id, error)
            raise
        self._ingested["appends"] += 1
        self._ingested["accepted"] += report.accepted
        self._ingested["rejected"] += len(report.rejected)
        if self._buffer.closed_slot != self._told:
            self._told = self._buffer.closed_slot
            async with self._moved:
                self._moved.notify_all()
        return report

    async def wait_closed(self, seen: int | None, timeout_s: float) -> BufferStatus:
        """Status as soon as a slot later than `seen` is closed, or after the timeout."""

        def moved() -> bool:
            closed = self._buffer.closed_slot
            return closed is not None and (seen is None or closed > seen)

        async with self._moved:
            try:
                await asyncio.wait_for(self._moved.wait_for(moved), timeout_s)
            except TimeoutError:
                return self._status()
        return self._status()

    async def status(self) -> BufferStatus:
        """Clock, counts and sizes."""
        return self._status()

    async def numbers(self) -> dict[str, Any]:
        """The status and what came in since this process started, retries too, for telemetry.

        Plain values: whoever reads them needs no training code.
        """
        return {**asdict(self._status()), **self._ingested}

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

    async def rehearse(self, **query: Any) -> RawWindows:
        """Training windows, a share of them from the replay table; see `Rehearsal.draw`."""
        self._lock.check()
        return self._table().draw(**query)

    async def reprioritize(self, update_id: str, losses: np.ndarray | None) -> None:
        """What an update lost on each of its windows; see `Rehearsal.report`."""
        self._lock.check()
        self._table().report(update_id, losses)

    async def holdout(self, **query: Any) -> RawWindows:
        """Later windows that no training drew; see `Buffer.holdout`."""
        return self._buffer.holdout(**query)

    async def residuals(self, **query: Any) -> BaselineTables:
        """Residual quantiles of the baselines; see `Buffer.residuals`."""
        return self._buffer.residuals(**query)

    async def least_squares(self, *, as_of: int, levels: tuple[float, ...]) -> LeastSquaresTables:
        """The least-squares expert as of a slot.

        Its examples are cut at once; the fit runs in a thread, beside appends, on them alone.
        """
        examples = self._buffer.examples(as_of=as_of)
        return await asyncio.to_thread(expert.fit, examples, levels)

    async def quantile_network(
        self, *, as_of: int, levels: tuple[float, ...], seed: int
    ) -> QuantileNetwork | None:
        """The quantile network as of a slot, fitted beside appends as least squares is."""
        examples = self._buffer.examples(as_of=as_of)
        return await asyncio.to_thread(quantile_network.fit, examples, levels, seed=seed)

    async def actuals(self, slot: int) -> tuple[tuple[str, ...], np.ndarray]:
        """What happened in a slot: servers and values [S, T] of the targets."""
        return self._buffer.actuals(slot)

    async def new_rows_since(self, slot: int, as_of: int) -> int:
        """Valid rows in the slots after `slot`, up to `as_of`."""
        return self._buffer.new_rows_since(slot, as_of)

    async def tell(self, events: Sequence[Event]) -> tuple[EventReport, ...]:
        """Log, then keep, events; see `EventBook.tell`. Raises as `append` does."""
        self._lock.check()
        self._space.check_ingest()
        self._repair()
        return self._buffer.events.tell(events)

    async def withdraw(self, event_id: str) -> Told | None:
        """Let an event be forgotten from now on; None when it is not known."""
        self._lock.check()
        self._repair()
        return self._buffer.events.withdraw(event_id)

    async def events(self) -> tuple[Told, ...]:
        """The events that stand, by start."""
        return self._buffer.events.events.now()

    async def masked(self, slot: int, known_at: int) -> tuple[str, ...]:
        """The servers of which a slot says nothing, by what was known at another."""
        return self._buffer.events.masked(slot, known_at)

    async def held(self, slot: int) -> tuple[str, ...]:
        """The servers whose drift alarm is held at a slot."""
        return self._buffer.events.held(slot)

    async def quiet_hours(self, as_of: int) -> Hours | None:
        """The hours in which the fleet is least busy; None where none are."""
        return self._buffer.quiet_hours(as_of=as_of)

    def _files(self) -> dict[str, Path]:
        """The logs and snapshots of the stream and of its replay table."""
        return files_below(self._directory, f"{STATE}/buffer")

    async def close(self) -> None:
        """Flush and let go of the files."""
        try:
            if self._rehearsal is not None:
                self._rehearsal.close()
            self._buffer.close()
        finally:
            self._lock.release()

    def _table(self) -> Rehearsal:
        if self._rehearsal is None:
            raise StateError("there is no replay table: the strategy is another")
        return self._rehearsal

    def _status(self) -> BufferStatus:
        return replace(
            self._buffer.status(),
            free_bytes=self._space.free_bytes(),
            may_learn=self._space.may_learn(),
        )

    def _repair(self) -> None:
        """After a failed sync, make sure of everything anew before the next request."""
        if not self._buffer.stopped:
            return
        now = time.monotonic()
        if now < self._repair_at:
            raise Busy("the buffer cannot write now", retry_after_s=round(_REPAIR_EVERY_S))
        self._repair_at = now + _REPAIR_EVERY_S
        self._buffer.recover()
        log.warning("the log goes on: all that was kept is in a new snapshot")


def _rehearsal(
    buffer: Buffer, directory: Path, windows: int, settings: Mapping[str, Any]
) -> Rehearsal | None:
    """The buffer's replay table, in a folder of its own below the buffer's; None without one."""
    if not windows:
        return None
    shared = ("schema", "context", "horizon", "history_days", "acknowledge", "snapshot_every_bytes")
    return Rehearsal(
        buffer=buffer,
        directory=directory / "replay",
        capacity=windows,
        **{name: settings[name] for name in shared if name in settings},
    )
