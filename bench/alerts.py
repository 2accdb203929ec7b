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
    HOLD,
    RECALLS,
    WIDTHS,
    Counts,
    alarms_of,
    at_recall,
    counts,
    reduction,
)
from bench.alert_streams import Heard, Labelled, about, labelled, listen, names, prepare
from bench.online_runs import Wishes, in_folder
from forecast.alarms import deviation
from forecast.clock import slots_per_day
from forecast.errors import ConfigError, DataError

LEAD = 12
"""Slots before a value that its forecast was made: the whole horizon, an hour."""
_QUICK_DAYS, _QUICK_SETS = 12.0, ["smd"]
_SEED = 7

Rates = tuple[np.ndarray, np.ndarray]
"""False alarms per server-day and the recall reached, of each system; see `at_recall`."""


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
    parser.add_argument("--sets", default="", help="Only these data sets, comma-separated.")
    parser.add_argument("--seed", type=int, default=_SEED, help="Of the base model and updates.")
    parser.add_argument("--hold", type=int, default=HOLD, help="Slots outside before an alarm.")
    parser.add_argument("--config", type=Path, action="append", default=[])
    parser.add_argument("--cache", type=Path, default=Path(".fleetcast/bench-cache"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="The first labelled days of one data set."
    )
    parser.add_argument("--json", action="store_true", help="Only the JSON line.")
    return parser


def _bench(options: argparse.Namespace) -> dict[str, Any]:
    folder = options.data or os.environ.get("FLEETCAST_DATA")
    if folder is None:
        raise ConfigError("--data: name the folder with the data, or set FLEETCAST_DATA to it")
    asked = [name.strip() for name in options.sets.split(",") if name.strip()]
    chosen = asked or (_QUICK_SETS if options.quick else list(names()))
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
    """Every run on every stream; both runs of a stream start from the same base model."""
    seed, found = options.seed, []
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(prepare, wishes, one, seed) for one in streams.values()]:
            done.result()
        jobs = [
            pool.submit(listen, wishes, one, run, seed, (LEAD,))
            for run in ("default", "frozen")  # the longest first
            for one in streams.values()
        ]
        for job in as_completed(jobs):
            one = job.result()
            found.append(one)
            if not options.json:
                print(f"bench-alerts: {one.data}, {one.run}: {one.seconds:.0f} s", file=sys.stderr)
    return sorted(found, key=lambda one: (one.data, one.run))


def _labels(stream: Labelled) -> dict[str, np.ndarray]:
    """The labels of a stream, and beside them those without the hours that say too much."""
    if not stream.hide_hours:
        return {"": stream.labels}
    replay = stream.scenario.replay
    day = slots_per_day(replay.schema.step_seconds)
    of_day = np.arange(replay.start_slot, replay.end_slot) % day
    late = of_day >= day - round(stream.hide_hours * day / 24)
    return {WHOLE: stream.labels, "": np.where(late[:, None], -1, stream.labels)}


WHOLE = "_whole_days"
"""Of a data set whose last hours of the day are left out: the same with them."""


class Parts:
    """The counts of every system on every data set, and on parts of one.

    `sets` is by data set, then by system; those called `..._whole_days` say what another says.
    """

    def __init__(
        self, streams: Mapping[str, Labelled], heard: Sequence[Heard], *, hold: int, seed: int = 0
    ) -> None:
        self._seed = seed
        self.sets: dict[str, dict[str, Counts]] = {}
        for name, stream in streams.items():
            replay = stream.scenario.replay
            day = slots_per_day(replay.schema.step_seconds)
            labels = _labels(stream)
            self.sets |= {f"{name}{part}": {} for part in labels}
            for system in SYSTEMS:
                firing = _firing(stream, heard, system, hold)
                for part, known in labels.items():
                    self.sets[f"{name}{part}"][system.name] = counts(
                        firing, known, first_slot=replay.start_slot, day_slots=day
                    )

    @property
    def pooled(self) -> list[str]:
        """The data sets that are added up: each once, as it says least of itself."""
        return [name for name in self.sets if not name.endswith(WHOLE)]

    def by_recall(self, systems: Sequence[str], sets: Sequence[str]) -> list[Rates]:
        """False alarms per server-day and recall of these systems at each of `RECALLS`."""
        asked = [[self.sets[name][system] for name in sets] for system in systems]
        return [at_recall(asked, recall, seed=self._seed) for recall in RECALLS]


