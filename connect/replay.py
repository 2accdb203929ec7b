"""What `fleetcast run` feeds: the demo fleet or the user's file, cut into history and stream."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connect.files import FileSource
from connect.fleet import DemoFleet
from connect.stream import Source
from forecast.errors import DataError
from forecast.schema import Schema

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
