"""A small fleet with everything in it: history, a first model, updates, verdicts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from actors.local import LocalFleet
from connect.replay import Replay, demo
from forecast.config import Config
from forecast.config_files import load
from forecast.schema import SampleBlock
from train.rollout import RolloutRules

MEMBERS = {
    "champion",
    "champion_calibrated",
    "climatology",
    "copy_last",
    "ensemble",
    "least_squares",
    "quantile_network",
    "seasonal_naive",
}
"""Who issues forecasts of record, once there is a champion."""

HISTORY_DAYS, STREAM_SLOTS = 2, 84

ROLLOUT = RolloutRules(
    shadow=9,
    canary=3,
    fast_shadow=0,
    fast_canary=3,
    canary_share=0.1,
    horizon=6,
    threshold=0.05,
)
"""Shadow, then canary; after a drift the canary at once."""


def small_replay() -> Replay:
    """Four servers, two days of history; the drift comes a day later."""
    return demo(seed=3, servers_per_role=1, history_days=HISTORY_DAYS)


def small_config(state_dir: Path, replay: Replay, **learning: Any) -> Config:
    """A tiny TFT that learns every two hours, its gate on the last six."""
    overrides = replay.config()
    overrides["state_dir"] = str(state_dir)
    overrides["panel"].update(context="2h", horizon="30m", quantiles=[0.1, 0.5, 0.9])
    overrides["training"].update(max_steps=30, windows=512, batch_size=32, threads=1)
    overrides["model"] = {"hidden_size": 4, "hidden_continuous_size": 4}
    overrides["serve"] = {"allow_anonymous_loopback": True}
    overrides["online_learning"] = {
        "enabled": True,
        "update_frequency_minutes": 120,
        "min_samples_for_update": 10,
        "sliding_window_hours": 36,
        "windows_per_update": 64,
        "online_batch_size": 32,
        "online_epochs": 2,
        "gate_holdout_hours": 6,
        "when_late": "wait",
        **learning,
    }
    return load((), overrides=overrides).config


def blocks(replay: Replay, *, slots: int = STREAM_SLOTS) -> list[tuple[str, SampleBlock]]:
    """The history in eight blocks, then one block per streamed slot, with their request ids."""
    edges = np.linspace(replay.first_slot, replay.start_slot, 9).astype(int).tolist()
    spans = list(pairwise(edges))
    spans += [(s, s + 1) for s in range(replay.start_slot, replay.start_slot + slots)]
    made = []
    for start, end in spans:
        block, rejects = replay.samples(start, end, schema=replay.schema)
        assert not rejects
        made.append((f"slots-{start}", block))
    return made


async def play(config: Config, replay: Replay, *, slots: int = STREAM_SLOTS) -> dict[str, Any]:
    """The whole scenario in this process; its outcome."""
    fleet = LocalFleet(config, now=lambda: 0.0)
    for request_id, block in blocks(replay, slots=slots):
        await fleet.append(request_id, block)
    outcome = await outcome_of(fleet)
    await fleet.close()
    return outcome


async def outcome_of(fleet: Any) -> dict[str, Any]:
    """What was decided and forecast: everything that must not depend on where the loop ran."""
    updates = await fleet.registry.updates.remote(100, None)
    snapshot = await fleet.ledger.latest.remote()
    status = await fleet.buffer.status.remote()
    return {
        "decisions": [(u.update_id, u.verdict, u.slot, u.version, u.reasons) for u in updates],
        "state": await fleet.registry.summary.remote(),
        "slot": snapshot.slot,
        "version": snapshot.version,
        "forecasts": {block.member: block.values.tobytes() for block in snapshot.blocks},
        "rows": status.rows,
        "accuracy": await fleet.ledger.accuracy.remote(since_slot=None, server=None, target=None),
    }
