"""A dump: every quantile that was issued, and every actual, as parquet that any tool can read.

`FILE` has one row per quantile:

    server, target, member   text
    version                  of the member's model; null for a member that is no version
    revision                 the snapshot's, which is the slot it was issued at
    origin, slot, horizon    slot = origin + horizon, in steps since 1970
    level, value             the quantile, in the target's unit; NaN where none was issued

`FILE.actuals` has `slot, server, target, value` for what was observed, gaps left out. Both are
written in row groups as the replay goes on. From the two of them every figure can be made again.

S servers, H horizon, T targets, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forecast.record import ForecastBlock

_TEXT = pa.dictionary(pa.int32(), pa.string())
_FORECASTS = pa.schema(
    [
        ("server", _TEXT),
        ("target", _TEXT),
        ("member", _TEXT),
        ("version", pa.int32()),
        ("revision", pa.int64()),
        ("origin", pa.int64()),
        ("slot", pa.int64()),
        ("horizon", pa.int16()),
        ("level", pa.float32()),
        ("value", pa.float32()),
    ]
)
_ACTUALS = pa.schema(
    [("slot", pa.int64()), ("server", _TEXT), ("target", _TEXT), ("value", pa.float32())]
)
_GROUP_ROWS = 1 << 20


def actuals_path(path: Path) -> Path:
    """Where the actuals of a dump lie: `x.parquet` has them in `x.actuals.parquet`."""
    return path.with_name(f"{path.stem}.actuals{path.suffix}")


class Dump:
    """Writes forecasts and actuals to `path` and beside it; `close` ends the files.

    `every` keeps only the origins that it divides. A file that was there is replaced.
    """

    def __init__(self, path: Path, *, targets: Sequence[str], every: int = 1) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._targets, self._every = tuple(targets), every
        self._forecasts = _Rows(path, _FORECASTS)
        self._actuals = _Rows(actuals_path(path), _ACTUALS)

    def close(self) -> None:
        """Write what is left and end both files."""
        self._forecasts.close()
        self._actuals.close()

    def issued(self, blocks: Sequence[ForecastBlock]) -> None:
        """The blocks of one slot, as issued."""
        for block in blocks:
            if block.slot % self._every == 0:
                self._forecasts.add(_columns(block), block.values.size)

    def scored(self, slot: int, servers: Sequence[str], actuals_ST: NDArray[np.float32]) -> None:
        """What was observed in a slot."""
        seen = np.isfinite(actuals_ST)
        server, target = np.nonzero(seen)
        columns = [
            pa.array(np.full(len(server), slot, np.int64)),
            _text(server, servers),
            _text(target, self._targets),
            pa.array(actuals_ST[seen].astype(np.float32)),
        ]
        self._actuals.add(columns, len(server))


class _Rows:
    """One parquet file that grows by whole row groups."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        texts = [field.name for field in schema if field.type == _TEXT]
        # Numbers of a float32 forecast hardly repeat: a dictionary of them would only cost.
        plain = [field.name for field in schema if field.name not in ("value",)]
        self._schema, self._texts = schema, texts
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=plain)
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, columns: list[Any], rows: int) -> None:
        """Keep some rows, and write a group when there are enough for one."""
        self._waiting.append(pa.table(columns, schema=self._schema))
        self._rows += rows
        if self._rows >= _GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left and end the file."""
        if self._waiting:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting).unify_dictionaries()
        self._writer.write_table(table, row_group_size=self._rows)
        self._waiting, self._rows = [], 0


def _columns(block: ForecastBlock) -> list[Any]:
    """The columns of a block's values [S, H, T, Q], row by row."""
    shape = block.values.shape
    server, step, target, level = (at.reshape(-1) for at in np.indices(shape, dtype=np.int32))
    count = block.values.size
    levels = np.asarray(block.levels, np.float32)
    return [
        _text(server, block.servers),
        _text(target, block.targets),
        _text(np.zeros(count, np.int32), [block.member]),
        pa.nulls(count, pa.int32())
        if block.version is None
        else pa.array(np.full(count, block.version, np.int32)),
        pa.array(np.full(count, block.slot, np.int64)),
        pa.array(np.full(count, block.slot, np.int64)),
        pa.array(block.slot + 1 + step.astype(np.int64)),
        pa.array((step + 1).astype(np.int16)),
        pa.array(levels[level]),
        pa.array(block.values.reshape(-1)),
    ]


def _text(index: NDArray[Any], names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(
        pa.array(index.astype(np.int32)), pa.array(list(names), pa.string())
    )
