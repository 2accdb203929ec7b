"""What `fleetcast run` feeds: the demo fleet or the user's file, cut into history and stream."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connect.files import FileSource
from connect.fleet import DemoFleet
from connect.grid import GridSource
from connect.stream import Source
from forecast.errors import ConfigError, DataError
from forecast.schema import Reject, SampleBlock, Schema, validate_rows

_CONTEXT_SLOTS, _HORIZON_SLOTS = 72, 12
_DAY_S = 86400
DEMO_SEED = 7


@dataclass(frozen=True, slots=True)
class Replay:
    """A source and its slots: history [first, start), stream [start, end)."""

    fleet: str
    source: Source
    schema: Schema
    first_slot: int
    start_slot: int
    end_slot: int

    def samples(
        self, from_slot: int, to_slot: int, *, schema: Schema
    ) -> tuple[SampleBlock, Sequence[Reject]]:
        """The rows of slots [from_slot, to_slot), validated as they would be at their end."""
        if isinstance(self.source, GridSource):
            made = self.source.samples(from_slot, to_slot, schema)
            if made is not None:
                return made
        rows = [row for _, rows in self.source.rows_by_slot(from_slot, to_slot) for row in rows]
        now_ms = to_slot * schema.step_seconds * 1000
        return validate_rows(rows, schema, now_ms=now_ms, max_clock_skew_ms=0)

    def config(self) -> dict[str, Any]:
        """What the data says of the config: fleet, panel, when the first model is due."""
        step = self.schema.step_seconds
        metrics = [
            {
                "name": metric.name,
                "unit": metric.unit,
                "kind": metric.kind,
                "lower": metric.lower,
                "upper": metric.upper,
                "slot_rule": metric.slot_rule,
                "resolution": metric.resolution,
                "transform": metric.transform,
            }
            for metric in self.schema.metrics
        ]
        panel = {
            "name": self.schema.panel,
            "step": step,
            "context": _CONTEXT_SLOTS * step,
            "horizon": _HORIZON_SLOTS * step,
            "targets": list(self.schema.targets),
            "metrics": metrics,
        }
        hours = (self.start_slot - self.first_slot) * step // 3600 - 1
        return {
            "fleet": self.fleet,
            "state_dir": f".fleetcast/{self.fleet}",
            "panel": panel,
            "training": {"bootstrap_hours": hours},
        }


def choose(
    data: Path | None,
    targets: str,
    *,
    servers: int | None = None,
    days: float | None = None,
    history_days: float | None = None,
    seed: int = DEMO_SEED,
) -> Replay:
    """The file's replay, or the demo fleet's without one; `targets` are separated by commas.

    Raises DataError, and ConfigError for a wish that only a file can grant.
    """
    if data is None:
        if targets or servers is not None or days is not None:
            raise ConfigError("--targets, --servers and --days go with --data")
        return demo(seed=seed, history_days=round(history_days or 14))
    names = tuple(name.strip() for name in targets.split(",") if name.strip())
    return from_file(data, targets=names, servers=servers, days=days, history_days=history_days)


def demo(*, seed: int, servers_per_role: int = 2, history_days: int = 14) -> Replay:
    """The demo fleet: its drift comes one day into the stream, which goes on for 60 days."""
    fleet = DemoFleet(seed=seed, servers_per_role=servers_per_role, drift_day=history_days + 1)
    day = _DAY_S // fleet.step_seconds
    start = fleet.first_slot + history_days * day
    name = "demo" if seed == DEMO_SEED else f"demo-{seed}"
    return Replay(name, fleet, fleet.schema(), fleet.first_slot, start, start + 60 * day)


def from_file(
    path: Path,
    *,
    targets: tuple[str, ...],
    servers: int | None = None,
    days: float | None = None,
    history_days: float | None = None,
) -> Replay:
    """The user's file; without a wish the first third of it, at most 7 days, is the history.

    Raises DataError naming the file when it is too short to learn from.
    """
    source = FileSource.read(path, targets=targets, servers=servers, days=days)
    schema = source.schema
    day = _DAY_S / schema.step_seconds
    first, end = source.first_slot, source.last_slot + 1
    need = 2 * (_CONTEXT_SLOTS + _HORIZON_SLOTS)
    wanted = max(need, min(7 * day, (end - first) / 3))
    start = first + round(wanted if history_days is None else history_days * day)
    if start - first < need or start >= end:
        raise DataError(
            f"{path}: {end - first} slots of {schema.step_seconds} s; the history needs {need} and "
            "something must be left to stream"
        )
    # Two files of one name must not share state: what a fleet learned belongs to its data.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]
    stem = re.sub(r"[^a-z0-9-]+", "-", path.stem.lower()).strip("-") or "file"
    name = f"{stem}-{digest}"
    return Replay(name, source, schema, first, start, end)
