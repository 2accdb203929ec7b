"""The streams of the bench of online learning: real files, and what `scenarios.toml` makes of them.

A scenario is a transformation of the array of a file's values, W slots x S servers x M metrics. It
draws nothing at random. `incident` columns stay hidden, as in every file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.changes import CHANGES, DRIFTS, deviation, places_of, span_of
from connect.files import FileSource
from connect.grid import GridSource
from connect.infer import infer_metric
from connect.replay import Replay
from forecast.clock import slots_per_day
from forecast.config import seconds
from forecast.errors import ConfigError, DataError

_FILE = Path(__file__).with_name("scenarios.toml")


@dataclass(frozen=True, slots=True)
class Scored:
    """Only these servers count, in slots [from_slot, to_slot)."""

    servers: tuple[str, ...]
    from_slot: int
    to_slot: int


@dataclass(frozen=True, slots=True)
class Change:
    """Servers that become others in slots [from_slot, to_slot); to the end without the latter."""

    kind: str
    servers: tuple[str, ...]
    from_slot: int
    to_slot: int | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A stream to be replayed, and what is asked of it."""

    name: str
    what: str
    replay: Replay
    config: Mapping[str, Any]
    """What goes over the product's configuration."""
    scored: Scored | None
    """None: everything that is streamed."""
    marks: tuple[tuple[int, str], ...]
    """(slot, what begins there), for the picture."""
    drifts: tuple[Change, ...] = ()
    """The changes after which what was learned before holds no more, by their first slots."""


def names() -> tuple[str, ...]:
    """The scenarios there are."""
    return tuple(tomllib.loads(_FILE.read_text(encoding="utf-8")))


def scenario(
    name: str,
    *,
    data: Path,
    targets: tuple[str, ...] = (),
    servers: int | None = None,
    days: float | None = None,
) -> Scenario:
    """The named scenario on `data`: its own file in that folder, or the file that is given.

    Targets, how many servers and how many streamed days are the scenario's where they are not
    said. Raises ConfigError for an unknown name, DataError when the file is too short.
    """
    plan = _plan(name)
    folder = data.is_dir()
    path = data / plan["file"] if folder else data
    own = folder or path.name == plan["file"]
    if not own and not targets:
        raise ConfigError(f"--targets: name the columns of {path} to forecast")
    source = FileSource.read(
        path,
        targets=targets or tuple(plan["targets"]),
        servers=(plan.get("servers") if own else 24) if servers is None else servers,
        from_day=float(plan.get("from_day", 0)) if own else 0.0,
        step_seconds=seconds(plan["step"]) if own and "step" in plan else None,
        timezone=plan.get("timezone", "UTC"),
    )
    grid = _later(GridSource.of(source), plan.get("later_days", 0))
    day = slots_per_day(grid.schema.step_seconds)
    start = round(plan["history_days"] * day)
    wanted = start + round((plan["stream_days"] if days is None else days) * day)
    if len(grid.values) <= start + day // 24:
        raise DataError(f"{path}: {len(grid.values)} slots; {name} needs {start} before it streams")
    grid = replace(grid, values=grid.values[: min(wanted, len(grid.values))])
    if plan.get("z_scores", False):
        grid = _z_scores(grid, start)
    marks: list[tuple[int, str]] = []
    drifts: list[Change] = []
    for change in plan.get("changes", []):
        grid = CHANGES[change["kind"]](grid, change, start)
        if "from_day" in change:
            marks.append((grid.first_slot + round(change["from_day"] * day), change["kind"]))
        if change["kind"] in DRIFTS:
            drifts.append(_drift(grid, change))
    first = grid.first_slot
    stream = Replay(
        f"online-{name}", grid, grid.schema, first, first + start, first + len(grid.values)
    )
    return Scenario(
        name,
        plan["what"],
        stream,
        plan.get("config", {}),
        _scored(plan, grid),
        tuple(marks),
        tuple(sorted(drifts, key=lambda drift: drift.from_slot)),
    )


def _plan(name: str) -> dict[str, Any]:
    plans = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    if name not in plans:
        raise ConfigError(f"no scenario {name!r}; there are {', '.join(plans)}")
    plan = plans[name]
    return {**plans[plan["like"]], **plan} if "like" in plan else plan


def _scored(plan: Mapping[str, Any], grid: GridSource) -> Scored | None:
    if "scored" not in plan:
        return None
    asked, day = plan["scored"], slots_per_day(grid.schema.step_seconds)
    return Scored(
        tuple(grid.servers[at] for at in places_of(grid, asked)),
        grid.first_slot + round(asked["from_day"] * day),
        grid.first_slot + round(asked["to_day"] * day),
    )


def _drift(grid: GridSource, change: Mapping[str, Any]) -> Change:
    span = span_of(grid, change)
    end = None if span.stop is None else grid.first_slot + span.stop
    named = tuple(grid.servers[at] for at in places_of(grid, change))
    return Change(change["kind"], named, grid.first_slot + span.start, end)


def _later(grid: GridSource, days: int) -> GridSource:
    return replace(
        grid, first_slot=grid.first_slot + days * slots_per_day(grid.schema.step_seconds)
    )


def _z_scores(grid: GridSource, start: int) -> GridSource:
    """Each metric of each server in deviations around its mean, both of the history."""
    mean = np.nanmean(grid.values[:start].astype(np.float64), axis=0)
    values = ((grid.values - mean) / np.maximum(deviation(grid, start), 1e-9)).astype(np.float32)
    metrics = tuple(
        infer_metric(name, column[np.isfinite(column)])
        for name, column in zip(grid.schema.names, np.moveaxis(values, 2, 0), strict=True)
    )
    return replace(grid, values=values, schema=replace(grid.schema, metrics=metrics))
