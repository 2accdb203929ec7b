"""Taking samples in: which ones are refused, what the others do to the grid, the clock, the roster.

`Intake` is the state that a log record changes and that a snapshot holds. `decide` only looks;
`apply` is the one way state changes, for a new request as for one read back from the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.clock import EventClock
from forecast.schema import Reject, SampleBlock, Schema
from train.grid import Grid
from train.refusals import Refusals
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
        slots, refusals = block.time_ms // self.rules.step_ms, Refusals(block)
        columns = self._columns(block)
        if (columns < 0).any():  # made under another schema
            known = ", ".join(self.schema.names)
            refusals.refuse(columns[block.metric_index] < 0, "unknown_metric", f"known are {known}")
        if self.clock.slot is not None:
            oldest = self.clock.slot - self.history + 1
            refusals.refuse(
                slots < oldest, "too_old", f"lies before slot {oldest}, the oldest kept"
            )
        self._decide_servers(block, slots, refusals)
        return refusals.kept(), refusals.rejects()

    def _decide_servers(self, block: SampleBlock, slots: IntArray, refusals: Refusals) -> None:
        """Refuse what belongs to an earlier life, and the servers for which there is no room."""
        rows, left = self.roster.rows_or_none(block.servers), refusals.servers_left()
        retired = self.roster.retired(self.clock.slot)
        reborn = self._reborn(block, retired)
        ended = np.full(len(rows), np.iinfo(np.int64).min)
        known = left & (rows >= 0)
        ended[known] = self.roster.floor[rows[known]]
        for at in reborn:
            ended[at] = self.roster.last[rows[at]]
        ended[~left] = np.iinfo(np.int64).min
        earlier = slots <= ended[block.server_index]
        for at in np.unique(block.server_index[earlier]):
            detail = f"belongs to an earlier life of server {block.servers[at]!r}"
            refusals.refuse(earlier & (block.server_index == at), "too_old", detail)
        new = np.flatnonzero(left & (rows < 0))
        if new.size:
            for at in new[self.roster.room(block.servers, retired) :]:
                detail = f"no room for server {block.servers[at]!r}"
                refusals.refuse(block.server_index == at, "too_many_servers", detail)

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
        series = rows * len(self.schema.metrics) + self._columns(block)[block.metric_index]
        samples = Samples(series, block.time_ms, block.value)
        edges = self._edges()
        inside = slots > edges[rows]
        repeated = 0
        if inside.any():
            folded, repeated = self.raw.add(samples.select(inside), edges=edges)
            self._write(folded, only_gaps=False)
        if not inside.all():
            folded = self.rules.fold(no_samples().together(samples.select(~inside)))
            taken = self._write(folded, only_gaps=True)
            repeated += int((~inside).sum()) - int(folded.count[taken].sum())
        self.roster.hear(rows, slots)
        first, last = np.zeros((2, len(edges)), dtype=np.int64)
        first[rows] = last[rows] = slots
        np.minimum.at(first, rows, slots)
        np.maximum.at(last, rows, slots)
        heard = np.flatnonzero(np.bincount(rows))
        self.spread.changed(heard, first[heard], last[heard])
        return repeated

    def _columns(self, block: SampleBlock) -> IntArray:
        """Today's column of each of the block's metrics; -1 for one that is not known."""
        columns = {name: column for column, name in enumerate(self.schema.names)}
        return np.array([columns.get(name, -1) for name in block.metrics], dtype=np.int64)

    def _rows(self, block: SampleBlock) -> IntArray:
        """Grid row of each of the block's servers, giving rows and lives to those that need one."""
        rows, spoke = (
            self.roster.rows_or_none(block.servers),
            np.zeros(len(block.servers), np.bool_),
        )
        spoke[block.server_index] = True
        retired = self.roster.retired(self.clock.slot)
        reborn = self._reborn(block, retired)
        new = np.flatnonzero(spoke & (rows < 0)).tolist()
        self.roster.expect(len(new))
        for at in sorted([*new, *reborn]):
            name = block.servers[at]
            if at in reborn:
                rows[at] = self.roster.rebirth(name)
            else:
                rows[at] = self.roster.admit(name, retired=retired, spare=block.servers)
        self._clear(*(int(rows[at]) for at in [*new, *reborn]))
        for at, info in enumerate(block.infos):
            if info is not None and spoke[at]:
                self.roster.describe(block.servers[at], info)
        return rows

    def _reborn(self, block: SampleBlock, retired: Mapping[str, int]) -> set[int]:
        """Retired servers, by their place in the block, that speak again.

        One that sends what it had missed to send does not: it goes on with its life.
        """
        places: set[int] = set()
        if not retired:
            return places
        slots = block.time_ms // self.rules.step_ms
        for at, name in enumerate(block.servers):
            if (last := retired.get(name)) is not None:
                again = slots[(block.server_index == at) & (slots > last)]
                if again.size and self.roster.is_gone(last, int(again.min()) - 1):
                    places.add(at)
        return places

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
        names = self.roster.unheard_since(self.clock.slot - self.history + 1)
        self._clear(*(self.roster.forget(name) for name in names))

    def _clear(self, *rows: int) -> None:
        """Drop what is kept beside the grid of rows that change hands."""
        if rows:
            self.raw.forget(*rows)
        for row in rows:
            self.spread.forget(row)
