"""`make bench-weights`: learned ensemble weights against uniform, recency and the best member.

Three versions of the model, each trained on a longer history than the one before, and the experts
forecast every slot of a real stream. Each rule combines them as production does, slot by slot,
with labels that come 0, H and 4H slots late. Nothing is calibrated: the rules alone are compared.
A gain is 1 - WQL / WQL of the other; its interval is a paired bootstrap over blocks of time.

Legend: N slots, K members, S servers, H horizon, T targets, Q levels, F sums per cell.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors import arguments
from bench.configs import LAPTOP
from bench.losses import TARGETS
from bench.online_base import base_at
from bench.online_table import mean_wql, paired_gain
from bench.whole_stream import filled, issued
from connect.replay import Replay, from_file
from forecast.clock import slots_per_day
from forecast.config import Config
from forecast.config_files import load
from forecast.ensemble import Rule, Weights, by_rule, combine
from forecast.members import Members
from forecast.metrics import Float64Array, cell_sums, sums_width
from forecast.places import aligned
from forecast.record import CHAMPION, Float32Array
from train.buffer import Buffer

_HISTORIES = (3, 5, 7)
"""Days of history of each version."""
_RULES: tuple[Rule, ...] = ("learned", "uniform", "recency")
_BLOCK_HOURS = 6


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the members forecast at each origin [N, K, S, H, T, Q], and what came [N, S, T].

    NaN: nothing was issued, nothing came.
    """

    members: tuple[str, ...]
    servers: tuple[str, ...]
    levels: tuple[float, ...]
    forecasts: Float32Array
    actuals: Float32Array
    versions: int
    """So many of the members are versions; they come first, the oldest first."""


