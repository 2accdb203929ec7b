"""The ledger: what was forecast, by whom, and what then happened.

    record    the members' blocks of a slot, as they are recorded, with the derived ones   kept
    issue     a block per (slot, member)                     kept as issued, never replaced
    score     actuals of a slot x blocks of the H before it  folded into the sums of its day, and
              into what the derived members know (`derived`)
    accuracy  sums of some days -> errors per member and steps ahead
    daily     a member's sums and the champion's on the same cells, day by day
    publish   the newest snapshot, which replicas read

Every member that issues is scored, whatever it is called. Two kinds of sums say how members compare
(`scoring`): those of the common cells, on which all whole members stand side by side, and a pair
for each member, its own sums and the champion's on the cells that both issued. A member that covers
less than the others is in its pair alone and takes no cell from anybody.

One SQLite file with one writer (write-ahead log; a commit is acknowledged before a call returns).
Each call is one transaction and may be repeated: a block issued again, a slot scored again and a
snapshot published again change nothing. The fleet's sums are on disk with each slot; the servers'
are saved every `save_every` slots and at the end of a day, and computed again at a start from the
blocks and reports of the slots since, to the same bits.

S servers, T targets, H horizon, F sums per cell (`metrics`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from forecast import ledger_reads
from forecast.accuracy import AccuracyReport
from forecast.clock import slots_per_day
from forecast.day_sums import pack_fleet
from forecast.derived import Derived, Limits
from forecast.ensemble import Rule
from forecast.errors import StateError
from forecast.ledger_file import LedgerFile
from forecast.ledger_reads import DailySums
from forecast.metrics import FloatArray, sums_width
from forecast.open_blocks import OpenBlocks
from forecast.open_day import OpenDay
from forecast.record import ForecastBlock, Snapshot
from forecast.scoring import Scored, StepReport, counted_actuals, join, report_of
from forecast.seat import Seat

__all__ = ["AccuracyReport", "DailySums", "Ledger", "StepReport"]

log = logging.getLogger("fleetcast.ledger")


class Ledger:
    """Forecasts of record and their errors; the only writer of `path` (None: kept in memory).

    Blocks and reports are kept for `retain_slots`, sums for `retain_days`. Sums made for other
    targets, levels or another horizon stay on disk and are left out. Slots are scored in rising
    order. `save_every` is the most slots that a start computes again. `acknowledge` says what
    survives: with `write` a kill of the process, with `fsync` a power cut. Raises StateError when
    the file is in use, damaged, of an unknown format or of another step, and when it cannot be
    written; then nothing changed. `limits` are what quantiles keep to, `weights` is the rule by
    which the ensemble weighs its members.
    """

    def __init__(
        self,
        *,
        path: Path | None,
        targets: Sequence[str],
        levels: Sequence[float],
        horizon: int,
        step_seconds: int,
        retain_slots: int,
        retain_days: int = 35,
        lock_timeout_s: float = 10.0,
        acknowledge: Literal["write", "fsync"] = "fsync",
        save_every: int = 12,
        limits: Limits | None = None,
        weights: Rule = "learned",
    ) -> None:
        if retain_slots < horizon:
            raise ValueError(f"retain_slots {retain_slots} is below the horizon {horizon}")
        self._targets, self._levels, self._horizon = tuple(targets), tuple(levels), horizon
        self._retain_slots, self._retain_days = retain_slots, retain_days
        self._day_slots = slots_per_day(step_seconds)
        # The number goes up when the sums of a cell change.
        layout = json.dumps([2, self._targets, self._levels, horizon]).encode()
        self._layout = hashlib.sha256(layout).hexdigest()[:16]
        self._lock = threading.Lock()
        self._file = LedgerFile(
            path,
            step_seconds=step_seconds,
            lock_timeout_s=lock_timeout_s,
            acknowledge=acknowledge,
        )
        self._open = OpenBlocks(self._file, self._layout, horizon)
        self._scored_through = self._file.counter("scored_through")
        # What is not saved must not be dropped.
        save_every = max(1, min(save_every, retain_slots - horizon + 1))
        self._day = OpenDay(
            self._file,
            self._layout,
            Derived.fresh(self._targets, self._levels, horizon, limits, weights),
            day_slots=self._day_slots,
            save_every=save_every,
        )
        try:
            self._day.restore(self._scored_before, self._joined, self._learned)
            self._latest = self._restored()
        except BaseException:
            self._file.close()
            raise

    @property
    def scored_through(self) -> int | None:
        """The last slot scored; None before the first."""
        return self._scored_through

    def record(
        self, blocks: Sequence[ForecastBlock], seat: Seat | None = None
    ) -> tuple[ForecastBlock, ...]:
        """Keep what the members forecast of a slot, and what is derived of it; what is of record.

        `seat` says who stands in the champion's place, None: itself. When the slot has blocks of
        record, those stay.
        """
        with self._lock:
            every = self._day.derived.recorded(blocks, seat)
        return every if self.issue(every) == len(every) else self.blocks(blocks[0].slot)

    def issue(self, blocks: Sequence[ForecastBlock]) -> int:
        """Keep forecasts of record; returns how many are new: the first of a slot and member stays.

        Values that are `rounding.as_recorded` take a quarter of the bytes; any are kept exactly.
        Raises ValueError for other targets, levels or another horizon than the ledger's.
        """
        for block in blocks:
            block.check(self._targets, self._levels, self._horizon)
        with self._lock:
            return self._open.issue(blocks, self._scored_through)

    def score(
        self,
        slot: int,
        servers: Sequence[str],
        actuals_ST: FloatArray,
        *,
        masked: Collection[str] = (),
    ) -> StepReport:
        """Join the actuals [S, T] of a slot (natural units, NaN = gap) with its forecasts.

        `masked` names servers whose actuals say nothing of the forecasts (an incident,
        maintenance): they count in no sum and no report, as if they had a gap. A slot scored before
        returns its first report, whatever the actuals are now. Raises StateError when that report
        is no longer kept.
        """
        names = tuple(servers)
        counted = counted_actuals(slot, names, actuals_ST, len(self._targets), masked)
        with self._lock:
            if self._scored_through is not None and slot <= self._scored_through:
                return self._scored_before(slot)
            scored = join(names, counted, self._open.origins(slot), self._levels)
            report = report_of(slot, names, counted, scored, self._levels)
            self._commit(report, scored)
        return report

    def accuracy(
        self,
        *,
        since_slot: int | None = None,
        server: str | None = None,
        target: str | None = None,
        version: int | None = None,
    ) -> AccuracyReport:
        """Errors of every member by steps ahead, since the begin of the day of `since_slot`.

        `version` narrows to the origins at which that version was champion; it cannot be combined
        with `server`. Raises RequestError for that, and for an unknown target.
        """
        since_day = None if since_slot is None else since_slot // self._day_slots
        with self._lock:
            return ledger_reads.accuracy(
                self._file,
                self._layout,
                self._day.sums,
                since_day=since_day,
                through_slot=self._scored_through,
                server=server,
                target=target,
                version=version,
                targets=self._targets,
                levels=self._levels,
                day_slots=self._day_slots,
            )

    def daily(
        self, member: str, *, since_day: int | None = None, through_day: int | None = None
    ) -> DailySums:
        """A member's sums and the champion's on the cells that both issued, day by day.

        Ends included, None: all that is kept. The champion's own are its common cells, twice.
        """
        with self._lock:
            return ledger_reads.daily(
                self._file,
                self._layout,
                member,
                since_day=since_day,
                through_day=through_day,
                shape=(len(self._targets), self._horizon, sums_width(self._levels)),
            )

    def publish(self, snapshot: Snapshot) -> None:
        """Keep a snapshot as the one that replicas read; an older revision changes nothing."""
        with self._lock:
            if self._latest is not None and snapshot.revision < self._latest.revision:
                return
            # Blocks of record are in the file already.
            data = snapshot.pack(without=self._open.same(snapshot.blocks))
            with self._file.transaction():
                self._file.put_snapshot(snapshot.revision, data)
            self._latest = snapshot

    def latest(self) -> Snapshot | None:
        """The published snapshot, also after a restart; None before the first."""
        return self._latest

    def blocks(self, slot: int) -> tuple[ForecastBlock, ...]:
        """The forecasts of record issued at a slot that are still kept."""
        with self._lock:
            return tuple(ForecastBlock.unpack(data) for _, data in self._file.blocks(slot, None))

    def counts(self) -> dict[str, int]:
        """Blocks issued, slots and cells scored since the beginning; what is kept; bytes on disk.

        `scored_through` is missing before the first slot was scored.
        """
        with self._lock:
            return self._file.counts()

    def copy_to(self, path: Path) -> None:
        """Copy all that is kept into another file; in a thread, while nothing is scored or issued.

        Raises StateError when that fails.
        """
        try:
            self._file.copy_to(path)
        except (sqlite3.Error, OSError) as error:
            raise StateError(f"{path}: cannot copy the ledger: {error}") from error

    def close(self) -> None:
        """Let go of the file; all that a start needs is on disk already."""
        with self._lock:
            self._file.close()

    def _restored(self) -> Snapshot | None:
        data = self._file.snapshot()
        try:
            return None if data is None else Snapshot.unpack(data, self.blocks)
        except StateError as error:
            # The next step publishes another: better none until then than no ledger.
            log.warning("the published snapshot is lost: %s", error)
            return None

    def _scored_before(self, slot: int) -> StepReport:
        data = self._file.report(slot)
        if data is None:
            raise StateError(
                f"slot {slot} comes after {self._scored_through} was scored, and no report of it "
                f"is kept"
            )
        return StepReport.unpack(data)

    def _joined(self, report: StepReport) -> tuple[Scored, ...]:
        return join(report.servers, report.actuals, self._open.origins(report.slot), self._levels)

    def _learned(self, report: StepReport) -> Derived:
        """What the derived members know once a slot has been scored."""
        origins = self._open.origins(report.slot)
        return self._day.derived.after(report.servers, report.actuals, origins)

    def _commit(self, report: StepReport, scored: tuple[Scored, ...]) -> None:
        """Sums, report and how far scoring came, at once; memory follows the disk."""
        slot, file = report.slot, self._file
        day = self._day.of(slot)
        changed, derived = day.folded(scored), self._learned(report)
        with file.transaction():
            saved = self._day.save_before(slot)
            for key, sums in changed.items():
                file.put_fleet_sums(day.day, self._layout, key, pack_fleet(sums))
            file.insert_report(slot, report.pack())
            file.set_counter("scored_through", slot)
            file.raise_counter("scored_slots", 1)
            file.raise_counter("scored_cells", report.cells)
            file.prune(
                before_slot=slot - self._retain_slots, before_day=day.day - self._retain_days
            )
        self._day.took(report, changed, scored, derived, saved=saved)
        self._scored_through = slot
        self._open.forget(slot)
