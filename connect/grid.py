"""A fleet as one array: what a file holds, laid out by slot, so that it can be changed as a whole.

W slots, S servers, M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from connect.files import FileSource
from connect.wire import Row, head, wire_rows
from forecast.schema import Reject, SampleBlock, Schema, ServerInfo, sample_bounds, validate_rows

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class GridSource:
    """One value per slot, server and metric, sampled at the begin of its slot.

    `values` float32 [W, S, M] from `first_slot` on, NaN where there is a gap. Raises ValueError
    when its shape does not fit the names.
    """

    schema: Schema
    servers: tuple[str, ...]
    infos: tuple[ServerInfo, ...]
    first_slot: int
    values: FloatArray

    def __post_init__(self) -> None:
        named = (len(self.servers), len(self.schema.metrics))
        if self.values.shape[1:] != named or len(self.infos) != len(self.servers):
            raise ValueError(
                f"values are {self.values.shape}, need [slots, servers, metrics] {named}"
            )

    @classmethod
    def of(cls, source: FileSource) -> Self:
        """A file's fleet; a slot with several samples has their mean."""
        slots = source.time_ms // (source.schema.step_seconds * 1000) - source.first_slot
        shape = (int(slots[-1]) + 1, len(source.servers), len(source.schema.metrics))
        sums, counts = np.zeros(shape), np.zeros(shape, np.int32)
        known = np.isfinite(source.values)
        at = (slots, source.server_index)
        np.add.at(sums, at, np.where(known, source.values, 0.0))
        np.add.at(counts, at, known)
        values = np.full(shape, np.nan, np.float32)
        np.divide(sums, counts, out=values, where=counts > 0, casting="same_kind")
        return cls(source.schema, source.servers, source.infos, source.first_slot, values)

    @property
    def last_slot(self) -> int:
        """The last slot there is."""
        return self.first_slot + len(self.values) - 1

    def rows_by_slot(self, from_slot: int, to_slot: int) -> Iterator[tuple[int, list[Row]]]:
        """(slot, its wire rows) for each slot of [from_slot, to_slot), in order."""
        step = self.schema.step_seconds
        for slot in range(from_slot, to_slot):
            inside = self.first_slot <= slot <= self.last_slot
            values = self.values[slot - self.first_slot] if inside else self.values[0] * np.nan
            seconds = [slot * step] * len(self.servers)
            yield slot, wire_rows(self._heads, seconds, self.schema.names, values)

    def samples(
        self, from_slot: int, to_slot: int, schema: Schema
    ) -> tuple[SampleBlock, Sequence[Reject]] | None:
        """What `validate_rows` makes of these slots' wire rows, without making the rows.

        None where it has to be asked: something would be refused, or the metrics are others.
        """
        first = max(from_slot, self.first_slot)
        values_WSM = self.values[first - self.first_slot : max(to_slot - self.first_slot, 0)]
        seen = ~np.isnan(values_WSM)
        if schema != self.schema or not self._welcome or not seen.any():
            return None
        lower, upper = sample_bounds(schema.metrics)
        outside = (values_WSM < lower) | (values_WSM > upper) | np.isinf(values_WSM)
        if outside.any():
            return None
        slot, server, metric = np.nonzero(seen)
        spoke = seen.any(axis=2).reshape(-1)
        row = np.cumsum(spoke) - 1
        # Servers are numbered by their first row.
        met, first_at = np.unique(server, return_index=True)
        order = met[np.argsort(first_at, kind="stable")]
        place = np.empty(len(self.servers), np.int32)
        place[order] = np.arange(len(order))
        infos = [self.infos[at] for at in order]
        block = SampleBlock(
            servers=tuple(self.servers[at] for at in order),
            infos=tuple(info if _says(info) else None for info in infos),
            metrics=schema.names,
            server_index=place[server],
            metric_index=metric.astype(np.int16),
            time_ms=(first + slot) * (schema.step_seconds * 1000),
            value=values_WSM[seen].astype(np.float64),
            row_index=row[slot * len(self.servers) + server].astype(np.int32),
        )
        return block, ()

    @cached_property
    def _heads(self) -> list[Row]:
        return [
            head(name, role=info.role, timezone=info.timezone)
            for name, info in zip(self.servers, self.infos, strict=True)
        ]

    @cached_property
    def _welcome(self) -> bool:
        """Whether no server's row is refused for what it says of the server."""
        rows: list[dict[str, Any]] = [
            {**said, "timestamp": 0, "metrics": {}} for said in self._heads
        ]
        _, rejects = validate_rows(rows, self.schema, now_ms=0, max_clock_skew_ms=0)
        return not rejects


def _says(info: ServerInfo) -> bool:
    return bool(info.role or info.timezone)