def main() -> int:
    options = _arguments().parse_args()
    began = time.monotonic()
    torch.set_num_threads(1)
    data = options.data or Path(os.environ["FLEETCAST_DATA"]) / "bitbrains.parquet"
    servers, days = (8, 2.0) if options.quick else (options.servers, options.days)
    told: dict[str, Any] = {"servers": servers, "days": days, "seed": options.seed}
    recorded, block = _record(data, options.targets, servers, days, options.seed)
    horizon = recorded.forecasts.shape[3]
    rows = []
    for name, delay in (("0", 0), ("h", horizon), ("4h", 4 * horizon)):
        sums = {rule: _played(recorded, rule, delay, block) for rule in _RULES}
        alone = {one: _alone(recorded, at, block) for at, one in enumerate(recorded.members)}
        best = min(alone, key=lambda one: _wql(alone[one], recorded.levels))
        others = {"uniform": sums["uniform"], "recency": sums["recency"], "best": alone[best]}
        told[f"best_member_{name}"] = best
        told[f"learned_wql_{name}"] = _wql(sums["learned"], recorded.levels)
        for other, theirs in others.items():
            told[f"{other}_wql_{name}"] = _wql(theirs, recorded.levels)
            gain = paired_gain(sums["learned"], theirs, recorded.levels, options.seed)
            for part, value in zip(("", "_low", "_high"), gain, strict=True):
                told[f"gain_over_{other}{part}_{name}"] = value
            rows.append(
                f"delay {name:>2}: {other:8} {gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"
            )
    print("learned weights: gain over", *rows, sep="\n", file=sys.stderr)
    told["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(told))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.weights", description=__doc__)
    parser.add_argument("--data", type=Path, help="bitbrains.parquet of FLEETCAST_DATA by default.")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--servers", type=int, default=12)
    parser.add_argument("--days", type=float, default=10.0, help="Streamed, after 7 of history.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="8 servers, 2 days.")
    return parser


def _record(data: Path, targets: str, servers: int, days: float, seed: int) -> tuple[Recorded, int]:
    """Every member's forecasts of the streamed days, and how many slots a block has."""
    history = max(_HISTORIES)
    replay = from_file(
        data,
        targets=tuple(targets.split(",")),
        servers=servers,
        days=days + history,
        history_days=history,
    )
    config = load([LAPTOP], data=replay.config()).config
    settings = arguments.settings(config)
    buffer = filled(config, replay)
    members = _versions(config, buffer, replay, seed)
    names = tuple(f"v{at + 1}" for at in range(len(_HISTORIES)))
    found, came = [], []
    fleet = buffer.fleet(replay.start_slot - 1).servers
    slots = range(replay.start_slot - 1, replay.end_slot - settings.horizon)
    for slot, raw, blocks in issued(buffer, settings, members, slots):
        asked = [members.request(raw, version) for version in range(1, len(names) + 1)]
        experts = [block for block in blocks if block.member != CHAMPION]
        made = [*members.predict(asked), *(block.values for block in experts)]
        # Whoever is retired for now, as after an outage, has no forecast: NaN.
        found.append(np.stack([aligned(values, raw.servers, fleet) for values in made]))
        came.append(_came(buffer, slot, fleet))
    every = (*names, *(block.member for block in experts))
    recorded = Recorded(every, fleet, settings.levels, np.stack(found), np.stack(came), len(names))
    return recorded, _BLOCK_HOURS * settings.per_hour


def _versions(config: Config, buffer: Buffer, replay: Replay, seed: int) -> Members:
    """Models of a longer and longer history, as versions 1, 2, 3."""
    settings = arguments.settings(config)
    members = Members(
        schema=settings.schema,
        context=settings.context,
        horizon=settings.horizon,
        levels=settings.levels,
        keep=len(_HISTORIES),
    )
    day = slots_per_day(config.panel.step)
    for version, days in enumerate(_HISTORIES, 1):
        slot = replay.first_slot + days * day - 1
        members.load(version, base_at(config, buffer, slot, seed))
    members.swap(len(_HISTORIES))
    return members


def _came(buffer: Buffer, slot: int, fleet: Sequence[str]) -> Float32Array:
    """The targets' values [S, T] of a slot."""
    servers, values = buffer.actuals(slot)
    return aligned(values, servers, fleet)


def _played(recorded: Recorded, rule: Rule, delay: int, block: int) -> Float64Array:
    """Sums [blocks, T, F] of the ensemble by one rule, whose labels come `delay` slots late."""
    count, _, servers, horizon, targets, levels = recorded.forecasts.shape
    chosen = slice(0, recorded.versions) if rule == "recency" else slice(None)
    names = recorded.members[chosen]
    weights = Weights.fresh(horizon, targets, recorded.levels)
    issued = np.empty((count, servers, horizon, targets, levels), np.float32)
    for at in range(count):
        if rule == "learned" and (came := at - delay) >= 1:
            matured = {
                step: (
                    recorded.forecasts[came - step][:, :, step - 1],
                    issued[came - step][:, step - 1],
                )
                for step in range(1, min(horizon, came) + 1)
            }
            weights = weights.learned(
                names, recorded.servers, matured, recorded.actuals[came], recorded.levels
            )
        share = by_rule(rule, weights, names, recorded.servers)
        made = recorded.forecasts[at][chosen]
        issued[at] = combine(share, made, weights.groups, weights.parts)
    return _sums(issued, recorded, block)


def _alone(recorded: Recorded, member: int, block: int) -> Float64Array:
    return _sums(recorded.forecasts[:, member], recorded, block)


def _sums(issued: Float32Array, recorded: Recorded, block: int) -> Float64Array:
    """Sums [blocks, T, F] over the cells for which every member issued, by the slot of origin."""
    count, _, horizon, targets, _ = issued.shape
    total = np.zeros((-(-count // block), targets, sums_width(recorded.levels)))
    usable = np.all(np.isfinite(recorded.forecasts), axis=(1, 5))  # [N, S, H, T]
    for step in range(horizon):
        upto = count - step - 1
        actuals = recorded.actuals[step + 1 :][:upto]
        cells = cell_sums(actuals, issued[:upto, :, step], recorded.levels, usable[:upto, :, step])
        np.add.at(total, np.arange(upto) // block, cells.sum(1))
    return total


def _wql(sums_BTF: Float64Array, levels: Sequence[float]) -> float:
    """Over all blocks."""
    return float(mean_wql(sums_BTF.sum(0)[None], levels)[0])


if __name__ == "__main__":
    sys.exit(main())
