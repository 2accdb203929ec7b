"""A user's own file as a fleet: parquet or csv in, schema and wire rows out.

The file has one row per server and time: columns `server`, `timestamp` (or `date`) and one column
per metric; `role` and `timezone` are read when there. Without a `server` column the file is one
server named after it. `incident` holds labels for scoring and is never a metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from connect.infer import infer_metric
from connect.wire import Row, head, wire_rows
from forecast.errors import DataError
from forecast.schema import Schema, ServerInfo

_TIMES = ("timestamp", "date")
_NO_METRICS = ("server", *_TIMES, "role", "timezone", "incident")
_DAY_MS = 86_400_000
_SECONDS_BELOW = 1e11  # As seconds that is beyond the year 5000: larger numbers are milliseconds.


@dataclass(frozen=True, slots=True)
class FileSource:
    """The chosen servers and days of one file, in order of time.

    Slots are absolute: event time divided by the step. Nothing is changed on the way, but numbers
    that are not finite are gaps.
    """

    path: Path
    schema: Schema
    servers: tuple[str, ...]
    infos: tuple[ServerInfo, ...]
    left_out: tuple[str, ...]
    """Columns that could not be a metric: not numeric, or without a single number."""
    time_ms: NDArray[np.int64]
    """[rows], rising."""
    server_index: NDArray[np.int32]
    """[rows], into `servers`."""
    values: NDArray[np.floating[Any]]
    """[rows, metrics of the schema], NaN where there is a gap."""

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        targets: Sequence[str],
        servers: int | Sequence[str] | None = None,
        days: float | None = None,
        from_day: float = 0.0,
        step_seconds: int | None = None,
        timezone: str = "UTC",
        panel: str = "servers",
    ) -> FileSource:
        """Read a file and infer its schema; every column that is no target is a covariate.

        `servers` is how many to take at most (the first by name) or which; `days` and `from_day`
        count from the first time of those. `step_seconds` None is the most common distance of
        two samples. `timezone` is where servers are whose rows do not say. Times without an
        offset are UTC. Raises DataError naming the file and the column.
        """
        frame = _load(path)
        time_ms = _times(path, frame)
        index, names = _servers(path, frame, time_ms)
        rows = _chosen_rows(path, time_ms, index, _chosen(path, names, servers), from_day, days)
        kept, server_index = np.unique(index[rows], return_inverse=True)
        step = _step_seconds(path, time_ms[rows], server_index, step_seconds)
        picked = frame.iloc[rows]
        metrics, left_out = _metric_columns(path, picked, targets)
        values = np.stack([_numbers(picked[name]) for name in metrics], axis=1)
        return cls(
            path=path,
            schema=Schema(
                panel=panel,
                step_seconds=step,
                metrics=tuple(
                    infer_metric(name, column[np.isfinite(column)])
                    for name, column in zip(metrics, values.T, strict=True)
                ),
                targets=tuple(targets),
            ),
            servers=tuple(names[at] for at in kept),
            infos=_infos(path, picked, server_index, len(kept), timezone),
            left_out=left_out,
            time_ms=time_ms[rows],
            server_index=server_index.astype(np.int32),
            values=values,
        )

    @property
    def first_slot(self) -> int:
        """Slot of the first row."""
        return int(self.time_ms[0]) // (self.schema.step_seconds * 1000)

    @property
    def last_slot(self) -> int:
        """Slot of the last row."""
        return int(self.time_ms[-1]) // (self.schema.step_seconds * 1000)

    def rows(self, slot: int) -> list[Row]:
        """The wire rows of one slot; none when nothing was sampled in it."""
        [(_, rows)] = self.rows_by_slot(slot, slot + 1)
        return rows

    def rows_by_slot(self, from_slot: int, to_slot: int) -> Iterator[tuple[int, list[Row]]]:
        """(slot, its wire rows) for each slot of [from_slot, to_slot), in order."""
        heads = [
            head(name, role=info.role, timezone=info.timezone)
            for name, info in zip(self.servers, self.infos, strict=True)
        ]
        step_ms = self.schema.step_seconds * 1000
        slots = range(from_slot, to_slot)
        edges = np.searchsorted(self.time_ms, np.arange(from_slot, to_slot + 1) * step_ms).tolist()
        for slot, (first, end) in zip(slots, pairwise(edges), strict=True):
            spoke = [heads[at] for at in self.server_index[first:end].tolist()]
            seconds = [
                time // 1000 if time % 1000 == 0 else time / 1000
                for time in self.time_ms[first:end].tolist()
            ]
            yield slot, wire_rows(spoke, seconds, self.schema.names, self.values[first:end])


def _load(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            return pd.read_csv(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # what pyarrow and pandas raise for a broken file derives from it
        raise DataError(f"{path}: not a {path.suffix[1:]} file: {error}") from error
    raise DataError(f"{path}: only .parquet and .csv files can be read")


def _times(path: Path, frame: pd.DataFrame) -> NDArray[np.int64]:
    """Epoch milliseconds of each row."""
    name = next((name for name in _TIMES if name in frame.columns), None)
    if name is None:
        raise DataError(f"{path}: column 'timestamp' is missing; there are {list(frame.columns)}")
    column = frame[name]
    if pd.api.types.is_numeric_dtype(column):
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        scale = 1000 if np.all(np.abs(numbers) < _SECONDS_BELOW) else 1
        whole = pd.Series(np.round(numbers * scale))
        moments = pd.to_datetime(whole, unit="ms", utc=True, errors="coerce")
    else:
        text = column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column
        moments = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
    wrong = np.flatnonzero(moments.isna())
    if len(wrong):
        raise DataError(
            f"{path}: column {name!r}: row {wrong[0]} holds {column.iloc[wrong[0]]!r:.60}, "
            f"neither ISO 8601 nor epoch seconds ({len(wrong)} such rows)"
        )
    return moments.dt.as_unit("ms").to_numpy(dtype="datetime64[ms]").astype(np.int64)


def _servers(
    path: Path, frame: pd.DataFrame, time_ms: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[str]]:
    """Index [rows] into the names of all servers, which are in order."""
    if "server" not in frame.columns:
        if len(np.unique(time_ms)) < len(time_ms):
            raise DataError(
                f"{path}: column 'server' is missing, but several rows have the same time"
            )
        return np.zeros(len(frame), dtype=np.int64), [path.stem]
    codes, found = pd.factorize(frame["server"])
    if (codes < 0).any():
        raise DataError(f"{path}: column 'server': row {np.argmax(codes < 0)} is empty")
    names = np.array([str(name) for name in found], dtype=object)
    order = np.argsort(names, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[codes], names[order].tolist()


def _chosen(
    path: Path, names: Sequence[str], servers: int | Sequence[str] | None
) -> NDArray[np.bool_]:
    """Which of the servers were asked for."""
    if servers is None:
        return np.ones(len(names), dtype=np.bool_)
    if isinstance(servers, int):
        return np.arange(len(names)) < servers
    if missing := sorted(set(servers) - set(names)):
        raise DataError(f"{path}: column 'server': no servers {missing}; there are {list(names)}")
    return np.isin(np.array(names), list(servers))


def _chosen_rows(
    path: Path,
    time_ms: NDArray[np.int64],
    index: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    from_day: float,
    days: float | None,
) -> NDArray[np.intp]:
    """Positions of the rows of the chosen servers and days, in order of time, then of server."""
    rows = np.flatnonzero(chosen[index])
    start = time_ms[rows].min(initial=time_ms.max(initial=0)) + from_day * _DAY_MS
    end = np.inf if days is None else start + days * _DAY_MS
    rows = rows[(time_ms[rows] >= start) & (time_ms[rows] < end)]
    if not len(rows):
        raise DataError(f"{path}: no rows of the chosen servers from day {from_day:g} on")
    return np.take(rows, np.lexsort((index[rows], time_ms[rows])))


def _step_seconds(
    path: Path,
    time_ms: NDArray[np.int64],
    server_index: NDArray[np.intp],
    wanted: int | None,
) -> int:
    """The step asked for, or the most common distance of two samples of one server."""
    if wanted is not None:
        step_ms = wanted * 1000
    else:
        order = np.lexsort((time_ms, server_index))
        apart = np.diff(time_ms[order])[np.diff(server_index[order]) == 0]
        found, counts = np.unique(apart[apart > 0], return_counts=True)
        if not len(found):
            raise DataError(f"{path}: no server has two samples, so there is no step")
        step_ms = int(found[np.argmax(counts)])
    if step_ms < 1000 or step_ms % 1000 or _DAY_MS % step_ms:
        wrong = f"a step of {step_ms / 1000:g} s is no whole number of seconds that divides a day"
        raise DataError(f"{path}: {wrong}; name one that is")
    return step_ms // 1000


def _metric_columns(
    path: Path, frame: pd.DataFrame, targets: Sequence[str]
) -> tuple[list[str], tuple[str, ...]]:
    """Names of the columns that are metrics, and of those that cannot be one."""
    columns = [str(name) for name in frame.columns if name not in _NO_METRICS]
    if not targets:
        raise DataError(f"{path}: no targets named; the columns are {columns}")
    for name in targets:
        if name not in columns:
            raise DataError(f"{path}: column {name!r} is missing; there are {columns}")
    troubles = {name: _trouble(frame[name]) for name in columns}
    for name in targets:
        if trouble := troubles[name]:
            raise DataError(f"{path}: column {name!r} {trouble}")
    metrics = [name for name in columns if not troubles[name]]
    return metrics, tuple(name for name in columns if troubles[name])


def _trouble(column: pd.Series[Any]) -> str:
    """Why a column cannot be a metric; empty when it can."""
    if not pd.api.types.is_numeric_dtype(column):
        plain = column.astype(object)
        text = plain[plain.notna() & pd.to_numeric(plain, errors="coerce").isna()]
        return f"is not numeric: it holds {text.iloc[0]!r:.60}" if len(text) else "holds no number"
    return "" if np.isfinite(_numbers(column)).any() else "holds no number"


def _numbers(column: pd.Series[Any]) -> NDArray[np.floating[Any]]:
    """The values [rows] as float32 where the file has that, else float64; NaN if not finite."""
    dtype = np.float32 if column.dtype == np.float32 else np.float64
    numbers = column.to_numpy(dtype=dtype, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan).astype(dtype, copy=False)


def _infos(
    path: Path, frame: pd.DataFrame, server_index: NDArray[np.intp], count: int, timezone: str
) -> tuple[ServerInfo, ...]:
    """Role and time zone of each server, from its first row that says them."""
    said = {"role": [""] * count, "timezone": [timezone] * count}
    for field in said:
        if field not in frame.columns:
            continue
        known = frame[field].notna().to_numpy()
        servers, first = np.unique(server_index[known], return_index=True)
        texts = frame[field].to_numpy(dtype=object)[known][first]
        for server, text in zip(servers.tolist(), texts, strict=True):
            said[field][server] = str(text)
    pairs = zip(said["role"], said["timezone"], strict=True)
    for zone in set(said["timezone"]):
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError) as error:
            raise DataError(
                f"{path}: column 'timezone' or the default: no zone {zone!r}"
            ) from error
    return tuple(ServerInfo(role=role, timezone=zone) for role, zone in pairs)
