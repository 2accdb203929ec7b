"""A backtest: a replay through the production controller in event time, and what it was worth.

Everything is as in the running fleet: forecasts of record are issued before their slots come,
updates take effect `update_latency_slots` after they were asked for, the gate decides. Only the
state is a temporary folder, and trainings run in this process.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.local import LocalFleet
from connect.replay import Replay
from forecast.accuracy import AccuracyReport
from forecast.config import Config
from forecast.errors import ConfigError
from forecast.schema import SampleBlock

_CHUNK_SLOTS = 96
"""Slots of history in one append: no more than the controller steps through at once."""


async def backtest(config: Config, replay: Replay, *, stream_days: float) -> dict[str, Any]:
    """Every member's WQL by horizon step over the streamed days, and what was learned.

    Raises ConfigError when not one slot would be streamed.
    """
    slots = round(stream_days * 86400 / config.panel.step)
    end = min(replay.end_slot, replay.start_slot + slots)
    if end <= replay.start_slot:
        raise ConfigError(f"{stream_days} days are no slot of {config.panel.step} s")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fleetcast-backtest-") as folder:
        fleet = LocalFleet(_here(config, Path(folder)), now=lambda: 0.0)
        try:
            for request_id, block in _blocks(config, replay, end):
                await fleet.append(request_id, block)
            report = await fleet.ledger.accuracy.remote(
                since_slot=replay.start_slot, server=None, target=None
            )
            updates = await fleet.registry.updates.remote(1_000_000)
        finally:
            await fleet.close()
    verdicts = Counter(f"{update.verdict}" for update in updates)
    return {
        "fleet": config.fleet,
        "streamed_slots": end - replay.start_slot,
        "step_seconds": config.panel.step,
        "members": members(report),
        "promoted": verdicts["promoted"],
        "rejected": verdicts["rejected"],
        "updates": [
            {
                "update_id": update.update_id,
                "slot": update.slot,
                "verdict": update.verdict,
                "relative_change": update.report.get("relative_change"),
            }
            for update in reversed(updates)
        ],
        "last_failure": fleet.controller.last_failure,
        "seconds": round(time.monotonic() - began, 1),
    }


def members(report: AccuracyReport) -> dict[str, Any]:
    """Each member's WQL: pooled, and by how many steps ahead."""
    return {
        member.member: {
            "wql": member.pooled.wql,
            "n": member.pooled.n,
            "wql_by_step": {str(row.horizon): row.wql for row in member.horizons},
        }
        for member in report.members
    }


def _here(config: Config, folder: Path) -> Config:
    """The same configuration on a state of its own; an update takes effect at its own slot."""
    learning = config.online_learning.model_copy(update={"when_late": "wait"})
    trainer = config.trainer.model_copy(update={"workers": 0})
    return config.model_copy(
        update={
            "state_dir": folder,
            "storage_path": None,
            "online_learning": learning,
            "trainer": trainer,
        }
    )


def _blocks(config: Config, replay: Replay, end: int) -> Iterator[tuple[str, SampleBlock]]:
    """The history in chunks, then slot by slot, each with its request id."""
    schema = config.panel.schema_of()
    slot = replay.first_slot
    while slot < end:
        history = slot < replay.start_slot
        upto = min(slot + _CHUNK_SLOTS, replay.start_slot) if history else slot + 1
        block, _ = replay.samples(slot, upto, schema=schema)
        yield f"slots-{slot}", block
        slot = upto
