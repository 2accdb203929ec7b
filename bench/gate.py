"""`python -m bench.gate`: how often the gate is right, on loss series of real updates.

Real versions are scaled so that one is truly so much better or worse than the other over the whole
series; the gate sees a day of it, at random, or 12 hours (`_12h`). The last line is one JSON line:

    power_*, accept_at_0, false_accept_*  share of challengers accepted that are truly 3 % better,
                              equal, 1 % or 3 % worse; the anchor is truly as good as the champion
    ratchet_wql_ratio_*       48 hourly updates, each truly 1 % worse than the champion it starts
                              from: the last champion's true WQL over the first one's
    ratchet_third_*           the same with 0.3 %
    day_change_sd             of a day's change of WQL around the true one
    upper_bound_holds         share of days on which the true change was under the bound of 95 %
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.losses import Setting, level, part, series
from train.gate import Decision, Evidence, Rules, decide
from train.paired import Losses, compare

_DAY = 24
_UPDATES = 48
_RULES = Rules(validate=True, threshold=0.05, weight_move=0.25)


@dataclass(frozen=True, slots=True)
class Ratchet:
    """A run of updates each truly worse than the version before it."""

    ratio: float
    """True WQL of the champion in the end, over that of the first."""
    accepted: int


def main() -> int:
    options = _arguments().parse_args()
    began = time.monotonic()
    setting = Setting(14, 24, 80, 5) if options.quick else Setting(40, 24, 400, 9)
    losses = series(options.data / "bitbrains.parquet", setting, seed=options.seed)
    print(f"{losses.blocks} hours, {len(losses.pinball)} versions")
    for version in losses.pinball:
        print(f"  version {version}: WQL {level(losses, version):.4f}")
    draws = np.random.default_rng(options.seed)
    trials, runs = (120, 20) if options.quick else (400, 100)
    figures: dict[str, Any] = {"trials": trials, "hours": losses.blocks}
    figures |= paired_noise(losses, draws, trials)
    for hours, ending in ((_DAY, ""), (12, "_12h")):
        for name, change in (
            ("power_3pct_gain", -0.03),
            ("accept_at_0", 0.0),
            ("false_accept_1pct_loss", 0.01),
            ("false_accept_3pct_loss", 0.03),
        ):
            figures[name + ending] = accepted(losses, draws, change, trials, hours)
    figures["ratchet_runs"] = runs
    for change, ending in ((0.01, ""), (0.003, "_third")):
        figures |= ratchets(losses, draws, change, runs, f"ratchet{ending}")
    figures["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(figures))
    return 0


def paired_noise(losses: Losses, draws: np.random.Generator, trials: int) -> dict[str, float]:
    """How far a day's change lies from the true one, and how often below its upper bound."""
    gaps, held = [], 0
    for trial in range(trials):
        day, one, other = _drawn(losses, draws, _DAY, 2)
        seen = part(losses, day, [_scaled(losses, "one", one, 1), _scaled(losses, "two", other, 1)])
        found = compare(seen, "one", "two", seed=trial)
        assert found is not None
        gaps.append(found.change)
        held += found.upper >= 0
    return {
        "day_change_sd": round(float(np.std(gaps)), 4),
        "upper_bound_holds": round(held / trials, 3),
    }


def accepted(
    losses: Losses, draws: np.random.Generator, change: float, trials: int, hours: int
) -> float:
    """Share of challengers accepted that are truly changed by so much, against champion and anchor.

    The anchor is a third version, truly as good as the champion.
    """
    passed, why = 0, Counter[str]()
    for trial in range(trials):
        day, *versions = _drawn(losses, draws, hours, 3)
        levels = (1 + change, 1, 1)
        models = zip(("challenger", "champion", "anchor"), versions, levels, strict=True)
        seen = part(losses, day, [_scaled(losses, *model) for model in models])
        decision = _decide(seen, champion=2, anchor=1, seed=trial)
        passed += decision.promote
        if not decision.promote:
            why.update({_rule(reason) for reason in decision.reasons})
    print(f"{change:+.0%} in {hours} h: {passed / trials:.1%} accepted; refused: {dict(why)}")
    return round(passed / trials, 4)


def _rule(reason: str) -> str:
    """Which rule a reason comes from."""
    for mark, rule in (
        ("covered", "coverage"),
        ("anchor", "anchor"),
        ("role", "role"),
        ("may change", "bound"),
    ):
        if mark in reason:
            return rule
    return "point"


def ratchets(
    losses: Losses, draws: np.random.Generator, change: float, runs: int, name: str
) -> dict[str, float]:
    """Where hourly updates end that are each truly worse than the champion they start from."""
    found = [ratchet(losses, draws, change, seed) for seed in range(runs)]
    ratios = np.array([run.ratio for run in found])
    figures = {
        f"{name}_wql_ratio_median": float(np.median(ratios)),
        f"{name}_wql_ratio_p95": float(np.quantile(ratios, 0.95)),
        f"{name}_wql_ratio_worst": float(ratios.max()),
        f"{name}_accepted_mean": float(np.mean([run.accepted for run in found])),
    }
    print(f"{_UPDATES} updates, each {change:+.1%}: {figures}")
    return {key: round(value, 4) for key, value in figures.items()}


def ratchet(losses: Losses, draws: np.random.Generator, change: float, seed: int) -> Ratchet:
    """One run: a day before each of `_UPDATES` hours, a version taken at random each time."""
    names = list(losses.pinball)
    start = int(draws.integers(losses.blocks - _DAY - _UPDATES + 1))
    held: dict[int, tuple[str, float]] = {0: (str(draws.choice(names)), 1.0)}
    champion = anchor = accepted = 0
    for hour in range(_UPDATES):
        others = [name for name in names if name != held[champion][0]]
        held[hour + 1] = (str(draws.choice(others)), held[champion][1] * (1 + change))
        models = {"challenger": hour + 1, "champion": champion, "anchor": anchor}
        seen = part(
            losses,
            slice(start + hour, start + hour + _DAY),
            [_scaled(losses, name, *held[number]) for name, number in models.items()],
        )
        verdict = _decide(seen, champion=champion, anchor=anchor, seed=seed * _UPDATES + hour)
        anchor = champion if verdict.anchor == "champion" else anchor
        if verdict.promote:
            champion, accepted = hour + 1, accepted + 1
    return Ratchet(ratio=held[champion][1], accepted=accepted)


def _drawn(
    losses: Losses, draws: np.random.Generator, hours: int, versions: int
) -> tuple[Any, ...]:
    """A stretch of so many hours, and different versions."""
    start = int(draws.integers(losses.blocks - hours + 1))
    names = draws.choice(list(losses.pinball), size=versions, replace=False)
    return (slice(start, start + hours), *map(str, names))


def _scaled(losses: Losses, name: str, version: str, wanted: float) -> tuple[str, str, float]:
    """The version's losses, so that its true WQL is the wanted one."""
    return name, version, wanted / level(losses, version)


def _decide(seen: Losses, *, champion: int, anchor: int, seed: int) -> Decision:
    return decide(Evidence(losses=seen), _RULES, champion=champion, anchor=anchor, seed=seed)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer days, versions and trials")
    parser.add_argument("--seed", type=int, default=7)
    folder = os.environ.get("FLEETCAST_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(folder) if folder else None,
        required=folder is None,
        help="the folder of bitbrains.parquet (default: FLEETCAST_DATA)",
    )
    return parser


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
