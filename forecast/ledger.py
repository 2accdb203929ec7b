"""The ledger: what was forecast, by whom, and what then happened.

    issue     a block per (slot, member)                     kept as issued, never replaced
    score     actuals of a slot x blocks of the H before it  folded into the sums of its day
    accuracy  sums of some days -> errors per member and steps ahead
    publish   the newest snapshot, which replicas read

One SQLite file with one writer (write-ahead log; a commit is acknowledged before a call returns).
Each call is one transaction and may be repeated: a block issued again, a slot scored again and a
snapshot published again change nothing.

S servers, T targets, H horizon, F sums per cell (`metrics`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from forecast.accuracy import AccuracyReport, Totals, report_accuracy
from forecast.clock import slots_per_day
from forecast.errors import RequestError, StateError
from forecast.ledger_file import FleetKey, LedgerFile, ServerKey
from forecast.metrics import Float64Array, FloatArray
from forecast.packing import pack, unpack
from forecast.record import ForecastBlock, Snapshot
from forecast.scoring import Scored, ServerSums, StepReport, by_step, join, report_of

__all__ = ["AccuracyReport", "Ledger", "StepReport"]

log = logging.getLogger("fleetcast.ledger")


@dataclass(slots=True)
class _Day:
    """The sums of the day that is being scored, as they are on disk."""

    day: int
    fleet: dict[FleetKey, Float64Array] = field(default_factory=dict)
    servers: dict[ServerKey, ServerSums] = field(default_factory=dict)


class Ledger:
    """Forecasts of record and their errors; the only writer of `path` (None: kept in memory).

    Blocks and reports are kept for `retain_slots`, sums for `retain_days`. Sums made for other
    targets, levels or another horizon stay on disk and are left out. Slots are scored in rising
    order. `acknowledge` says what survives: with `write` a kill of the process, with `fsync` a
    power cut. Raises StateError when the file is in use, damaged, of an unknown format or of
    another step, and when it cannot be written; then nothing changed.
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
    ) -> None:
        if retain_slots < horizon:
            raise ValueError(f"retain_slots {retain_slots} is below the horizon {horizon}")
        self._targets, self._levels, self._horizon = tuple(targets), tuple(levels), horizon
        self._retain_slots, self._retain_days = retain_slots, retain_days
        self._day_slots = slots_per_day(step_seconds)
        layout = json.dumps([self._targets, self._levels, horizon]).encode()
        self._layout = hashlib.sha256(layout).hexdigest()[:16]
        self._lock = threading.Lock()
        self._file = LedgerFile(
            path,
            step_seconds=step_seconds,
            lock_timeout_s=lock_timeout_s,
            acknowledge=acknowledge,
        )
        self._recent: dict[int, tuple[ForecastBlock, ...]] = {}
        self._day: _Day | None = None
        self._scored_through = self._file.counter("scored_through")
        self._latest = self._restored()

    @property
    def scored_through(self) -> int | None:
        """The last slot scored; None before the first."""
        return self._scored_through

    def issue(self, blocks: Sequence[ForecastBlock]) -> int:
        """Keep forecasts of record; returns how many are new: the first of a slot and member stays.

        Raises ValueError for other targets, levels or another horizon than the ledger's.
        """
        for block in blocks:
            self._check(block)
        with self._lock, self._file.transaction():
            new = 0
            for block in blocks:
                row = (block.slot, block.member, self._layout, block.pack())
                new += self._file.insert_block(*row)
                self._recent.pop(block.slot, None)
            self._file.raise_counter("issued_blocks", new)
        return new

    def score(self, slot: int, servers: Sequence[str], actuals_ST: FloatArray) -> StepReport:
        """Join the actuals [S, T] of a slot (natural units, NaN = gap) with its forecasts.

        A slot scored before returns its first report, whatever the actuals are now. Raises
        StateError when that report is no longer kept.
        """
        names = tuple(servers)
        if actuals_ST.shape != (len(set(names)), len(self._targets)):
            raise ValueError(
                f"slot {slot}: actuals are {actuals_ST.shape}, need one row for each of "
                f"{len(set(names))} servers and {len(self._targets)} targets"
            )
        with self._lock:
            if self._scored_through is not None and slot <= self._scored_through:
                return self._scored_before(slot)
            steps = range(1, self._horizon + 1)
            origins = {step: self._blocks(slot - step) for step in steps}
            scored = join(names, actuals_ST, origins, self._levels)
            report = report_of(slot, names, len(self._targets), scored)
            self._commit(report, self._folded(slot // self._day_slots, names, scored))
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
        if target is not None and target not in self._targets:
            raise RequestError(f"no target {target!r}; there are {', '.join(self._targets)}")
        if server is not None and version is not None:
            raise RequestError("errors by version are kept for the fleet, not for each server")
        since_day = None if since_slot is None else since_slot // self._day_slots
        totals = Totals()
        with self._lock:
            through = self._scored_through
            if server is None:
                self._add_fleet(totals, since_day, version)
            else:
                self._add_server(totals, since_day, server)
        first_day = since_day if since_day is not None else totals.first_day
        return report_accuracy(
            totals,
            since_slot=None if first_day is None else first_day * self._day_slots,
            through_slot=through,
            server=server,
            target=target,
            targets=self._targets,
            levels=self._levels,
            versions_by_horizon=version is not None,
        )

    def publish(self, snapshot: Snapshot) -> None:
        """Keep a snapshot as the one that replicas read; an older revision changes nothing."""
        with self._lock:
            if self._latest is not None and snapshot.revision < self._latest.revision:
                return
            with self._file.transaction():
                self._file.put_snapshot(snapshot.revision, snapshot.pack())
            self._latest = snapshot

    def latest(self) -> Snapshot | None:
        """The published snapshot, also after a restart; None before the first."""
        return self._latest

    def blocks(self, slot: int) -> tuple[ForecastBlock, ...]:
        """The forecasts of record issued at a slot that are still kept."""
        with self._lock:
            return tuple(ForecastBlock.unpack(data) for data in self._file.blocks(slot, None))

    def counts(self) -> dict[str, int]:
        """Blocks issued, slots and cells scored since the beginning; what is kept; bytes on disk.

        `scored_through` is missing before the first slot was scored.
        """
        with self._lock:
            return self._file.counts()

    def close(self) -> None:
        """Let go of the file; everything is on disk already."""
        with self._lock:
            self._file.close()

    def _restored(self) -> Snapshot | None:
        data = self._file.snapshot()
        try:
            return None if data is None else Snapshot.unpack(data)
        except StateError as error:
            # The next step publishes another: better none until then than no ledger.
            log.warning("the published snapshot is lost: %s", error)
            return None

    def _check(self, block: ForecastBlock) -> None:
        have = (block.targets, block.levels, block.horizon)
        need = (self._targets, self._levels, self._horizon)
        if have != need:
            raise ValueError(f"block of {block.member!r} at {block.slot} has {have}, need {need}")

    def _scored_before(self, slot: int) -> StepReport:
        data = self._file.report(slot)
        if data is None:
            raise StateError(
                f"slot {slot} comes after {self._scored_through} was scored, and no report of it "
                f"is kept"
            )
        return StepReport.unpack(data)

    def _blocks(self, slot: int) -> tuple[ForecastBlock, ...]:
        """Blocks of an origin, from memory while they mature."""
        if slot not in self._recent:
            found = self._file.blocks(slot, self._layout)
            self._recent[slot] = tuple(ForecastBlock.unpack(data) for data in found)
        return self._recent[slot]

    def _folded(self, day: int, servers: tuple[str, ...], scored: Sequence[Scored]) -> _Day:
        """The sums that change with this slot, with it added; what is in memory stays as it is."""
        open_day, changed = self._open_day(day), _Day(day)
        groups: dict[FleetKey, list[Scored]] = {}
        for one in scored:
            groups.setdefault((one.beside, one.member, one.version), []).append(one)
        for key, group in groups.items():
            sums = by_step(group, self._horizon)
            if not sums[..., 0].any():
                continue
            total = sums.sum(0)
            changed.fleet[key] = open_day.fleet[key] + total if key in open_day.fleet else total
            paired = (key[0] is not None, key[1])
            known = changed.servers.get(paired) or open_day.servers.get(paired)
            more = ServerSums(servers, sums)
            changed.servers[paired] = more if known is None else known.plus(servers, sums)
        return changed

    def _open_day(self, day: int) -> _Day:
        if self._day is None or self._day.day != day:
            opened = _Day(day)
            for found, fleet_key, data in self._file.fleet_sums(day, self._layout):
                if found == day:
                    opened.fleet[fleet_key] = _unpack_fleet(data)
            for found, server_key, data in self._file.server_sums(day, self._layout):
                if found == day:
                    opened.servers[server_key] = ServerSums.unpack(data)
            self._day = opened
        return self._day

    def _commit(self, report: StepReport, changed: _Day) -> None:
        """Sums, report and how far scoring came, at once; memory follows the disk."""
        slot, file = report.slot, self._file
        with file.transaction():
            for fleet_key, sums in changed.fleet.items():
                data = pack("fleet", {}, {"sums": sums})
                file.put_fleet_sums(changed.day, self._layout, fleet_key, data)
            for server_key, by_server in changed.servers.items():
                file.put_server_sums(changed.day, self._layout, server_key, by_server.pack())
            file.insert_report(slot, report.pack())
            file.set_counter("scored_through", slot)
            file.raise_counter("scored_slots", 1)
            file.raise_counter("scored_cells", report.cells)
            file.prune(
                before_slot=slot - self._retain_slots, before_day=changed.day - self._retain_days
            )
        opened = self._open_day(changed.day)
        opened.fleet.update(changed.fleet)
        opened.servers.update(changed.servers)
        self._scored_through = slot
        for old in [known for known in self._recent if known <= slot - self._horizon]:
            del self._recent[old]

    def _add_fleet(self, totals: Totals, since_day: int | None, version: int | None) -> None:
        for day, (beside, member, _), data in self._file.fleet_sums(since_day, self._layout):
            if version is None or beside == version:
                totals.add(day, member, beside is not None, _unpack_fleet(data), version=beside)

    def _add_server(self, totals: Totals, since_day: int | None, server: str) -> None:
        for day, (paired, member), data in self._file.server_sums(since_day, self._layout):
            sums = ServerSums.unpack(data).of(server)
            if sums is not None:
                totals.add(day, member, paired, sums)


def _unpack_fleet(data: bytes) -> Float64Array:
    sums: Float64Array = unpack("fleet", data)[1]["sums"]
    return sums
