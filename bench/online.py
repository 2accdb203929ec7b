"""`make bench-online`: what online learning brings on real streams, without a leak.

Replays a scenario through the production controller, once per run (`bench.online_runs`), prints a
table with a row per way to forecast, then one flat JSON line; draws the loss by day. Takes any
parquet with `server`, `timestamp` and metric columns, and ETTh1.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Printed

from bench.online_picture import draw
from bench.online_runs import Outcome, Wishes, in_folder, outcomes
from bench.online_table import DEFAULT, FROZEN, ROWS, Row, Table, line
from bench.scenarios import Scenario, names
from connect.grid import GridSource
from forecast.clock import slots_per_day
from forecast.errors import ConfigError, DataError
from forecast.metrics import Score, known_mean

_QUICK_SERVERS, _QUICK_DAYS = 12, 10.0
_QUICK_ROWS = tuple(row.name for row in ROWS if row.run in ("frozen", "default"))
_USUAL = ("frozen", "naive", "default", "leaky")
_WIDE = 200
_COLUMNS = (
    ("wql", 5), ("wql_1", 5), ("wql_6", 5), ("wql_12", 5), ("mae", 4), ("mase", 4), ("gain", 4),
    ("gain_low", 4), ("gain_high", 4), ("coverage_error", 4), ("worst_day_coverage", 3),
    ("worst_server", 3), ("promoted", 0), ("updates", 0), ("cpu_s", 0), ("cost_ratio", 2),
    ("coverage_after", 3), ("closed", 2), ("adaptation_h", 0), ("never_adapted", 0),
    ("revisit_ratio", 3),
)  # fmt: skip


def main() -> int:
    options = _arguments().parse_args()
    began = time.monotonic()
    try:
        told = _bench(options, began)
    except (ConfigError, DataError) as error:
        print(f"bench-online: {error}", file=sys.stderr)
        return 2
    print(json.dumps(told))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.online", description=__doc__)
    parser.add_argument("--data", type=Path, help="A file, or a folder with the scenarios' files.")
    parser.add_argument("--targets", default="", help="Columns to forecast, comma-separated.")
    parser.add_argument("--scenario", default="natural", choices=names())
    parser.add_argument("--servers", type=int, help="The first so many by name.")
    parser.add_argument("--days", type=float, help="Stream only so many days.")
    parser.add_argument("--rows", default="", help="Only these, comma-separated; or all.")
    parser.add_argument("--seeds", type=int, default=1, help="So many base models.")
    parser.add_argument("--config", type=Path, action="append", default=[])
    parser.add_argument("--cache", type=Path, default=Path(".fleetcast/bench-cache"))
    parser.add_argument("--picture", type=Path, help="Where the SVG goes.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="Smaller: under ten minutes.")
    parser.add_argument("--json", action="store_true", help="Only the JSON line.")
    return parser


def _bench(options: argparse.Namespace, began: float) -> dict[str, Any]:
    rows = _rows(options)
    with tempfile.TemporaryDirectory(prefix="fleetcast-bases-") as folder:
        wishes = in_folder(_wishes(options), Path(folder))
        stream = wishes.stream()
        seeds = [7 + at for at in range(options.seeds)]
        done: list[Outcome] = []
        for outcome in outcomes(
            wishes, sorted({row.run for row in rows}), seeds, processes=options.processes
        ):
            done.append(outcome)
            _say(options, f"{outcome.run} (seed {outcome.seed}): {outcome.seconds:.0f} s")
            if outcome.last_failure is not None:
                print(f"bench-online: {outcome.run}: {outcome.last_failure}", file=sys.stderr)
    table = Table(
        sorted(done, key=lambda one: (one.run, one.seed)),
        scale_of(stream),
        rows=rows,
        drifts=stream.drifts,
    )
    _picture(options, table, stream)
    if not options.json:
        Console(width=_WIDE).print(_printed(table, stream))
    about = {
        "scenario": stream.name,
        "servers": len(_source(stream).servers),
        "streamed_slots": done[0].steps,
        "seeds": len(seeds),
        "quick": options.quick,
    }
    told = line(table, about)
    told["step_ms"] = round(1000 * _frozen_step_s(done), 2) if done else None
    told["failures"] = "; ".join(one.last_failure for one in done if one.last_failure) or None
    told["seconds"] = round(time.monotonic() - began, 1)
    return told


def _rows(options: argparse.Namespace) -> tuple[Row, ...]:
    known = {row.name: row for row in ROWS}
    asked = [name.strip() for name in options.rows.split(",") if name.strip()]
    usual = _QUICK_ROWS if options.quick else tuple(row.name for row in ROWS if row.run in _USUAL)
    wanted = list(known) if asked == ["all"] else asked or usual
    if unknown := sorted(set(wanted) - set(known)):
        raise ConfigError(f"--rows: no {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(row for row in ROWS if row.name in wanted or row == FROZEN)


def _wishes(options: argparse.Namespace) -> Wishes:
    data = options.data or os.environ.get("FLEETCAST_DATA")
    if data is None:
        raise ConfigError("--data: name a file, or set FLEETCAST_DATA to the folder with the data")
    quick = options.quick and not options.scenario.startswith("quiet")
    small = quick and options.scenario in ("natural", "drift", "recurring", "cron")
    return Wishes(
        scenario=options.scenario,
        data=Path(data),
        targets=tuple(name.strip() for name in options.targets.split(",") if name.strip()),
        servers=options.servers or (_QUICK_SERVERS if small else None),
        days=options.days or (_QUICK_DAYS if quick else None),
        configs=tuple(options.config),
        cache=options.cache,
    )


def scale_of(stream: Scenario) -> dict[tuple[str, str], float]:
    """MAE of the seasonal naive on the history by (server, target), for MASE; 0 if unknown."""
    grid, replay = _source(stream), stream.replay
    day = slots_per_day(grid.schema.step_seconds)
    known = grid.values[: replay.start_slot - replay.first_slot].astype(np.float64)
    apart = np.abs(known[day:] - known[:-day]) if len(known) > day else known[:0]
    count = np.isfinite(apart).sum(0)
    error = np.nansum(apart, axis=0) / np.maximum(count, 1)
    return {
        (server, target): float(error[at, grid.schema.names.index(target)])
        for at, server in enumerate(grid.servers)
        for target in grid.schema.targets
    }


def _source(stream: Scenario) -> GridSource:
    source = stream.replay.source
    assert isinstance(source, GridSource)
    return source


def _frozen_step_s(done: Sequence[Outcome]) -> float:
    """CPU seconds of one step of a run that learns nothing, its history included."""
    frozen = [one for one in done if one.run == "frozen"]
    return sum(one.cpu_s for one in frozen) / max(1, sum(one.steps for one in frozen))


def _picture(options: argparse.Namespace, table: Table, stream: Scenario) -> None:
    path = options.picture or Path(".fleetcast/bench-online") / f"{stream.name}.svg"
    lines: dict[str, list[float]] = {}
    days: tuple[int, ...] = ()
    for row in table.rows:
        member = table.member(row)
        if member is not None:
            days, sums_DTHF = table.by_day(row.run, member)
            daily = [known_mean(Score(sums.sum(1), table.levels).wql) for sums in sums_DTHF]
            lines[row.name] = [np.nan if value is None else value for value in daily]
    if not days:
        return
    day = slots_per_day(stream.replay.schema.step_seconds)
    marks = [(slot / day, what) for slot, what in stream.marks]
    updates = [(slot / day, verdict == "promoted") for slot, verdict in table.updates(DEFAULT.run)]
    draw(path, f"{stream.name}: {stream.what}", days, lines, marks, updates)
    _say(options, f"picture: {path}")


def _printed(table: Table, stream: Scenario) -> Printed:
    every = {row.name: table.figures(row) or {} for row in table.rows}
    known = [
        (name, digits)
        for name, digits in _COLUMNS
        if any(figures.get(name) is not None for figures in every.values())
    ]
    printed = Printed(box=SIMPLE_HEAD, pad_edge=False, title=f"{stream.name}: {stream.what}")
    printed.add_column("row", no_wrap=True)
    for name, _ in known:
        printed.add_column(name.replace("_", " "), justify="right")
    for row, figures in every.items():
        printed.add_row(row, *(_cell(figures.get(name), digits) for name, digits in known))
    return printed


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _say(options: argparse.Namespace, text: str) -> None:
    if not options.json:
        print(f"bench-online: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
