"""`make bench-federated`: what sites gain from learning together, and what bad ones can do.

Sites of real servers learn from the first days of the file and are scored on the later ones: alone,
by plain federated averaging, by ours, and centrally (`bench.federated_runs`); new sites have one
day. Then a quarter of the sites turns bad (`bench.federated_attacks`). Prints tables, then one flat
JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.federated_attacks import ATTACKS, EVERY, RULES, worst
from bench.federated_fleet import Plan
from bench.federated_runs import WAYS, Outcome, attacked, outcome
from bench.federated_scores import by_site, gain, mean_wql, pooled
from forecast.errors import ConfigError, DataError

OURS = "federated"
_FOUR = Plan(sites=16, servers=4, new_sites=4)
_SINGLE = Plan(sites=32, servers=1, rounds=8, steps=4, local_steps=64, central_steps=150)
_QUICK = Plan(sites=8, servers=4, new_sites=2, rounds=6, steps=5, local_steps=60, central_steps=100)
_ATTACK_ROUNDS, _ATTACK_STEPS = 6, 4
"""Of the good model that is attacked: every rule under every attack goes on from it."""
_WORSE = 0.02
"""A site may be worse than alone by so much."""
_WIDE = 160


def main() -> int:
    options = _arguments().parse_args()
    began = time.monotonic()
    try:
        told = _bench(options)
    except (ConfigError, DataError) as error:
        print(f"bench-federated: {error}", file=sys.stderr)
        return 2
    told |= {"quick": options.quick, "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(told))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.federated", description=__doc__)
    parser.add_argument("--data", type=Path, help="bitbrains.parquet of FLEETCAST_DATA by default.")
    parser.add_argument("--sites", type=int, help="Of four servers; no sites of one then.")
    parser.add_argument("--seeds", type=int, help="So many; 3, with --quick 1.")
    parser.add_argument("--quick", action="store_true", help="Smaller: under four minutes.")
    parser.add_argument("--json", action="store_true", help="Only the JSON line.")
    return parser


def _plans(options: argparse.Namespace) -> list[Plan]:
    if options.seeds is None:
        options.seeds = 1 if options.quick else 3
    if options.seeds < 1 or (options.sites is not None and options.sites < 4):
        raise ConfigError(f"--seeds {options.seeds} starts at 1, --sites {options.sites} at 4")
    first = _QUICK if options.quick else _FOUR
    if options.sites is not None:
        return [replace(first, sites=options.sites)]
    return [first] if options.quick else [first, _SINGLE]


def _data(options: argparse.Namespace) -> Path:
    if options.data is not None:
        return Path(options.data)
    folder = os.environ.get("FLEETCAST_DATA")
    if folder is None:
        raise ConfigError("--data: name a file, or set FLEETCAST_DATA to the folder with the data")
    return Path(folder) / "bitbrains.parquet"


def _bench(options: argparse.Namespace) -> dict[str, Any]:
    """Each plan in a process of its own, then the attacks on the first; shown as they end.

    The first plan's figures have plain names, the others' the plan's behind.
    """
    plans, data = _plans(options), _data(options)
    seeds = [7 + at for at in range(options.seeds)]
    told: dict[str, Any] = {}
    console = Console(width=_WIDE, quiet=options.json)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs: list[Future[Any]] = [pool.submit(outcome, data, plan, seeds) for plan in plans]
        shorter = replace(plans[0], rounds=_ATTACK_ROUNDS, steps=_ATTACK_STEPS)
        jobs.append(pool.submit(attacked, data, shorter, seeds[0]))
        for job in as_completed(jobs):
            found = job.result()
            if isinstance(found, Outcome):
                suffix = "" if found.plan == plans[0] else f"_{found.plan.name}"
                told |= {f"{name}{suffix}": value for name, value in figures(found).items()}
                console.print(_ways(found))
            else:
                told |= _hurt(found)
                console.print(_attacks(found, plans[0].sites))
    return told


def figures(one: Outcome) -> dict[str, Any]:
    """What a plan showed, as flat numbers."""
    sums, seed = pooled(one.sums), one.seeds[0]
    told: dict[str, Any] = {
        "sites": one.plan.sites,
        "servers": one.plan.sites * one.plan.servers,
        "seeds": len(one.seeds),
    }
    for way in WAYS:
        told[f"wql_{way}"] = mean_wql(sums[way])
    for other in ("local", "local_pair", "fedavg"):
        if other != "local_pair" or len(one.seeds) > 1:  # of one seed it is no pair
            told |= gain(sums[OURS], sums[other], seed=seed).told(f"gain_vs_{other}")
    told["personal_gain_vs_fedavg"] = gain(sums["personal"], sums["fedavg"], seed=seed).gain
    told["central_gap"] = mean_wql(sums[OURS]) / mean_wql(sums["central"]) - 1
    sites = by_site(sums[OURS], sums["local"], seed=seed)
    lowest = min(sites, key=lambda each: each.gain)
    told["worst_site"] = -lowest.gain
    told["worst_site_low"], told["worst_site_high"] = -lowest.high, -lowest.low
    told["sites_worse"] = sum(-each.high > _WORSE for each in sites)
    if one.new_sums:
        new = pooled(one.new_sums)
        told |= gain(new[OURS], new["local"], seed=seed).told("new_site_gain")
        told |= {f"wql_new_{way}": mean_wql(new[way]) for way in (OURS, "local", "fedavg")}
    told |= {f"cpu_s_{name}": round(spent, 1) for name, spent in one.cpu_s.items()}
    return told


def _hurt(table: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The worst attack under the default rule and under plain averaging."""
    rise, broken = worst(table, "default")
    plain_rise, plain_broken = worst(table, "fedavg")
    return {
        "attack_degradation": rise,
        "attack_broken": broken,
        "fedavg_attack_degradation": plain_rise,
        "fedavg_broken": plain_broken,
        "robust_cost": table["default"]["none"] / table["fedavg"]["none"] - 1,
    }


