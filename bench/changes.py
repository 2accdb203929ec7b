"""What a scenario does to the values of a fleet: splices, scales, shifts, jobs, clocks, names.

Each is a function of the grid W slots x S servers x M metrics, of what the scenario's file says of
it, and of the first slot after the history. None draws anything at random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from connect.grid import GridSource
from forecast.clock import slots_per_day

FloatArray = NDArray[np.float32]

_PARTS = {
    "all": (0.0, 1.0),
    "first half": (0.0, 0.5),
    "second half": (0.5, 1.0),
    "last quarter": (0.75, 1.0),
}
DRIFTS = ("splice", "scale", "level", "phase", "profile")
"""Changes after which what was learned before holds no more."""


def places_of(grid: GridSource, change: Mapping[str, Any]) -> list[int]:
    """The servers meant, those that there are."""
    wanted, count = change["servers"], len(grid.servers)
    if isinstance(wanted, str):
        low, high = _PARTS[wanted]
        return list(range(round(low * count), round(high * count)))
    return [at for at in wanted if at < count]


def span_of(grid: GridSource, change: Mapping[str, Any]) -> slice:
    """The slots [from_day, to_day) of a change; to the end without the latter."""
    day = slots_per_day(grid.schema.step_seconds)
    end = change.get("to_day")
    return slice(round(change.get("from_day", 0) * day), None if end is None else round(end * day))


def _changed(grid: GridSource, places: list[int], span: slice, values: FloatArray) -> GridSource:
    """The grid with other values [., S', M] of some servers in a span, kept within the bounds."""
    metrics = grid.schema.metrics
    lower = [-np.inf if metric.lower is None else metric.lower for metric in metrics]
    upper = [np.inf if metric.upper is None else metric.upper for metric in metrics]
    made = grid.values.copy()
    made[span, places] = np.clip(values, np.array(lower, np.float32), np.array(upper, np.float32))
    return replace(grid, values=made)


def _splice(grid: GridSource, change: Mapping[str, Any], start: int) -> GridSource:
    places, span = places_of(grid, change), span_of(grid, change)
    others = [(at + len(grid.servers) // 2) % len(grid.servers) for at in places]
    return _changed(grid, places, span, grid.values[span][:, others])


def _scale(grid: GridSource, change: Mapping[str, Any], start: int) -> GridSource:
    places, span = places_of(grid, change), span_of(grid, change)
    values = grid.values[span][:, places]
    over = change.get("over_days", 0) * slots_per_day(grid.schema.step_seconds)
    share = np.clip(np.arange(1, len(values) + 1) / max(1.0, over), 0.0, 1.0)
    factor = 1 + (change["factor"] - 1) * share
    return _changed(grid, places, span, values * factor[:, None, None].astype(np.float32))


def _level(grid: GridSource, change: Mapping[str, Any], start: int) -> GridSource:
    places, span = places_of(grid, change), span_of(grid, change)
    more = change["deviations"] * deviation(grid, start)[places]
    return _changed(grid, places, span, grid.values[span][:, places] + more)


def _phase(grid: GridSource, change: Mapping[str, Any], start: int) -> GridSource:
    places, span = places_of(grid, change), span_of(grid, change)
    late = round(change["hours"] * 3600 / grid.schema.step_seconds)
    return _changed(grid, places, span, np.roll(grid.values, late, axis=0)[span][:, places])


def _profile(grid: GridSource, change: Mapping[str, Any], start: int) -> GridSource:
    places, span = places_of(grid, change), span_of(grid, change)
    angle = 2 * np.pi * (_hours(grid) - change["peak_hour"]) / 24
    factor = (1 + change["swing"] * np.cos(angle))[span].astype(np.float32)
    return _changed(grid, places, span, grid.values[span][:, places] * factor[:, None, None])


def _job(grid: GridSource, change: Mapping[str, Any], start: int) -> GridSource:
    """The targets rise by some deviations while the job runs."""
    places, hours = places_of(grid, change), _hours(grid)
    runs = (hours >= change["hour"]) & (hours < change["hour"] + change["minutes"] / 60)
    targets = [grid.schema.names.index(name) for name in grid.schema.targets]
    more = np.zeros(grid.values.shape[1:], np.float32)
    more[:, targets] = change["deviations"] * deviation(grid, start)[:, targets]
    values = grid.values[:, places] + runs[:, None, None] * more[places]
    return _changed(grid, places, slice(None), values)


def _appear(grid: GridSource, change: Mapping[str, Any], start: int) -> GridSource:
    places, begin = places_of(grid, change), span_of(grid, change).start
    made = grid.values.copy()
    made[:begin, places] = np.nan
    return replace(grid, values=made)


def _rename(grid: GridSource, change: Mapping[str, Any], start: int) -> GridSource:
    """Each server meant is as many as there are days, one after the other."""
    places, day = places_of(grid, change), slots_per_day(grid.schema.step_seconds)
    kept = [at for at in range(len(grid.servers)) if at not in places]
    parts = [grid.values[:, kept]]
    named, infos = [grid.servers[at] for at in kept], [grid.infos[at] for at in kept]
    for number, begin in enumerate(range(0, len(grid.values), day)):
        one = np.full((len(grid.values), len(places), grid.values.shape[2]), np.nan, np.float32)
        one[begin : begin + day] = grid.values[begin : begin + day, places]
        parts.append(one)
        named += [f"{grid.servers[at]}-{number:03d}" for at in places]
        infos += [grid.infos[at] for at in places]
    order = np.argsort(np.array(named), kind="stable").tolist()
    values = np.concatenate(parts, axis=1)[:, order]
    return replace(
        grid,
        values=values,
        servers=tuple(named[at] for at in order),
        infos=tuple(infos[at] for at in order),
    )


def _clock(grid: GridSource, change: Mapping[str, Any], start: int) -> GridSource:
    """What happened at a local time goes on happening at it when the clocks change."""
    step = grid.schema.step_seconds
    zones = {info.timezone for info in grid.infos}
    made = np.empty_like(grid.values)
    slots = grid.first_slot + np.arange(len(grid.values))
    for name in zones:
        zone = ZoneInfo(name)
        offset = np.array([_offset_s(zone, slot * step) for slot in slots.tolist()])
        late = np.round((offset[0] - offset) / step).astype(np.int64)
        places = [at for at, info in enumerate(grid.infos) if info.timezone == name]
        rows = np.clip(np.arange(len(slots)) - late, 0, len(slots) - 1)
        made[:, places] = grid.values[rows][:, places]
    return replace(grid, values=made)


def _offset_s(zone: ZoneInfo, moment_s: int) -> float:
    offset = datetime.fromtimestamp(moment_s, UTC).astimezone(zone).utcoffset()
    return 0.0 if offset is None else offset.total_seconds()


def _hours(grid: GridSource) -> NDArray[np.float64]:
    """The hour of the day [W] in UTC, with its fraction."""
    slots = grid.first_slot + np.arange(len(grid.values))
    hours: NDArray[np.float64] = slots * grid.schema.step_seconds % 86400 / 3600
    return hours


def deviation(grid: GridSource, start: int) -> FloatArray:
    """Each server's standard deviation [S, M] over the history; 0 where nothing is known of it."""
    known = grid.values[:start].astype(np.float64)
    count = np.isfinite(known).sum(0)
    mean = np.nansum(known, axis=0) / np.maximum(count, 1)
    spread = np.sqrt(np.nansum((known - mean) ** 2, axis=0) / np.maximum(count, 1))
    made: FloatArray = spread.astype(np.float32)
    return made


CHANGES: dict[str, Callable[[GridSource, Mapping[str, Any], int], GridSource]] = {
    "splice": _splice,
    "scale": _scale,
    "level": _level,
    "phase": _phase,
    "profile": _profile,
    "job": _job,
    "appear": _appear,
    "rename": _rename,
    "clock": _clock,
}
