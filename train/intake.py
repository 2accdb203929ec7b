"""Taking samples in: which ones are refused, what the others do to the grid, the clock, the roster.

`Intake` is the state that a log record changes and that a snapshot holds. `decide` only looks;
`apply` is the one way state changes, for a new request as for one read back from the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.clock import EventClock
from forecast.schema import Reject, SampleBlock, Schema
from train.grid import Grid
from train.roster import Roster
from train.slots import Folded, RawSamples, Samples, SlotRules, no_samples
from train.spread import Spread

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class AppendReport:
    """What became of one request."""

    accepted: int
    """Samples taken in, late and repeated ones included."""
    late: int
    """Of these, how many were for a slot that was closed: stored, never scored again."""
    repeated: int
    """Of these, how many told nothing new: their time, or for old ones their slot, was known."""
    rejected: tuple[Reject, ...]
    clock_slot: int | None
    closed_slot: int | None

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The report that `to_json` wrote."""
        rejected = tuple(Reject(**reject) for reject in data["rejected"])
        return cls(**{**data, "rejected": rejected})


class Intake:
    """Grid, roster, clock and raw samples of one panel, moved on by blocks of samples."""

    def __init__(
        self,
        *,
        schema: Schema,
        history: int,
        context: int,
        max_servers: int,
        allowed_lateness_s: int,
        out_of_order_s: int,
    ) -> None:
        self.schema = schema
        self.history = history
        step_s = schema.step_seconds
        self._out_of_order = -(-out_of_order_s // step_s)
        self.clock = EventClock(step_seconds=step_s, allowed_lateness_s=allowed_lateness_s)
        self.rules = SlotRules(schema.metrics, step_ms=step_s * 1000)
        # A day more than the history: what a read of yesterday sees must not depend on today.
        day = -(-86_400 // step_s)
        self.grid = Grid(ring=history + day, metrics=len(schema.metrics))
        self.roster = Roster(
            self.grid, step_seconds=step_s, context=context, max_servers=max_servers
        )
        self.spread = Spread(self.grid, schema.metrics, step_seconds=step_s, history=history)
        self.raw = RawSamples(self.rules)
        self.late = 0

    def decide(self, block: SampleBlock) -> tuple[SampleBlock, tuple[Reject, ...]]:
        """What of a block can be kept, and why the rest cannot: too old, or too many servers."""
        slots = block.time_ms // self.rules.step_ms
        refused = np.full(len(block), "", dtype=object)
        detail = np.full(len(block), "", dtype=object)
        unknown = np.array([name not in self.schema.names for name in block.metrics])
        if unknown.any():  # made under another schema
            refused[unknown[block.metric_index]] = "unknown_metric"
            detail[unknown[block.metric_index]] = f"known are {', '.join(self.schema.names)}"
        clock, history = self.clock.slot, self.history
        if clock is not None:
            old = slots <= clock - history
            refused[old] = "too_old"
            detail[old] = f"lies before slot {clock - history + 1}, the oldest kept"
        room = self.roster.room(block.servers, self.roster.retired(clock))
        reborn = self._reborn(block)
        for at in np.unique(block.server_index[refused == ""]):
            name, of_server = block.servers[at], block.server_index == at
            row = self.roster.row(name)
            if row is None:
                room -= 1
                if room < 0:
                    refused[of_server] = "too_many_servers"
                    detail[of_server] = f"no room for server {name!r}"
                continue
            ended = int(self.roster.last[row] if name in reborn else self.roster.floor[row])
            earlier = of_server & (slots <= ended)
            refused[earlier] = "too_old"
            detail[earlier] = f"belongs to an earlier life of server {name!r}"
        return _kept(block, refused == ""), _rejects(block, refused, detail)

    def apply(self, block: SampleBlock, rejected: tuple[Reject, ...]) -> AppendReport:
        """Take in a block of which nothing is refused any more."""
        slots = block.time_ms // self.rules.step_ms
        closed = self.clock.closed_slot
        late = 0 if closed is None else int((slots <= closed).sum())
        repeated = self._store(block, slots) if len(block) else 0
        if self.clock.observe(self.roster.last_slots()):
            self._let_go()
        self.raw.trim(self._edges())
        self.late += late
        return AppendReport(
            accepted=len(block),
            late=late,
            repeated=repeated,
            rejected=rejected,
            clock_slot=self.clock.slot,
            closed_slot=self.clock.closed_slot,
        )

    def _store(self, block: SampleBlock, slots: IntArray) -> int:
        """Put a block into raw samples, grid and roster; how many samples told nothing new."""
        rows = self._rows(block)[block.server_index]
        columns = {name: column for column, name in enumerate(self.schema.names)}
        by_index = np.array([columns.get(name, -1) for name in block.metrics], dtype=np.int64)
        series = rows * len(self.schema.metrics) + by_index[block.metric_index]
        samples = Samples(series, block.time_ms, block.value)
        edges = self._edges()
        inside = slots > edges[rows]
        folded, repeated = self.raw.add(samples.select(inside), edges=edges)
        self._write(folded, only_gaps=False)
        if not inside.all():
            folded = self.rules.fold(no_samples().together(samples.select(~inside)))
            taken = self._write(folded, only_gaps=True)
            repeated += int((~inside).sum()) - int(folded.count[taken].sum())
        self.roster.hear(rows, slots)
        for row in np.unique(rows):
            heard = slots[rows == row]
            self.spread.changed(int(row), int(heard.min()), int(heard.max()))
        return repeated

    def _rows(self, block: SampleBlock) -> IntArray:
        """Grid row of each of the block's servers, giving rows and lives to those that need one."""
        retired, reborn = self.roster.retired(self.clock.slot), self._reborn(block)
        rows = np.full(len(block.servers), -1, dtype=np.int64)
        for at in np.unique(block.server_index):
            name, info = block.servers[at], block.infos[at]
            row = self.roster.row(name)
            if row is None:
                row = self.roster.admit(name, retired=retired, spare=block.servers)
                self._clear(row)
            elif name in reborn:
                self.roster.rebirth(name)
                self._clear(row)
            if info is not None:
                self.roster.describe(name, info)
            rows[at] = row
        return rows

    def _reborn(self, block: SampleBlock) -> set[str]:
        """Retired names that speak again, and not by sending what they had missed to send."""
        names = set()
        slots = block.time_ms // self.rules.step_ms
        for name, last in self.roster.retired(self.clock.slot).items():
            if name in block.servers:
                again = slots[(block.server_index == block.servers.index(name)) & (slots > last)]
                if again.size and self.roster.is_gone(last, int(again.min()) - 1):
                    names.add(name)
        return names

    def _write(self, folded: Folded, *, only_gaps: bool) -> BoolArray:
        rows, columns = np.divmod(folded.series, len(self.schema.metrics))
        return self.grid.write(rows, folded.slot, columns, folded.value, only_gaps=only_gaps)

    def _edges(self) -> IntArray:
        """By row, the last slot before the out-of-order window.

        The window ends at the clock, or at the server's own last slot where that is earlier: so a
        server that is loaded or resent after the others is folded as they were.
        """
        lasts = self.roster.last
        clock = self.clock.slot
        reached = lasts if clock is None else np.minimum(lasts, clock)
        edges: IntArray = reached - self._out_of_order
        return edges

    def _let_go(self) -> None:
        """Forget the servers of which nothing is kept any more."""
        assert self.clock.slot is not None
        for name in self.roster.unheard_since(self.clock.slot - self.history + 1):
            self._clear(self.roster.forget(name))

    def _clear(self, row: int) -> None:
        """Drop what is kept beside the grid of a row that changes hands."""
        self.raw.forget(row)
        self.spread.forget(row)


def _kept(block: SampleBlock, kept: BoolArray) -> SampleBlock:
    if kept.all():
        return block
    row_index = None if block.row_index is None else block.row_index[kept]
    return replace(
        block,
        server_index=block.server_index[kept],
        metric_index=block.metric_index[kept],
        time_ms=block.time_ms[kept],
        value=block.value[kept],
        row_index=row_index,
    )


def _rejects(
    block: SampleBlock, refused: NDArray[np.object_], detail: NDArray[np.object_]
) -> tuple[Reject, ...]:
    """One reject for each sample, or for each row and reason where the block knows its rows."""
    found: dict[tuple[int, str, str | None], Reject] = {}
    for at in np.flatnonzero(refused != ""):
        index = int(at if block.row_index is None else block.row_index[at])
        # Time and server are the row's, and refuse it whole; a metric is refused by itself.
        whole = block.row_index is not None and refused[at] != "unknown_metric"
        metric = None if whole else block.metrics[block.metric_index[at]]
        reject = Reject(index, refused[at], detail[at], metric)
        found.setdefault((index, reject.reason, metric), reject)
    return tuple(sorted(found.values(), key=lambda reject: reject.index))
