"""`make bench-drift`: how often drift is told where there is none, and how soon where there is.

Made-up series without drift are watched by every detector, as the product feeds it: means of
blocks, the time of day removed. On real streams the product's own drift detection sees the losses
of the least-squares expert next to seasonal naive's, and the inputs; with `--quick` those only.
Servers that a scenario changes while they send nothing cannot be found; they are counted apart.

W slots, N series, B blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actors import arguments
from bench.drift_losses import Losses, config_of, losses_of
from bench.scenarios import Scenario, scenario
from forecast.clock import slots_per_day
from train.detector import Floats
from train.detectors import KINDS
from train.drift import Drift
from train.drift_rules import DriftRules
from train.season import Season

_DAY, _BLOCK = 288, 12
_MONTH_DAYS = 30
_MANY_ALARMS = 1_000_000
_SLOW = {"kswin": 4}
"""KSWIN watches so few series: it takes 0.4 ms a value."""


def main() -> int:
    options = _arguments().parse_args()
    began = time.monotonic()
    told: dict[str, Any] = {"quick": options.quick}
    series, days = (8, 45) if options.quick else (48, 120)
    for detector in KINDS:
        count = min(series, _SLOW.get(detector, series))
        for name, made in _STREAMS.items():
            slots = _between_alarms(
                detector, made(np.random.default_rng(options.seed), days, count)
            )
            told[f"{detector}_slots_between_alarms_{name}"] = slots
            print(f"{detector:13} {name:12} {slots:>8} slots between alarms", file=sys.stderr)
    data = options.data or Path(os.environ["FLEETCAST_DATA"])
    kinds = [options.detector] if options.quick else list(KINDS)
    for stream in ("natural", "drift"):
        played = scenario(stream, data=data)
        losses = losses_of(played, forecasts=not options.quick)
        rules = arguments.drift_rules(config_of(played))
        for kind in kinds:
            found = _real(played, losses, replace(rules, detector=kind))
            told |= {f"{kind}_{name}": value for name, value in found.items()}
            print(kind, stream, json.dumps(found), file=sys.stderr)
    told["step_ms_of_3000_servers"], told["block_ms_of_3000_servers"] = _cost(rules)
    told["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(told))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.drift", description=__doc__)
    parser.add_argument("--data", type=Path, help="A folder; FLEETCAST_DATA by default.")
    parser.add_argument("--detector", default="cusum", choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="Fewer series, inputs only.")
    return parser


def _iid(rng: np.random.Generator, days: int, count: int) -> Floats:
    return rng.standard_normal((days * _DAY, count))


def _lognormal(rng: np.random.Generator, days: int, count: int) -> Floats:
    made: Floats = rng.lognormal(size=(days * _DAY, count))
    return made


def _ar(share: float) -> Callable[[np.random.Generator, int, int], Floats]:
    """A first-order autoregression of variance 1."""

    def made(rng: np.random.Generator, days: int, count: int) -> Floats:
        noise = rng.standard_normal((days * _DAY, count))
        x = np.empty_like(noise)
        x[0] = noise[0]
        for at in range(1, len(noise)):
            x[at] = share * x[at - 1] + np.sqrt(1 - share**2) * noise[at]
        return x

    return made


def _seasonal(rng: np.random.Generator, days: int, count: int) -> Floats:
    angle = 2 * np.pi * np.arange(days * _DAY) / _DAY
    made: Floats = _ar(0.99)(rng, days, count) + 2 * np.sin(angle)[:, None]
    return made


_STREAMS: dict[str, Callable[[np.random.Generator, int, int], Floats]] = {
    "iid": _iid,
    "lognormal": _lognormal,
    "ar90": _ar(0.9),
    "ar99": _ar(0.99),
    "ar99_season": _seasonal,
}


def _between_alarms(kind: str, x_WN: Floats) -> int:
    """Mean slots between alarms of one series, of those in which it is watched; a bound if none."""
    count = x_WN.shape[1]
    rules = DriftRules(
        detector=kind, targets=("x",), resolutions=(1.0,), step_seconds=300, block=_BLOCK
    )
    detector, _ = rules.detectors(count)
    season, by = Season(2 * count, 1), np.zeros(1, bool)
    watched = alarms = 0
    # Both series of each server hold the same: level and spread have one detector.
    blocks_BN = np.repeat(x_WN.reshape(-1, _BLOCK, count).mean(1), 2, axis=1)
    floor = 0.1 * blocks_BN.std()
    for block, x in enumerate(blocks_BN):
        hours = np.full(len(x), block % 24)
        kinds = np.full(len(x), block // 24 % 7 >= 5).astype(np.int64)
        held = ~detector.watching[:, None]
        left = season.removed(x[:, None], hours, kinds, by, held)[:, 0]
        watched += int(detector.watching.sum())
        detector.update(left / floor)
        season.move(np.arange(len(x)), np.zeros(len(x), np.int64), detector.shift * floor)
        alarms += int(detector.drifted.sum())
    return watched * _BLOCK // max(1, alarms)


def _real(stream: Scenario, losses: Losses, rules: DriftRules) -> dict[str, Any]:
    """Alarms on a real stream, and how many of the scenario's drifts were found within a day."""
    drift = losses.watched(Drift(rules, kept=_MANY_ALARMS))
    day = slots_per_day(rules.step_seconds)
    begin, days = losses.start_slot, (len(losses.actuals) - losses.start) / day
    alarms = [alarm for alarm in drift.alarms if alarm.slot >= begin]
    changes = [(server, one.from_slot) for one in stream.drifts for server in one.servers]
    changed = {server for server, _ in changes}
    calm = len(losses.servers) - len(changed)
    told = sum(server not in changed for alarm in alarms for server in alarm.servers)
    wide = sum(alarm.fleet_wide for alarm in alarms)
    found = {
        f"{stream.name}_fleet_alarms_a_month": round(wide * _MONTH_DAYS / days, 2),
        f"{stream.name}_alarms_a_month_and_calm_server": round(told * _MONTH_DAYS / days / calm, 2),
    }
    if not changes:
        return found
    seen, delays = 0, []
    for server, since in changes:
        at, place = since - losses.first_slot, losses.servers.index(server)
        silent = not np.isfinite(losses.actuals[at : at + day, place]).any()
        seen += not silent
        when = [
            alarm.slot + 1 - since
            for alarm in alarms
            if alarm.slot >= since and server in alarm.servers
        ]
        if when and min(when) <= day:
            delays.append(min(when) * rules.step_seconds / 3600)
    return found | {
        "drifts": len(changes),
        "drifts_of_servers_that_send": seen,
        "drifts_found_within_a_day": len(delays),
        "hours_until_found": round(float(np.median(delays)), 1) if delays else None,
    }


def _cost(rules: DriftRules, servers: int = 3000) -> tuple[float, float]:
    """Milliseconds of a step, and of the last one of a block, once all are watched: medians."""
    rng, drift = np.random.default_rng(0), Drift(replace(rules, input_hours=24, loss_hours=24))
    names = [f"server-{number:04d}" for number in range(servers)]
    shape = (servers, len(rules.targets))
    zones = dict.fromkeys(names, "UTC")
    took: tuple[list[float], list[float]] = ([], [])
    for slot in range(56 * rules.block):
        parts = rng.lognormal(size=(3, *shape))
        began = time.perf_counter()
        ended = drift.update(
            slot=slot,
            servers=names,
            actuals_NT=parts[0],
            served_NT=parts[1],
            naive_NT=parts[2],
            timezones=zones,
        )
        took[ended].append(1000 * (time.perf_counter() - began))
    return tuple(round(float(np.median(one[-4:])), 1) for one in took)  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(main())
