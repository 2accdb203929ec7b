"""`make bench-alerts`: false alarms at equal recall, of what learns online against a frozen model.

Both are the production controller on the same labelled servers and base model: `frozen` is the base
model, never updated, `online` what the product answers with learning on. The same calibrator is on
both. A server is in an alarm where an actual lies outside the calibrated band that was forecast for
it an hour before, for the hold time at least; the band is made wider and narrower, and systems are
compared where they recall the same share of the incidents (`bench.alert_scores`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.alert_scores import (
    RECALLS,
    WIDTHS,
    Counts,
    alarms_of,
    at_recall,
    counts,
    reduction,
)
from bench.alert_streams import Heard, Labelled, about, labelled, listen, names
from bench.online_runs import Wishes, in_folder
from forecast.alarms import deviation
from forecast.clock import slots_per_day
from forecast.errors import ConfigError, DataError

LEAD = 12
"""Slots before a value that its forecast was made: the whole horizon, an hour."""
_QUICK_DAYS = 12.0
_SEED = 7


@dataclass(frozen=True, slots=True)
class System:
    """A row of the table: a member of a run."""

    name: str
    run: str
    member: str
    what: str


SYSTEMS = (
    System("frozen", "frozen", "champion_calibrated", "the base model, never updated"),
    System("frozen_ensemble", "frozen", "ensemble", "the base model and the experts"),
    System("online_model", "default", "champion_calibrated", "the model that learns, alone"),
    System("online", "default", "ensemble", "what the product answers"),
)


def main() -> int:
    options = _arguments().parse_args()
    began = time.monotonic()
    try:
        told = _bench(options)
    except (ConfigError, DataError) as error:
        print(f"bench-alerts: {error}", file=sys.stderr)
        return 2
    told["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(told))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.alerts", description=__doc__)
    parser.add_argument("--data", type=Path, help="The folder with smd.parquet and asd.parquet.")
    parser.add_argument("--sets", default=",".join(names()), help="Only these, comma-separated.")
    parser.add_argument("--seed", type=int, default=_SEED, help="Of the base model and updates.")
    parser.add_argument("--hold", type=int, default=1, help="Slots outside before an alarm.")
    parser.add_argument("--config", type=Path, action="append", default=[])
    parser.add_argument("--cache", type=Path, default=Path(".fleetcast/bench-cache"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="The first labelled days only.")
    parser.add_argument("--json", action="store_true", help="Only the JSON line.")
    return parser


def _bench(options: argparse.Namespace) -> dict[str, Any]:
    folder = options.data or os.environ.get("FLEETCAST_DATA")
    if folder is None:
        raise ConfigError("--data: name the folder with the data, or set FLEETCAST_DATA to it")
    chosen = [name.strip() for name in options.sets.split(",") if name.strip()]
    if unknown := sorted(set(chosen) - set(names())):
        raise ConfigError(f"--sets: no {', '.join(unknown)}; there are {', '.join(names())}")
    days = _QUICK_DAYS if options.quick else None
    streams = {name: labelled(name, Path(folder), days=days) for name in chosen}
    with tempfile.TemporaryDirectory(prefix="fleetcast-alerts-") as made:
        wishes = Wishes(
            scenario="natural",
            data=Path(folder),
            targets=(),
            servers=None,
            days=None,
            configs=tuple(options.config),
            cache=options.cache,
        )
        heard = _listened(in_folder(wishes, Path(made)), streams, options)
    parts = Parts(streams, heard, hold=options.hold)
    if not options.json:
        Console(width=140).print(_printed(parts))
    return {**figures(parts), **about(heard), "hold_slots": options.hold, "quick": options.quick}


def _listened(
    wishes: Wishes, streams: Mapping[str, Labelled], options: argparse.Namespace
) -> list[Heard]:
    """Every run on every stream; one base model serves both runs of a stream."""
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        jobs = []
        for run in ("frozen", "default"):  # the first trains the base model that both start from
            jobs = [
                pool.submit(listen, wishes, stream, run, options.seed, (LEAD,))
                for stream in streams.values()
            ] + jobs
        found = []
        for job in as_completed(jobs):
            found.append(job.result())
            one = found[-1]
            print(f"bench-alerts: {one.data}, {one.run}: {one.seconds:.0f} s", file=sys.stderr)
    return sorted(found, key=lambda one: (one.data, one.run))


class Parts:
    """The counts of every system on every data set, and on parts of one."""

    def __init__(
        self, streams: Mapping[str, Labelled], heard: Sequence[Heard], *, hold: int
    ) -> None:
        self.sets: dict[str, dict[str, Counts]] = {}
        for name, stream in streams.items():
            for part, labels in _labels(stream).items():
                self.sets[f"{name}{part}"] = {}
                for system in SYSTEMS:
                    firing = self._firing(stream, heard, system, hold)
                    replay = stream.scenario.replay
                    self.sets[f"{name}{part}"][system.name] = counts(
                        firing,
                        labels,
                        first_slot=replay.start_slot,
                        day_slots=slots_per_day(replay.schema.step_seconds),
                    )
        self.pooled = [name for name in self.sets if name not in _WHOLE_OF_HIDDEN(self.sets)]

    def _firing(
        self, stream: Labelled, heard: Sequence[Heard], system: System, hold: int
    ) -> np.ndarray:
        return np.zeros(0)
