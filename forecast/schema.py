"""What a panel measures, and which rows of input are samples of it.

A `Schema` declares the metrics of one panel. `validate_rows` turns rows as they come over the wire
into a `SampleBlock` of columns and says for everything it refused where it stood and why.
Times are epoch milliseconds (int64); a slot is `time_ms // (step_seconds * 1000)`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, Literal, Self, TypeGuard

import numpy as np
from numpy.typing import NDArray

from forecast.rows import RowError, RowFields

Kind = Literal["gauge", "counter"]
SlotRule = Literal["mean", "max", "last", "rate"]
Transform = Literal["identity", "log1p"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One numeric column.

    Bounds hold for what a slot shows. Under the rule `rate` that is the rise per second; samples
    are then a counter's readings, bounded by 0 alone. For a rate or a log1p `lower` is 0 unless a
    higher one is given. Raises ValueError when the declaration contradicts itself.
    """

    name: str
    unit: str = ""
    kind: Kind = "gauge"
    lower: float | None = None
    upper: float | None = None
    slot_rule: SlotRule = "mean"
    """How several samples become a slot's value; a counter is always `rate`."""
    resolution: float = 1e-3
    """Smallest difference worth telling apart, in the metric's unit; floor of a window's scale."""
    transform: Transform = "identity"
    """The space the model works in; heavy tails want `log1p`."""
    aliases: tuple[str, ...] = ()
    """Old names this metric is accepted under."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a metric needs a name")
        if self.kind == "counter" and self.slot_rule == "mean":  # the default
            object.__setattr__(self, "slot_rule", "rate")
        if self.lower is None and (self.transform == "log1p" or self.slot_rule == "rate"):
            object.__setattr__(self, "lower", 0.0)
        if self.kind == "counter" and self.slot_rule != "rate":
            raise ValueError(
                f"metric {self.name!r} is a counter: its slot rule is 'rate', "
                f"not {self.slot_rule!r}"
            )
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(
                f"metric {self.name!r}: lower {self.lower} is not below upper {self.upper}"
            )
        if self.transform == "log1p" and self.lower is not None and self.lower < 0:
            raise ValueError(f"metric {self.name!r}: log1p needs lower >= 0, got {self.lower}")
        if not (math.isfinite(self.resolution) and self.resolution > 0):
            raise ValueError(f"metric {self.name!r}: resolution {self.resolution} is not positive")

    def to_json(self) -> dict[str, Any]:
        """The declaration as plain JSON values."""
        return {**asdict(self), "aliases": list(self.aliases)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The metric that `to_json` wrote."""
        known = {field.name for field in fields(cls)}
        if unknown := set(data) - known:
            raise ValueError(f"metric {data.get('name')!r} has unknown keys {sorted(unknown)}")
        return cls(**{**data, "aliases": tuple(data.get("aliases", ()))})


@dataclass(frozen=True, slots=True)
class Schema:
    """The metrics of one panel, which of them are forecast, and how often they are sampled.

    Raises ValueError for names that clash or targets that are no metrics.
    """

    panel: str
    step_seconds: int
    metrics: tuple[Metric, ...]
    targets: tuple[str, ...]
    server_labels: tuple[str, ...] = ("server",)

    def __post_init__(self) -> None:
        if self.step_seconds < 1:
            raise ValueError(f"step_seconds is {self.step_seconds}, need at least 1")
        spoken = [name for metric in self.metrics for name in (metric.name, *metric.aliases)]
        if clash := sorted({name for name in spoken if spoken.count(name) > 1}):
            raise ValueError(f"metric names or aliases appear twice: {clash}")
        if missing := [target for target in self.targets if target not in self.names]:
            raise ValueError(f"targets {missing} are no metrics; there are {list(self.names)}")
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets must be named once each, got {list(self.targets)}")
        if not self.server_labels:
            raise ValueError("server_labels is empty: nothing would name a server")

    @property
    def names(self) -> tuple[str, ...]:
        """Metric names in column order."""
        return tuple(metric.name for metric in self.metrics)

    @property
    def target_columns(self) -> tuple[int, ...]:
        """[T] column of each target."""
        names = self.names
        return tuple(names.index(target) for target in self.targets)

    def metric(self, name: str) -> Metric:
        """The metric of that name (not an alias); KeyError when there is none."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)

    def columns(self) -> dict[str, int]:
        """Column of every name a metric is accepted under, aliases included."""
        return {
            name: column
            for column, metric in enumerate(self.metrics)
            for name in (metric.name, *metric.aliases)
        }

    def fingerprint(self) -> str:
        """Sha256 of what needs a new base model: panel, step, and targets' names, units and kinds.

        Covariates and aliases do not enter: an edit there must not orphan the models that serve.
        """
        targets = [self.metric(name) for name in self.targets]
        entering = {
            "panel": self.panel,
            "step_seconds": self.step_seconds,
            "targets": [[target.name, target.unit, target.kind] for target in targets],
        }
        text = json.dumps(entering, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a row may say about its server besides its name."""

    role: str = ""
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class SampleBlock:
    """Accepted samples as columns; the n-th sample is the n-th entry of each array.

    `infos` has one entry per server, None where no row said anything beyond the name. Server and
    metric names are unique; the index arrays point into them. `row_index` is each sample's row in
    the request, for who refuses it later.
    """

    servers: tuple[str, ...]
    infos: tuple[ServerInfo | None, ...]
    metrics: tuple[str, ...]
    server_index: NDArray[np.int32]
    metric_index: NDArray[np.int16]
    time_ms: NDArray[np.int64]
    value: NDArray[np.float64]
    row_index: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.value)


