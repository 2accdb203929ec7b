"""The buffer: the stream of one panel, kept. Log first, then the grid; restores by itself.

    write ───► decide (what is refused) ──► log ──► apply (grid, clock, roster) ──► report
    sync ────► the log is durable: what was written may be acknowledged, and moves the clock shown
    restart ─► snapshot ──► apply, once for every record logged after it

So a restarted buffer is bitwise the one that was killed, and what was acknowledged is in it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forecast.baselines import BaselineTables
from forecast.clock import slots_per_day
from forecast.errors import StateError, UnknownServer
from forecast.hours import Hours
from forecast.record import ServerStatus
from forecast.schema import SampleBlock, Schema
from forecast.storage import DISK, Disk
from forecast.windows import RawWindows
from train import snapshot
from train.cuts import Cutter, Only
from train.event_book import EventBook
from train.examples import Examples, examples_of
from train.intake import AppendReport, Intake
from train.load import load_by_hour
from train.requests import Requests
from train.residuals import residuals_of
from train.segments import SegmentLog
from train.status import BufferStatus, status_of

__all__ = ["AppendReport", "Buffer", "BufferStatus"]

log = logging.getLogger("fleetcast.buffer")

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


class Buffer:
    """Samples in, windows out, for one panel. One owner; calls are not meant to overlap.

    What is read as of a slot depends on no later slot, but for the labels that are asked for.
    Servers come by name, in sorted order. `directory` None keeps everything in memory only.

    Raises StateError when what is stored is damaged or belongs to another panel or step.

    >>> from forecast.schema import Metric, validate_rows
    >>> schema = Schema("servers", 300, (Metric("cpu"),), ("cpu",))
    >>> buffer = Buffer(directory=None, schema=schema, history_days=2, context=2, horizon=1,
    ...                 max_servers=8, allowed_lateness_s=300, snapshot_every_bytes=1 << 20)
    >>> row = {"timestamp": 300, "server": "web-01", "metrics": {"cpu": 0.5}}
    >>> block, rejects = validate_rows([row], schema, now_ms=300_000, max_clock_skew_ms=0)
    >>> report = buffer.append("request-1", block)
    >>> report.accepted, report.clock_slot, buffer.fleet(1).values[0, :, 0]
    (1, 1, array([nan, 0.5, nan], dtype=float32))
    >>> buffer.append("request-1", block) is report
    True
    """

    def __init__(
        self,
        *,
        directory: Path | None,
        schema: Schema,
        history_days: int,
        context: int,
        horizon: int,
        max_servers: int,
        allowed_lateness_s: int,
        out_of_order_s: int = 7200,
        acknowledge: Literal["write", "fsync"] = "write",
        snapshot_every_bytes: int,
        deploy_hold_s: int = 0,
        disk: Disk = DISK,
    ) -> None:
        self._schema = schema
        self._context, self._horizon = context, horizon
        self._targets = np.array(schema.target_columns)
        self._snapshot_every = snapshot_every_bytes
        self._snapshot_at = snapshot_every_bytes
        self._intake = Intake(
            schema=schema,
            history=history_days * slots_per_day(schema.step_seconds),
            context=context,
            max_servers=max_servers,
            allowed_lateness_s=allowed_lateness_s,
            out_of_order_s=out_of_order_s,
        )
        self._cutter = Cutter(
            grid=self._intake.grid,
            roster=self._intake.roster,
            spread=self._intake.spread,
            schema=schema,
            context=context,
            horizon=horizon,
        )
        self._requests = Requests()
        self._log: SegmentLog | None = None
        if directory is not None:
            self._log = SegmentLog(
                directory,
                acknowledge=acknowledge,
                segment_bytes=max(1, snapshot_every_bytes // 4),
                about=snapshot.about(schema),
                disk=disk,
            )
        self.events = EventBook(self._intake, self._log, hold_s=deploy_hold_s)
        if self._log is not None:
            self._restore(self._log)

    def append(self, request_id: str, block: SampleBlock) -> AppendReport:
        """Write a block of samples and make sure of it; raises as `write` and `sync` do."""
        report = self.write(request_id, block)
        self.sync()
        return report

    def write(self, request_id: str, block: SampleBlock) -> AppendReport:
        """Log, then keep, a block of samples; `sync` must follow before it is acknowledged.

        A request id that was seen before changes nothing and gets the first report again. Raises
        StateError when the log cannot be written; then nothing was kept.
        """
        if not request_id:
            raise ValueError("a request needs an id: a retry is recognised by it")
        if (known := self._requests.report(request_id)) is not None:
            return known
        block, rejected = self._intake.decide(block)
        if self._log is not None:
            self._log.write(snapshot.sample_record(request_id, block, rejected))
        report = self._intake.apply(block, rejected)
        self._requests.remember(request_id, report)
        self._moved()
        self._compact_if_due()
        return report

    def sync(self) -> None:
        """Make sure of every block written before the call; may run in a thread, beside the rest.

        Raises StateError when that fails. The log then takes nothing until `recover`.
        """
        mark = self._requests.written
        if self._log is not None and mark.number > self._requests.settled.number:
            self._log.sync()
        self._requests.settle(mark)

    @property
    def settled(self) -> bool:
        """Whether everything that was written is durable, as far as `acknowledge` asks for it."""
        return self._requests.settled == self._requests.written

    @property
    def closed_slot(self) -> int | None:
        """The last slot that is closed by durable samples."""
        return self._requests.settled.closed_slot

    @property
    def stopped(self) -> bool:
        """Whether the log takes nothing more until `recover`."""
        return self._log is not None and self._log.stopped

    def recover(self) -> None:
        """Go on after the log stopped: all that is kept goes into a new snapshot, made sure of.

        Not even what can be read back after a failed sync is sure to be on disk, so the log's old
        files are not gone on with. Raises StateError when there is no writing yet.
        """
        if self._log is not None and self._log.stopped:
            self._compact(self._log)

    def status(self) -> BufferStatus:
        """Clock, counts and sizes, now."""
        return status_of(self._intake, self._requests, self._log)

    def servers(self, slot: int | None = None) -> tuple[ServerStatus, ...]:
        """Every server seen by `slot` (the clock's when None) and its state then, by name."""
        slot = self._intake.clock.slot if slot is None else slot
        return () if slot is None else self._intake.roster.states(slot)

    def fleet(self, slot: int) -> RawWindows:
        """One window per server that is not retired as of `slot`, with that origin, no labels."""
        states = self._intake.roster.states(slot)
        names = [state.name for state in states if state.state != "retired"]
        origins = np.full(len(names), slot, dtype=np.int64)
        return self._cutter.cut(names, origins, labels=False, as_of=slot)

    def cut(self, servers: Sequence[str], origins: IntArray, *, labels: bool) -> RawWindows:
        """The window of each server [N] with each origin [N]; labels are the slots after it.

        Raises UnknownServer for a name that is not kept.
        """
        unknown = [name for name in servers if self._intake.roster.row(name) is None]
        if unknown:
            raise UnknownServer(f"no server {unknown[0]!r} is known")
        return self._cutter.cut(servers, origins, labels=labels)

    def draw(
        self,
        *,
        as_of: int,
        hours: int,
        count: int,
        seed: int,
        holdout_hours: int,
        known_at: int | None = None,
        only: Only = None,
    ) -> RawWindows:
        """At most `count` training windows, uniform by seed over all that can teach something.

        Their labels end a horizon before the holdout of `holdout_hours` up to `as_of` begins; their
        origins lie in the last `hours` before that. No label lies in a slot that was known to be
        masked at `known_at`, `as_of` unless said.
        """
        last = as_of - self._slots(holdout_hours) - 2 * self._horizon
        first = max(last - self._slots(hours) + 1, self._intake.roster.first_slot() or 0)
        mask = self.events.masker(as_of if known_at is None else known_at)
        chosen = self._cutter.drawn(first, last, count=count, seed=seed, masker=mask, only=only)
        return self._cutter.cut(*chosen, labels=True, as_of=last)

    def holdout(
        self, *, as_of: int, hours: int, every: int, known_at: int | None = None, only: Only = None
    ) -> RawWindows:
        """Every server's windows with labels in the last `hours` up to `as_of`.

        Origins lie `every` slots apart, the last one a horizon before `as_of`; masked as in `draw`.
        """
        masker = self.events.masker(as_of if known_at is None else known_at)
        last = as_of - self._horizon
        origins = np.arange(last, as_of - self._slots(hours) - 1, -every, dtype=np.int64)[::-1]
        names, chosen = self._cutter.spaced(origins, masker=masker, only=only)
        # One long-run deviation for all, from before the first of them: none reads past its origin.
        return self._cutter.cut(names, chosen, labels=True, as_of=as_of - self._slots(hours))

    def residuals(self, *, as_of: int, hours: int, levels: tuple[float, ...]) -> BaselineTables:
        """The baselines' residual quantiles, from the last `hours` and the day before them."""
        return residuals_of(
            self._intake,
            as_of=as_of,
            slots=self._slots(hours),
            levels=levels,
            horizon=self._horizon,
            masker=self.events.masker(as_of),
        )

    def examples(self, *, as_of: int) -> Examples:
        """What the least-squares expert is fitted on; at most a few days of every server."""
        return examples_of(
            self._intake,
            as_of=as_of,
            context=self._context,
            horizon=self._horizon,
            masker=self.events.masker(as_of),
        )

    def actuals(self, slot: int) -> tuple[tuple[str, ...], FloatArray]:
        """Servers of which a target was observed in `slot`, and the targets' values [S, T]."""
        names = self._intake.roster.names()
        rows = self._intake.roster.rows(names)
        values = self._intake.grid.gather(rows, np.array([slot]))[:, 0][:, self._targets]
        seen = (~np.isnan(values)).any(axis=1)
        return tuple(np.array(names, dtype=object)[seen]), values[seen]

    def new_rows_since(self, slot: int, as_of: int) -> int:
        """Slots in (slot, as_of] times servers in which at least one metric has a value."""
        return self._intake.grid.rows_between(slot, as_of)

    def quiet_hours(self, *, as_of: int) -> Hours | None:
        """The hours in which the fleet is least busy; None where none are."""
        return Hours.quietest(load_by_hour(self._intake, as_of=as_of))

    def close(self) -> None:
        """Make the log durable and let go of it; nothing can be appended afterwards."""
        if self._log is not None:
            self._log.close()

    def _slots(self, hours: int) -> int:
        return hours * 3600 // self._schema.step_seconds

    def _restore(self, stored: SegmentLog) -> None:
        """Take over the snapshot, then every request that was logged after it."""
        more = snapshot.load(stored.snapshot(), self._intake)
        self._requests.restore((more or {}).get("reports", []))
        self.events.restore((more or {}).get("events", []))
        for about, record in stored.replay():
            if self.events.take(record):
                continue
            request_id, block, rejected = snapshot.samples_of(record, about, self._schema)
            self._requests.remember(request_id, self._intake.apply(block, rejected))
        self._moved(settled=True)
        if torn := stored.torn_bytes:
            said = "cut %d bytes of an unfinished record, never acknowledged, from the log"
            log.warning(said, torn, extra={"torn_bytes": torn})

    def _compact_if_due(self) -> None:
        """Snapshot and truncate once the log is long; a failure costs space, never the request."""
        if self._log is None or self._log.nbytes < self._snapshot_at:
            return
        try:
            self._compact(self._log)
        except StateError as error:
            log.error("the log grows: %s", error, extra={"log_bytes": self._log.nbytes})
            self._snapshot_at = self._log.nbytes + self._snapshot_every

    def _compact(self, stored: SegmentLog) -> None:
        kept = {"reports": self._requests.to_json(), "events": self.events.events.to_json()}
        stored.compact(snapshot.dump(self._intake, kept))
        self._snapshot_at = self._snapshot_every
        self._requests.settle(self._requests.written)

    def _moved(self, *, settled: bool = False) -> None:
        self._requests.move(self._intake.clock)
        if settled or self._log is None or not self._log.syncs:
            self._requests.settle(self._requests.written)
