"""Windows of real streams for benches: the demo fleet with its drift, spikes, files.

Legend: N windows, L context, H horizon, S slots, M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connect.files import FileSource
from connect.fleet import DemoFleet
from forecast.schema import Metric, ServerInfo
from forecast.windows import RawWindows

FloatArray = NDArray[np.float32]
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Stream:
    """Values of a fleet on a grid of slots."""

    name: str
    step_seconds: int
    first_slot: int
    metrics: tuple[Metric, ...]
    targets: tuple[str, ...]
    servers: tuple[str, ...]
    infos: tuple[ServerInfo, ...]
    values: FloatArray
    """[S, servers, M], NaN where there is a gap."""

    def windows(self, context: int, horizon: int, count: int, seed: int = 0) -> RawWindows:
        """`count` windows with labels, drawn over all servers and slots."""
        draw = np.random.default_rng(seed)
        server = draw.integers(0, len(self.servers), count)
        last = draw.integers(context - 1, len(self.values) - horizon, count)
        rows = last[:, None] + np.arange(1 - context, horizon + 1)
        day = _DAY_S // self.step_seconds
        with np.errstate(invalid="ignore"):
            logs = np.array([metric.transform == "log1p" for metric in self.metrics])
            moved = np.where(logs, np.log1p(np.maximum(self.values, 0.0)), self.values)
        spread = np.full((len(self.servers), len(self.metrics)), np.nan, np.float32)
        known = np.isfinite(moved).sum(0) > 1
        spread[known] = np.nanstd(moved[:, known], axis=0)
        return RawWindows(
            servers=tuple(self.servers[at] for at in server),
            roles=tuple(self.infos[at].role for at in server),
            timezones=tuple(self.infos[at].timezone for at in server),
            metrics=tuple(metric.name for metric in self.metrics),
            context=context,
            horizon=horizon,
            step_seconds=self.step_seconds,
            origin=(self.first_slot + last).astype(np.int64),
            values=self._at(rows, server),
            daily=self._at(rows - day, server),
            weekly=self._at(rows - 7 * day, server),
            spread=spread[server],
        )

    def _at(self, rows: NDArray[np.int64], server: NDArray[np.int64]) -> FloatArray:
        """[N, L+H, M]; NaN before the first slot."""
        found = self.values[np.maximum(rows, 0), server[:, None]]
        found[rows < 0] = np.nan
        return found


def demo(days: int = 30, drift_day: int | None = 15, seed: int = 7) -> Stream:
    """The demo fleet of eight servers, whose databases and batch servers drift."""
    fleet = DemoFleet(seed=seed, drift_day=drift_day)
    schema, day = fleet.schema(), _DAY_S // fleet.step_seconds
    return Stream(
        name="demo",
        step_seconds=fleet.step_seconds,
        first_slot=fleet.first_slot,
        metrics=schema.metrics,
        targets=schema.targets,
        servers=fleet.servers,
        infos=fleet.infos,
        values=fleet.values(fleet.first_slot, fleet.first_slot + days * day).astype(np.float32),
    )


def widened(stream: Stream, metrics: int, targets: int) -> Stream:
    """The stream with so many metrics and targets: more repeat them, an hour late."""
    late, values, named = 3600 // stream.step_seconds, [stream.values], list(stream.metrics)
    while len(named) < metrics:
        turn = len(named) // len(stream.metrics)
        named += [replace(m, name=f"{m.name}_{turn}", aliases=()) for m in stream.metrics]
        values.append(np.roll(stream.values, late * turn, axis=0))
    wide = np.concatenate(values, axis=2)[..., :metrics]
    kept = tuple(named[:metrics])
    others = [metric.name for metric in kept if metric.name not in stream.targets]
    chosen = (*stream.targets, *others)[:targets]
    return replace(stream, metrics=kept, targets=chosen, values=wide)


def spiked(stream: Stream, factor: float = 100.0, share: float = 0.01, seed: int = 0) -> Stream:
    """The stream with a share of its values `factor` times as high, whatever its bounds say."""
    hit = np.random.default_rng(seed).random(stream.values.shape) < share
    values = (stream.values * np.where(hit, factor, 1.0)).astype(np.float32)
    return replace(stream, name=f"{stream.name}-spikes", values=values)


def from_file(path: Path, targets: Sequence[str], servers: int = 24, days: float = 14) -> Stream:
    """The first servers and days of a user's file."""
    source = FileSource.read(path, targets=targets, servers=servers, days=days)
    step_ms = source.schema.step_seconds * 1000
    slots = source.time_ms // step_ms - source.first_slot
    shape = (int(slots[-1]) + 1, len(source.servers), len(source.schema.metrics))
    values = np.full(shape, np.nan, np.float32)
    values[slots, source.server_index] = source.values
    return Stream(
        name=path.stem,
        step_seconds=source.schema.step_seconds,
        first_slot=source.first_slot,
        metrics=source.schema.metrics,
        targets=tuple(targets),
        servers=source.servers,
        infos=source.infos,
        values=values,
    )


def real_streams(data: Path | None) -> Iterator[Stream]:
    """The demo fleet with its drift, the same with 100x spikes, and the file bitbrains if given."""
    fleet = demo()
    yield fleet
    yield spiked(fleet)
    if data is not None:
        targets = ("cpu_usage_ratio", "memory_usage_ratio", "network_receive_kb_per_s")
        brains = from_file(data / "bitbrains.parquet", (*targets, "disk_write_kb_per_s"))
        yield brains
        yield spiked(brains)