def _ways(one: Outcome) -> Table:
    sums, new = pooled(one.sums), pooled(one.new_sums) if one.new_sums else {}
    seeds = f"{len(one.seeds)} seeds" if len(one.seeds) > 1 else "1 seed"
    table = Table(box=SIMPLE_HEAD, title=f"{one.plan.name} sites x servers, {seeds}")
    for name in ("way", "WQL", "ours is below by", "low", "high", "new sites", "below by"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way in WAYS:
        below = gain(sums[OURS], sums[way], seed=one.seeds[0])
        cells = [f"{mean_wql(sums[way]):.4f}"]
        cells += [f"{part:+.1%}" for part in (below.gain, below.low, below.high)]
        if way in new:
            known = gain(new[OURS], new[way], seed=one.seeds[0])
            cells += [f"{mean_wql(new[way]):.4f}", f"{known.gain:+.1%}"]
        table.add_row(way, *cells)
    return table


def _attacks(table: Mapping[str, Mapping[str, float]], sites: int) -> Table:
    """Each cell's loss over that of plain averaging without an attack."""
    bad = -(-sites // EVERY)
    title = f"{bad} of {sites} sites are bad: WQL against clean fedavg"
    printed = Table(box=SIMPLE_HEAD, title=title)
    printed.add_column("rule")
    for attack in ATTACKS:
        printed.add_column(attack.replace("_", " "), justify="right")
    clean = table["fedavg"]["none"]
    for rule in RULES:
        rises = [table[rule][attack] / clean - 1 for attack in ATTACKS]
        cells = [f"{rise:+.1%}" if math.isfinite(rise) else "broken" for rise in rises]
        printed.add_row(rule, *cells)
    return printed


if __name__ == "__main__":
    sys.exit(main())
