"""What the replay table logs, as records, and back under the schema of today.

    settle   the steady sample of new hours, and up to which hour it goes
    drawn    what an update was given: rows of the table, and the windows beside them
    losses   what that update reported
    table    a snapshot: all but the windows; then `windows`, so many rows at a time

As in the buffer's log a metric that was added is a gap in old windows and one that was removed, or
is now of another unit, kind or transform, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.schema import Schema
from train.halves import GAP, Halves
from train.offer import Offer
from train.replay import ReplayTable
from train.segments import Record, SegmentLog

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
About = Mapping[str, Any]

_ROWS_AT_A_TIME = 4096
_HALVES = ("codes", "center", "scale", "spread", "origin")
_OFFER = ("owner", "phase", "level")
_GAPS = {"codes": GAP, "center": 0.0, "scale": 1.0, "spread": np.nan}
"""What a metric that old windows lack reads as."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What an update was given, until the next update settles it."""

    update_id: str
    rows: IntArray
    """Of the table."""
    weight: FloatArray
    fresh: Offer
    """The windows that came from the sliding window; they stand before the table's."""
    losses: FloatArray | None = None
    """[N] of all of them, in this order, once reported."""


def about(schema: Schema, *, context: int, horizon: int, capacity: int) -> dict[str, Any]:
    """What a segment or snapshot says of the windows in it."""
    return {
        "panel": schema.panel,
        "step_seconds": schema.step_seconds,
        "context": context,
        "horizon": horizon,
        "capacity": capacity,
        "metrics": [[one.name, one.unit, one.kind, one.transform] for one in schema.metrics],
    }


def fits(stored: About, today: About) -> bool:
    """Whether windows stored then can be read by a network of today."""
    names = ("panel", "step_seconds", "context", "horizon")
    return all(stored[name] == today[name] for name in names)


def settle_record(steady: Offer | None, hours_to: int | None, seed: int) -> Record:
    """New hours' windows; None where there was only an update to settle."""
    owners = None if steady is None else [list(owner) for owner in steady.owners]
    header = {"what": "settle", "owners": owners, "hours_to": hours_to, "seed": seed}
    return Record(header, {} if steady is None else _arrays(steady))


def drawn_record(drawn: Drawn) -> Record:
    """What an update was given."""
    owners = [list(owner) for owner in drawn.fresh.owners]
    header = {"what": "drawn", "update_id": drawn.update_id, "owners": owners}
    return Record(header, {**_arrays(drawn.fresh), "rows": drawn.rows, "weight": drawn.weight})


def losses_record(update_id: str, losses: FloatArray) -> Record:
    """What an update reported."""
    return Record({"what": "losses", "update_id": update_id}, {"losses": losses})


def dump(table: ReplayTable, kind: About, more: About) -> Iterator[Record]:
    """The whole table as records; `more` are JSON values that stand beside it."""
    header, arrays = table.dump()
    yield Record({"what": "table", "about": dict(kind), "table": header, **more}, arrays)
    for begin in range(0, len(table), _ROWS_AT_A_TIME):
        rows = slice(begin, min(begin + _ROWS_AT_A_TIME, len(table)))
        yield Record({"what": "windows", "begin": begin}, table.kept(rows).arrays())


def stored(log: SegmentLog) -> Iterator[tuple[About, Record]]:
    """Every record of snapshot and log, oldest first, each with what its windows are."""
    kind: About = {}
    for record in log.snapshot():
        kind = record.header.get("about", kind)
        yield kind, record
    yield from log.replay()


def brought(record: Record, stored: About, today: About) -> Record:
    """The record with a column for each metric of today."""
    then, now = stored["metrics"], today["metrics"]
    if "codes" not in record.arrays or then == now:
        return record
    columns = [then.index(one) if one in then else None for one in now]
    arrays = dict(record.arrays)
    for name, gap in _GAPS.items():
        old = record.arrays[name]
        made = np.full((*old.shape[:-1], len(columns)), gap, old.dtype)
        for new, column in enumerate(columns):
            if column is not None:
                made[..., new] = old[..., column]
        arrays[name] = made
    return Record(record.header, arrays)


def offer_of(owners: Iterable[Iterable[str]], arrays: Mapping[str, NDArray[Any]]) -> Offer:
    """The windows of a `settle` or `drawn` record."""
    whose = tuple((server, role, zone) for server, role, zone in owners)
    rest = {name: arrays[name] for name in _OFFER}
    return Offer(halves_of(arrays), whose, **rest)


def halves_of(arrays: Mapping[str, NDArray[Any]]) -> Halves:
    """The windows themselves, of any record that has some."""
    return Halves(**{name: arrays[name] for name in _HALVES})


def _arrays(offer: Offer) -> dict[str, NDArray[Any]]:
    rest: dict[str, NDArray[Any]] = {name: getattr(offer, name) for name in _OFFER}
    return {**offer.halves.arrays(), **rest}