def _firing(stream: Labelled, heard: Sequence[Heard], system: System, hold: int) -> np.ndarray:
    """Which servers are in an alarm [W, S, X] by this system."""
    one = next(one for one in heard if (one.data, one.run) == (stream.name, system.run))
    bands = one.bands[one.members.index(system.member), one.leads.index(LEAD)]
    schema = stream.scenario.replay.schema
    resolution = np.array([schema.metric(name).resolution for name in schema.targets])
    low, median, high = np.moveaxis(bands, -1, 0)
    found = deviation(one.actuals, low, median, high, resolution=resolution)
    return alarms_of(found, WIDTHS, hold=hold)


def figures(parts: Parts) -> dict[str, Any]:
    """The flat result: means over the recalls, then each recall; all data sets, then each one."""
    told: dict[str, Any] = {}
    for suffix, sets in {"": parts.pooled, **{f"_{name}": [name] for name in parts.sets}}.items():
        told.update(_compared(parts, sets, ("frozen", "online"), suffix))
        first = [parts.sets[name]["frozen"] for name in sets]
        told[f"incidents{suffix}"] = int(sum(one.incidents.sum() for one in first))
        told[f"server_days{suffix}"] = round(float(sum(one.server_days.sum() for one in first)), 1)
    for name, systems in _ALSO.items():
        rates, _ = _mean(parts.by_recall(systems, parts.pooled))
        told |= _reduced(name, rates)
    return told


_ALSO = {
    "frozen_ensemble_reduction": ("frozen", "frozen_ensemble"),
    "online_model_reduction": ("frozen", "online_model"),
    "learning_reduction": ("frozen_ensemble", "online"),
}
"""What else is compared, on all data sets: by figure, the two systems."""


def _mean(found: Sequence[Rates]) -> Rates:
    """False alarms and recall [Y, 1 + B], each the mean over the recalls that were asked."""
    rates, reached = (np.stack([one[at] for one in found]) for at in (0, 1))
    return rates.mean(axis=0), reached.mean(axis=0)


def _reduced(name: str, rates: np.ndarray) -> dict[str, Any]:
    """A reduction and the ends of its interval, as flat figures."""
    mean, low, high = reduction(rates)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _compared(
    parts: Parts, sets: Sequence[str], systems: tuple[str, str], suffix: str
) -> dict[str, Any]:
    told: dict[str, Any] = {}
    every = parts.by_recall(systems, sets)
    chosen = {
        f"_recall_{round(100 * one)}": found for one, found in zip(RECALLS, every, strict=True)
    }
    for at, (rates, reached) in {"": _mean(every), **chosen}.items():
        told |= _reduced(f"false_alarm_reduction{at}{suffix}", rates)
        frozen, online = (None if np.isnan(one) else float(one) for one in rates[:, 0])
        told[f"false_alarms_frozen{at}{suffix}"] = frozen
        told[f"false_alarms_online{at}{suffix}"] = online
        told[f"recall{at}{suffix}"] = float(reached[:, 0].min())
    return told


def _printed(parts: Parts) -> Table:
    table = Table(title="false alarms per server-day at equal recall", box=SIMPLE_HEAD)
    for name in ("data", "system", *(f"recall {one:g}" for one in RECALLS), "mean", "reduction"):
        table.add_column(name, justify="left" if name in ("data", "system") else "right")
    for name, sets in {"all": parts.pooled, **{one: [one] for one in parts.sets}}.items():
        for system in SYSTEMS:
            found = parts.by_recall(("frozen", system.name), sets)
            mean, _ = _mean(found)
            table.add_row(
                name,
                system.name,
                *(f"{rates[1, 0]:.2f}" for rates, _ in found),
                f"{mean[1, 0]:.2f}",
                _told(reduction(mean)),
            )
    return table


def _told(found: tuple[float | None, float | None, float | None]) -> str:
    mean, low, high = found
    return "-" if mean is None else f"{mean:+.1%} ({low:+.1%}, {high:+.1%})"


if __name__ == "__main__":
    sys.exit(main())
