"""A stream where windows are read from: in a buffer, in a large grid, in pytorch-forecasting's set.

Legend: S slots, C real columns.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from pytorch_forecasting import TimeSeriesDataSet
from pytorch_forecasting.data.encoders import MultiNormalizer, NaNLabelEncoder, TorchNormalizer

from bench.streams import Stream
from forecast.schema import SampleBlock, Schema
from forecast.window_spec import WindowSpec
from forecast.windows import transform
from train.buffer import Buffer
from train.cuts import Cutter
from train.grid import Grid
from train.roster import Roster
from train.spread import Spread

_DAY_S = 86_400
_TIME = "place"
_SERVER = "server"


def schema_of(stream: Stream) -> Schema:
    """The panel of a stream."""
    return Schema("servers", stream.step_seconds, stream.metrics, stream.targets)


def buffered(stream: Stream, spec: WindowSpec) -> tuple[Buffer, int]:
    """A buffer in memory that holds the whole stream, and the last slot it has closed."""
    schema = schema_of(stream)
    buffer = Buffer(
        directory=None,
        schema=schema,
        history_days=len(stream.values) * stream.step_seconds // _DAY_S + 1,
        context=spec.context,
        horizon=spec.horizon,
        max_servers=len(stream.servers),
        allowed_lateness_s=stream.step_seconds,
        snapshot_every_bytes=1 << 30,
    )
    slot, server, metric = np.nonzero(np.isfinite(stream.values))
    block = SampleBlock(
        servers=stream.servers,
        infos=stream.infos,
        metrics=schema.names,
        server_index=server.astype(np.int32),
        metric_index=metric.astype(np.int16),
        time_ms=(stream.first_slot + slot) * stream.step_seconds * 1000,
        value=stream.values[slot, server, metric].astype(np.float64),
    )
    report = buffer.append("all", block)
    if report.rejected or report.closed_slot is None:
        raise ValueError(f"the buffer refused {len(report.rejected)} rows of {stream.name}")
    return buffer, report.closed_slot


def fleet(stream: Stream, spec: WindowSpec, servers: int) -> tuple[Cutter, list[str], int]:
    """A cutter over so many servers, their names, and the last slot; they repeat the stream's."""
    schema, slots = schema_of(stream), len(stream.values)
    grid = Grid(ring=slots, metrics=len(stream.metrics))
    roster = Roster(
        grid, step_seconds=stream.step_seconds, context=spec.context, max_servers=servers
    )
    grid.ensure_rows(servers, most=servers)
    last = stream.first_slot + slots - 1
    at = np.arange(stream.first_slot, last + 1)
    names = [f"server-{number:05}" for number in range(servers)]
    for number, name in enumerate(names):
        row, like = roster.admit(name, retired={}, spare=()), number % len(stream.servers)
        roster.describe(name, stream.infos[like])
        grid.slots[row, at % slots] = at
        grid.values[row, at % slots] = stream.values[:, like]
    spread = Spread(grid, stream.metrics, step_seconds=stream.step_seconds, history=slots)
    cutter = Cutter(
        grid=grid,
        roster=roster,
        spread=spread,
        schema=schema,
        context=spec.context,
        horizon=spec.horizon,
    )
    return cutter, names, last


def dataset(stream: Stream, buffer: Buffer, spec: WindowSpec) -> TimeSeriesDataSet:
    """pytorch-forecasting's data set of the same servers, with the same columns already finished.

    A column that our windows scale anew for each window has one value a slot here: that of the
    window, out of those that lie side by side, which the slot falls into.
    """
    targets = [f"y_{place}" for place in range(len(spec.targets))]
    known = [name for name in spec.known_reals if name != "relative_time_idx"]
    roles = NaNLabelEncoder(add_nan=True).fit(pd.Series(spec.roles[1:], dtype=object))
    scalers = dict.fromkeys([*spec.static_reals, *known, *spec.unknown_reals])
    return TimeSeriesDataSet(
        _frame(stream, buffer, spec, targets),
        time_idx=_TIME,
        group_ids=[_SERVER],
        target=targets,
        min_encoder_length=spec.context,
        max_encoder_length=spec.context,
        min_prediction_length=spec.horizon,
        max_prediction_length=spec.horizon,
        static_categoricals=list(spec.static_categoricals),
        static_reals=list(spec.static_reals),
        time_varying_known_reals=known,
        time_varying_unknown_reals=list(spec.unknown_reals),
        add_relative_time_idx=True,
        target_normalizer=MultiNormalizer([TorchNormalizer(method="identity") for _ in targets]),
        categorical_encoders={"static_role": roles},
        scalers=scalers,
    )


def _frame(stream: Stream, buffer: Buffer, spec: WindowSpec, targets: list[str]) -> pd.DataFrame:
    """One row per server and slot."""
    ends = np.arange(spec.context - 1, len(stream.values), spec.context, dtype=np.int64)
    parts = []
    for server, info in zip(stream.servers, stream.infos, strict=True):
        raw = buffer.cut([server] * len(ends), stream.first_slot + ends, labels=True)
        cont_SC = transform(raw, spec).encoder_cont.reshape(-1, len(spec.reals))
        part = pd.DataFrame(cont_SC, columns=list(spec.reals)).drop(columns="relative_time_idx")
        part[_SERVER], part[_TIME] = server, np.arange(len(part))
        part["static_role"] = info.role or "nan"
        for name, column in zip(targets, spec.target_columns, strict=True):
            part[name] = cont_SC[:, len(spec.reals) - len(spec.unknown_reals) + column]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
