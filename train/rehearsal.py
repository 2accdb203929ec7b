"""Rehearsal: an update's windows, part from the sliding window and part from the replay table.

    draw(update)   ──► settle the update before ──► a steady sample of new hours ──► draw
    report(update) ──► its losses are logged; the next draw settles them

All that changes the table is logged first, in a log of its own beside the buffer's, so a restart
gives the same table, bit by bit. What an acknowledgement means is what it means for the buffer:
with `write` it survives the process, with `fsync` the machine.

Nothing changes between an update's draw and the next update's: asked again after a crash, before or
after its report, an update gets the windows it had. The table holds what updates were drawn, for
what was learned is what can be forgotten, and beside them the same number of windows of every hour,
for updates follow load, schedule and faults, and the table should not. The grid forgets after
`history_days`; the oldest hours it still has come first. No window's labels reach into the holdout
of the update: an hour's windows come in once they are as old as those that are drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forecast.errors import StateError
from forecast.schema import Schema
from forecast.storage import DISK, Disk
from forecast.windows import RawWindows
from train import rehearsal_log as records
from train.buffer import Buffer
from train.offer import Offer
from train.rehearsal_log import Drawn
from train.replay import ReplayTable
from train.segments import Record, SegmentLog

log = logging.getLogger("fleetcast.buffer")

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_FILL_HOURS = 35 * 24
"""How long the steady sample alone takes to fill the table."""
_HOURS_AT_ONCE = 48
"""New hours that one draw takes in at most: a long history comes in over several updates."""


class Rehearsal:
    """Mixes windows of a buffer with those of its replay table. One owner, like the buffer.

    Raises StateError when what is stored is damaged. Windows of another length or step are of no
    use to today's network: the table then begins anew, and the log says so.
    """

    def __init__(
        self,
        *,
        buffer: Buffer,
        directory: Path | None,
        schema: Schema,
        context: int,
        horizon: int,
        history_days: int,
        capacity: int,
        acknowledge: Literal["write", "fsync"] = "write",
        snapshot_every_bytes: int,
        disk: Disk = DISK,
    ) -> None:
        self._buffer, self._schema, self._horizon = buffer, schema, horizon
        self._hour = max(1, 3600 // schema.step_seconds)
        self._steady = max(1, capacity // _FILL_HOURS)
        self._history = history_days * 24
        self._kind = records.about(schema, context=context, horizon=horizon, capacity=capacity)
        self._table = ReplayTable(
            schema=schema, context=context, horizon=horizon, capacity=capacity
        )
        self._capacity = capacity
        self._drawn: Drawn | None = None
        self._hours_to: int | None = None
        """The last slot of the last hour whose steady sample was taken."""
        self._snapshot_every = snapshot_every_bytes
        self._log: SegmentLog | None = None
        if directory is not None:
            self._log = SegmentLog(
                directory,
                acknowledge=acknowledge,
                segment_bytes=max(1, snapshot_every_bytes // 4),
                about=self._kind,
                disk=disk,
            )
            self._restore(self._log)

    @property
    def table(self) -> ReplayTable:
        """The table; to look at."""
        return self._table

    def draw(
        self,
        *,
        update_id: str,
        as_of: int,
        hours: int,
        count: int,
        seed: int,
        holdout_hours: int,
        ratio: float,
        known_at: int | None = None,
    ) -> RawWindows:
        """`count` windows for an update, `ratio` of them from the table, with weights.

        The others are those that `Buffer.draw` gives; they stand first and weigh 1. Where the table
        has too few the sliding window gives more; `replayed` tells them apart. No label is later
        than `as_of` less the holdout and a horizon. Labels masked as known at `known_at` (`as_of`
        unless said) are left out, also of windows that were kept before the incident was told.
        Raises StateError when the log cannot be written; then nothing was drawn.
        """
        known = as_of if known_at is None else known_at
        slide = partial(
            self._buffer.draw,
            as_of=as_of,
            hours=hours,
            seed=seed,
            holdout_hours=holdout_hours,
            known_at=known,
        )
        if self._drawn is not None and self._drawn.update_id == update_id:
            drawn = self._drawn
            fresh = slide(count=count - len(drawn.rows))
        else:
            last = as_of - holdout_hours * self._hour - 2 * self._horizon
            self._settle(last, seed)
            rows, weight = self._table.draw(round(ratio * count), last=last, seed=seed)
            fresh = slide(count=count - len(rows))
            drawn = Drawn(update_id, rows, weight, Offer.of(fresh, self._schema))
            self._write(records.drawn_record(drawn))
            self._drawn = drawn
        past = np.ones(len(drawn.rows), np.bool_)
        old = replace(self._table.windows(drawn.rows), weight=drawn.weight, replayed=past)
        return RawWindows.concat([fresh, self._masked(old, known)])

    def report(self, update_id: str, losses: FloatArray | None) -> None:
        """The loss [N] of each window of an update, in the order drawn; NaN where not measured.

        Once for each update: a repeated report, and one of an update that is not the last one
        drawn, change nothing. Raises ValueError for another number of windows.
        """
        drawn = self._drawn
        if (
            losses is None
            or drawn is None
            or drawn.update_id != update_id
            or drawn.losses is not None
        ):
            return
        losses = np.asarray(losses, np.float32)
        expected = len(drawn.fresh) + len(drawn.rows)
        if losses.shape != (expected,):
            raise ValueError(f"{update_id}: losses {losses.shape} for {expected} windows")
        self._write(records.losses_record(update_id, losses))
        self._drawn = replace(drawn, losses=losses)

    def close(self) -> None:
        """Make the log durable and let go of it."""
        if self._log is not None:
            self._log.close()

    def _masked(self, windows: RawWindows, known_at: int) -> RawWindows:
        """The same windows without the labels that were known to be masked at a slot."""
        book = self._buffer.events
        if book.masker(known_at) is None:
            return windows
        labels = windows.origin[:, None] + np.arange(1, self._horizon + 1)
        slots, at = np.unique(labels, return_inverse=True)
        # Roles are the windows' own: the table outlives servers that gave way to others.
        masked = book.mask(windows.servers, slots, known_at, roles=windows.roles)
        hidden = np.take_along_axis(masked, at.reshape(labels.shape), axis=1)
        values = windows.values.copy()
        values[:, windows.context :][hidden] = np.nan
        return replace(windows, values=values)

    def _settle(self, last: int, seed: int) -> None:
        """Let the table learn what became of the update before, and of the hours since."""
        steady = self._steady_sample(last, seed)
        if steady is None and self._drawn is None:
            return
        to = self._hours_to if steady is None else steady[1]
        offer = None if steady is None else steady[0]
        self._write(records.settle_record(offer, to, seed))
        self._apply_settle(offer, to, seed)
        self._compact_if_due()

    def _apply_settle(self, steady: Offer | None, hours_to: int | None, seed: int) -> None:
        if (drawn := self._drawn) is not None:
            losses, fresh = drawn.losses, len(drawn.fresh)
            if losses is not None:
                self._table.refresh(drawn.rows, losses[fresh:])
            self._table.insert(
                drawn.fresh, losses=None if losses is None else losses[:fresh], seed=seed
            )
            self._drawn = None
        if steady is not None:
            self._table.insert(steady, losses=None, seed=seed + 1)
        self._hours_to = hours_to

    def _steady_sample(self, last: int, seed: int) -> tuple[Offer, int] | None:
        """So many windows of each full hour up to `last` that was not sampled yet, oldest first."""
        first = self._buffer.status().first_slot
        if first is None:
            return None
        begin = max(first // self._hour, last // self._hour - self._history) * self._hour
        if self._hours_to is not None:
            begin = max(begin, self._hours_to + 1)
        ends = range(begin + self._hour - 1, last + 1, self._hour)[:_HOURS_AT_ONCE]
        if not ends:
            return None
        parts = [
            self._buffer.draw(
                as_of=end + 2 * self._horizon,
                hours=1,
                count=self._steady,
                seed=seed + end,
                holdout_hours=0,
            )
            for end in ends
        ]
        return Offer.of(RawWindows.concat(parts), self._schema), ends[-1]

    def _write(self, record: Record) -> None:
        if self._log is None:
            return
        if self._log.stopped:  # nobody knows what is on disk of the last record: all is kept anew
            self._log.compact(self._dump())
        self._log.append(record)

    def _compact_if_due(self) -> None:
        if self._log is None or self._log.nbytes < max(self._snapshot_every, self._stored_bytes()):
            return
        try:
            self._log.compact(self._dump())
        except StateError as error:
            log.error("the replay log grows: %s", error, extra={"log_bytes": self._log.nbytes})

    def _stored_bytes(self) -> int:
        """About what a snapshot takes now: a log shorter than that is not worth one."""
        return self._table.nbytes * len(self._table) // self._capacity

    def _dump(self) -> Iterator[Record]:
        yield from records.dump(self._table, self._kind, {"hours_to": self._hours_to})
        if (drawn := self._drawn) is not None:
            yield records.drawn_record(drawn)
            if drawn.losses is not None:
                yield records.losses_record(drawn.update_id, drawn.losses)

    def _restore(self, stored: SegmentLog) -> None:
        """Take over the snapshot, then all that was logged after it, as it was decided then."""
        for then, record in records.stored(stored):
            if not records.fits(then, self._kind):
                log.warning("the replay table held windows of another kind: it begins anew")
                self._hours_to, self._drawn = None, None
                self._table = self._table.emptied()
                return stored.compact(self._dump())
            if then["capacity"] != self._table.capacity:
                self._table = self._table.resized(then["capacity"])
            self._apply(records.brought(record, then, self._kind))
        if self._table.capacity != self._capacity:
            if self._capacity < len(self._table):
                self._drawn = None  # its windows may be among those that go
            self._table = self._table.resized(self._capacity)
            stored.compact(self._dump())
        return None

    def _apply(self, record: Record) -> None:
        header, arrays = record.header, record.arrays
        what = header["what"]
        if what == "table":
            self._table.load(header["table"], arrays)
            self._hours_to = header["hours_to"]
        elif what == "windows":
            halves = records.halves_of(arrays)
            self._table.kept(slice(header["begin"], header["begin"] + len(halves))).fill(halves)
        elif what == "settle":
            owners = header["owners"]
            steady = None if owners is None else records.offer_of(owners, arrays)
            self._apply_settle(steady, header["hours_to"], header["seed"])
        elif what == "drawn":
            fresh = records.offer_of(header["owners"], arrays)
            self._drawn = Drawn(header["update_id"], arrays["rows"], arrays["weight"], fresh)
        elif self._drawn is not None:
            self._drawn = replace(self._drawn, losses=arrays["losses"])
