"""A fleet that was backed up while it ran goes on elsewhere as if nothing had happened."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from actors import backups
from actors.local import LocalFleet
from forecast.audit import AuditLog, verify
from forecast.restore import restore
from forecast.storage import OwnerLock
from tests.actors.scenario import blocks, outcome_of, small_config, small_replay

REPLAY = small_replay()
TAKEN_AT = 40
"""Streamed slots before the backup: one update was judged, another is on its way."""


def config(folder: Path):
    learning = {"strategy": "replay", "replay_buffer_size": 400, "update_latency_slots": 6}
    made = small_config(folder / "state", REPLAY, **learning)
    return made.model_copy(update={"storage_path": folder / "storage"})


async def take(fleet: LocalFleet, made, folder: Path):
    return await backups.take(
        folder,
        turn=asyncio.Lock(),
        panel_dir=made.panel_dir,
        stepped=lambda: fleet.controller.state.slot,
        registry=fleet.registry,
        buffer=fleet.buffer,
        ledger=fleet.ledger,
        fleet=made.fleet,
        panel=made.panel.name,
        now=lambda: 5.0,
    )


async def computed(fleet: LocalFleet, slot: int, version: int) -> bytes:
    """The forecasts as of a slot, from windows that are cut anew."""
    raw = await fleet.buffer.fleet.remote(slot)
    artifact = await fleet.registry.load.remote(version)
    members = fleet.controller.settings.members()
    members.load(version, artifact)
    return np.asarray(members.forecast(raw, version)).tobytes()


async def test_a_restored_fleet_forecasts_and_decides_as_the_one_that_went_on(tmp_path):
    first = config(tmp_path / "here")
    stream = blocks(REPLAY)
    fleet = LocalFleet(first, now=lambda: 0.0)
    for request_id, block in stream[: 8 + TAKEN_AT]:
        await fleet.append(request_id, block)
    assert fleet.controller.state.pending is not None
    slot, before = fleet.controller.state.slot, await outcome_of(fleet)
    told = await take(fleet, first, tmp_path / "backup")
    assert told["slot"] == slot
    asked = await computed(fleet, slot - 20, before["version"])
    for request_id, block in stream[8 + TAKEN_AT :]:
        await fleet.append(request_id, block)
    after = await outcome_of(fleet)
    await fleet.close()

    second = config(tmp_path / "there")
    storage = second.storage_path
    restore(tmp_path / "backup", state_dir=second.state_dir, storage=storage, who="ann", now_s=9.0)
    assert verify(second.panel_dir / "audit", head=told["audit_head"]).records > 2
    again = LocalFleet(second, now=lambda: 0.0)
    assert await outcome_of(again) == before
    assert await computed(again, slot - 20, before["version"]) == asked
    for request_id, block in stream[8 + TAKEN_AT :]:
        await again.append(request_id, block)
    assert await outcome_of(again) == after
    assert len(after["decisions"]) > len(before["decisions"])
    await again.close()
    with OwnerLock(second.panel_dir / "owner.lock", "anybody") as lock:
        assert lock.epoch == 3  # the fleet's here was the first, the restored one's the second
    kinds = [record.kind for record in AuditLog(second.panel_dir / "audit").records()]
    assert kinds.count("restored") == 1