@dataclass(frozen=True, slots=True)
class Reject:
    """One refused row, or one refused value of a row when `metric` is given."""

    index: int
    """Position of the row in the request, from 0."""
    reason: str
    """malformed, unknown_metric, not_finite, out_of_bounds, future, too_old, too_many_servers."""
    detail: str
    metric: str | None = None


def sample_bounds(
    metrics: Sequence[Metric],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the largest [M] sample that is accepted of each metric."""
    # Slots are float32: a sample it cannot hold would become an infinity there. A counter's own
    # readings have no upper bound; the bounds of a rate are kept where slots are folded.
    widest = float(np.finfo(np.float32).max)
    lower = [0.0 if m.slot_rule == "rate" else m.lower for m in metrics]
    upper = [np.inf if m.slot_rule == "rate" else m.upper for m in metrics]
    return (
        np.array([-widest if bound is None else bound for bound in lower]),
        np.array([widest if bound is None else bound for bound in upper]),
    )


def validate_rows(
    rows: Sequence[object], schema: Schema, *, now_ms: int, max_clock_skew_ms: int
) -> tuple[SampleBlock, tuple[Reject, ...]]:
    """Keep what is a sample, and say for the rest which row it was and why.

    A row is `{"timestamp": ISO 8601 or epoch seconds, "server": name, "metrics": {name: value}}`,
    `role` and `timezone` if known, and `labels` instead of `server` when the schema names several.
    A time without offset is UTC, a null value a gap. A bad value is refused alone, the row's others
    stay. Rows later than `now_ms + max_clock_skew_ms` are `future`.
    """
    reader = _Values(schema)
    row_fields = RowFields(server_labels=schema.server_labels, latest_ms=now_ms + max_clock_skew_ms)
    for index, row in enumerate(rows):
        try:
            reader.take(index, row, row_fields)
        except RowError as refused:
            reader.rejects.append(Reject(index, refused.reason, refused.detail))
    return reader.finish()


class _Values:
    """Collects the values of one request in lists; bounds are checked at the end, vectorised."""

    def __init__(self, schema: Schema) -> None:
        self.rejects: list[Reject] = []
        self._metrics = schema.metrics
        self._columns = schema.columns()
        self._servers: dict[str, int] = {}
        self._said: dict[int, tuple[int, str, str]] = {}
        self._places: list[tuple[int, int, int, int]] = []
        self._values: list[float] = []

    def take(self, index: int, row: object, row_fields: RowFields) -> None:
        """Collect one row's numbers; raises RowError when the whole row is no good."""
        if not isinstance(row, Mapping):
            raise RowError("malformed", f"a row is an object, not {type(row).__name__}")
        time_ms, name = row_fields.time_ms(row), row_fields.server(row)
        role, zone = row_fields.info(row)
        values = row.get("metrics")
        if not isinstance(values, Mapping):
            raise RowError("malformed", "metrics must be an object of numbers")
        server = self._servers.setdefault(name, len(self._servers))
        if role or zone:
            said = (time_ms, role, zone)
            self._said[server] = max(said, self._said.get(server, said))
        for metric, value in values.items():
            column = self._columns.get(metric)
            if column is None:
                known = ", ".join(self._columns)
                self._reject(index, "unknown_metric", f"known are {known}", str(metric))
            elif _is_number(value):
                self._places.append((index, server, column, time_ms))
                self._values.append(_as_float(value))
            elif value is not None:
                self._reject(index, "malformed", f"{value!r:.40} is not a number", str(metric))

    def finish(self) -> tuple[SampleBlock, tuple[Reject, ...]]:
        """The block of what is finite and within bounds, and all rejects in row order."""
        value = np.array(self._values, dtype=np.float64)
        places = np.array(self._places, dtype=np.int64).reshape(-1, 4)
        index, server, column, time_ms = places.T
        lower, upper = sample_bounds(self._metrics)
        finite = np.isfinite(value)
        kept = finite & (value >= lower[column]) & (value <= upper[column])
        for at in np.flatnonzero(~kept):
            low, high = lower[column[at]], upper[column[at]]
            reason = "out_of_bounds" if finite[at] else "not_finite"
            detail = f"{value[at]:g} is not within {low:g} and {high:g}"
            self._reject(int(index[at]), reason, detail, self._metrics[column[at]].name)
        used, server_index = np.unique(server[kept], return_inverse=True)
        names = list(self._servers)
        block = SampleBlock(
            servers=tuple(names[at] for at in used),
            infos=tuple(self._info(int(at)) for at in used),
            metrics=tuple(metric.name for metric in self._metrics),
            server_index=server_index.astype(np.int32),
            metric_index=column[kept].astype(np.int16),
            time_ms=time_ms[kept],
            value=value[kept],
            row_index=index[kept].astype(np.int32),
        )
        return block, tuple(sorted(self.rejects, key=lambda reject: reject.index))

    def _info(self, server: int) -> ServerInfo | None:
        if server not in self._said:
            return None
        _, role, zone = self._said[server]
        return ServerInfo(role=role, timezone=zone or "UTC")

    def _reject(self, index: int, reason: str, detail: str, metric: str) -> None:
        metric = metric[:80].encode(errors="replace").decode()
        self.rejects.append(Reject(index, reason, detail, metric))


def _is_number(value: object) -> TypeGuard[Real]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _as_float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond float64
        return math.inf
