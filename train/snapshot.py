"""The intake's state as log records, and back under the schema of today.

Records name servers and metrics. On the way back a metric that was added is a column of gaps, one
that was removed is left out, one that was renamed by an alias keeps its history; a metric whose
unit or kind changed counts as removed and added, for its old values mean something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.errors import StateError
from forecast.schema import Reject, SampleBlock, Schema, ServerInfo
from train.grid import EMPTY
from train.intake import Intake
from train.segments import Record
from train.slots import RawSamples, Samples, no_samples

IntArray = NDArray[np.int64]

_ROWS_AT_A_TIME = 32
"""Server rows per record, so that a large grid is never in memory twice."""


def about(schema: Schema) -> dict[str, Any]:
    """What a segment or a snapshot says of the data in it."""
    return {
        "panel": schema.panel,
        "step_seconds": schema.step_seconds,
        "metrics": [[metric.name, metric.unit, metric.kind] for metric in schema.metrics],
    }


def columns_today(stored: Mapping[str, Any], schema: Schema) -> IntArray:
    """Today's column of each stored metric; -1 for one that is no more.

    Raises StateError when the data belong to another panel or step.
    """
    for key, today in (("panel", schema.panel), ("step_seconds", schema.step_seconds)):
        if stored[key] != today:
            raise StateError(
                f"the buffer holds data with {key} {stored[key]!r}, the config says {today!r}: "
                "use another panel name"
            )
    columns = schema.columns()
    found = []
    for name, unit, kind in stored["metrics"]:
        column = columns.get(name, -1)
        metric = schema.metrics[column]
        same = column >= 0 and (metric.unit, metric.kind) == (unit, kind)
        found.append(column if same else -1)
    return np.array(found, dtype=np.int64)


def sample_record(request_id: str, block: SampleBlock, rejected: Sequence[Reject]) -> Record:
    """One request as it is logged: what was accepted, and the answer about the rest."""
    header = {
        "request_id": request_id,
        "servers": list(block.servers),
        "infos": [info and [info.role, info.timezone] for info in block.infos],
        "metrics": list(block.metrics),
        "rejected": [[r.index, r.reason, r.detail, r.metric] for r in rejected],
    }
    arrays: dict[str, NDArray[Any]] = {
        "server": block.server_index.astype(np.int32),
        "metric": block.metric_index.astype(np.int32),
        "time_ms": block.time_ms,
        "value": block.value,
    }
    return Record(header, arrays)


def samples_of(
    record: Record, stored: Mapping[str, Any], schema: Schema
) -> tuple[str, SampleBlock, tuple[Reject, ...]]:
    """Request id, samples and rejects of a logged request, under today's schema."""
    header, arrays = record.header, record.arrays
    names = [name for name, *_ in stored["metrics"]]
    today = dict(zip(names, columns_today(stored, schema), strict=True))
    # A name that even then was not known has no samples here: they were refused.
    by_index = np.array([today.get(name, -1) for name in header["metrics"]], dtype=np.int64)
    column = by_index[arrays["metric"]]
    kept = column >= 0
    block = SampleBlock(
        servers=tuple(header["servers"]),
        infos=tuple(info and ServerInfo(*info) for info in header["infos"]),
        metrics=schema.names,
        server_index=arrays["server"][kept],
        metric_index=column[kept].astype(np.int16),
        time_ms=arrays["time_ms"][kept],
        value=arrays["value"][kept],
    )
    return header["request_id"], block, tuple(Reject(*reject) for reject in header["rejected"])


def dump(intake: Intake, more: Mapping[str, Any]) -> Iterator[Record]:
    """The state as records: one for everything but the grid, then the grid by server rows."""
    kept = intake.raw.kept
    yield Record(
        {
            "about": about(intake.schema),
            "clock": intake.clock.to_json(),
            "servers": intake.roster.to_json(),
            "late": intake.late,
            "more": dict(more),
        },
        {
            "heard": intake.grid.heard,
            "series": kept.series,
            "time_ms": kept.time_ms,
            "value": kept.value,
        },
    )
    for begin in range(0, intake.grid.capacity, _ROWS_AT_A_TIME):
        part = slice(begin, begin + _ROWS_AT_A_TIME)
        arrays: dict[str, NDArray[Any]] = {
            "slots": intake.grid.held(part),
            "values": intake.grid.values[part],
        }
        yield Record({"begin": begin}, arrays)


def load(records: Iterator[Record], intake: Intake) -> Mapping[str, Any] | None:
    """Put a dumped state into a fresh intake; what `dump` was given beside it.

    None when there are no records.
    """
    first = next(records, None)
    if first is None:
        return None
    columns = columns_today(first.header["about"], intake.schema)
    intake.clock.restore(first.header["clock"])
    intake.late = first.header["late"]
    intake.roster.restore(first.header["servers"])
    heard = first.arrays["heard"]
    heard = heard[heard != EMPTY]
    np.maximum.at(intake.grid.heard, heard % intake.grid.ring, heard)
    row, column = np.divmod(first.arrays["series"], len(columns))
    kept = columns[column] >= 0
    series = row * len(intake.schema.metrics) + columns[column]
    stored = Samples(series, first.arrays["time_ms"], first.arrays["value"]).select(kept)
    intake.raw = RawSamples(intake.rules, no_samples().together(stored))
    names = [name for name, *_ in first.header["about"]["metrics"]]
    # A column under its own name comes last: it goes before one that has become its alias.
    order = sorted(range(len(names)), key=lambda at: names[at] in intake.schema.names)
    for record in records:
        for offset, (slots, values) in enumerate(
            zip(record.arrays["slots"], record.arrays["values"], strict=True)
        ):
            _put_row(intake, record.header["begin"] + offset, slots, values, columns, order)
    more: Mapping[str, Any] = first.header["more"]
    return more


def _put_row(
    intake: Intake,
    row: int,
    slots: IntArray,
    values: NDArray[np.float32],
    columns: IntArray,
    order: Sequence[int],
) -> None:
    """One server's ring, which may have another length now."""
    if row >= intake.grid.capacity:
        return  # beyond the last server's row
    grid = intake.grid
    held = np.flatnonzero(slots != EMPTY)
    places, latest = grid.claim(np.full(len(held), row), slots[held])
    held, cells = held[latest], places[latest] - row * grid.ring
    for old in order:
        if (new := columns[old]) >= 0:
            stored = values[held, old]
            there = grid.values[row, cells, new]
            grid.values[row, cells, new] = np.where(np.isnan(stored), there, stored)
