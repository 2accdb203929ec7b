"""A fleet that was backed up while it ran goes on elsewhere as if nothing had happened.

Its decisions can be made again from what is on record, there and here.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from actors import arguments, backups
from actors.local import LocalFleet, LocalHandle
from actors.loop import ControllerActor
from cli import main
from forecast.audit import AuditLog, verify
from forecast.backup import check
from forecast.errors import StateError, UnknownUpdate
from forecast.restore import restore
from forecast.storage import OwnerLock
from tests.actors.federation_scene import actor as federation
from tests.actors.federation_scene import update
from tests.actors.scenario import blocks, outcome_of, small_config, small_replay
from train.evidence import reproduce

REPLAY = small_replay()
TAKEN_AT = 40
"""Streamed slots before the backup: one update was judged, another is on its way."""
BACK = 20
"""How many slots before the backup forecasts are compared as of."""


def config(folder: Path):
    learning = {"strategy": "replay", "replay_buffer_size": 400, "update_latency_slots": 6}
    made = small_config(folder / "state", REPLAY, **learning)
    return made.model_copy(update={"storage_path": folder / "storage"})


async def take(
    fleet: LocalFleet, made, folder: Path, turn: asyncio.Lock | None = None, aggregator: Any = None
):
    return await backups.take(
        folder,
        turn=turn or asyncio.Lock(),
        panel_dir=made.panel_dir,
        stepped=lambda: fleet.controller.state.slot,
        registry=fleet.registry,
        buffer=fleet.buffer,
        ledger=fleet.ledger,
        aggregator=aggregator,
        fleet=made.fleet,
        panel=made.panel.name,
        now=lambda: 5.0,
    )


async def computed(fleet: LocalFleet, slot: int) -> bytes:
    """The champion's forecasts as of a slot, from windows that are cut anew."""
    raw = await fleet.buffer.fleet.remote(slot)
    version = (await fleet.registry.state.remote()).champion
    members = fleet.controller.settings.members()
    members.load(version, await fleet.registry.load.remote(version))
    return np.asarray(members.forecast(raw, version)).tobytes()


@dataclass(frozen=True)
class Story:
    """What became of the fleet that was backed up."""

    folder: Path
    slot: int
    pending: str
    told: dict[str, Any]
    before: dict[str, Any]
    as_of: bytes
    after: dict[str, Any]


async def tell(folder: Path) -> Story:
    made, stream = config(folder / "here"), blocks(REPLAY)
    fleet = LocalFleet(made, now=lambda: 0.0)
    for request_id, block in stream[: 8 + TAKEN_AT]:
        await fleet.append(request_id, block)
    state, before = fleet.controller.state, await outcome_of(fleet)
    told = await take(fleet, made, folder / "backup")
    as_of = await computed(fleet, state.slot - BACK)
    for request_id, block in stream[8 + TAKEN_AT :]:
        await fleet.append(request_id, block)
    after = await outcome_of(fleet)
    await fleet.close()
    return Story(folder, state.slot, state.pending.update_id, told, before, as_of, after)


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Story:
    return asyncio.run(tell(tmp_path_factory.mktemp("story")))


def test_a_backup_says_what_it_holds(story):
    manifest = check(story.folder / "backup")
    assert (manifest.slot, manifest.taken_at) == (story.slot, 5.0)
    copied = {path for path in (story.folder / "backup").glob("*/**/*") if path.is_file()}
    assert story.told["bytes"] == sum(path.stat().st_size for path in copied)
    assert story.told["files"] == len(copied)
    names = {file.path for file in manifest.files}
    assert {"state/state.json", "state/ledger.sqlite", "state/audit/audit.jsonl"} <= names
    assert any(name.startswith("state/drift-") for name in names)
    assert any(name.startswith("state/buffer/replay/log-") for name in names)
    assert any(name.startswith("state/evidence/") for name in names)


@pytest.mark.slow
async def test_a_restored_fleet_forecasts_and_decides_as_the_one_that_went_on(story, tmp_path):
    made = config(tmp_path)
    where = {"state_dir": made.state_dir, "storage": made.storage_path}
    restore(story.folder / "backup", **where, who="ann", now_s=9.0)
    head = story.told["audit_head"]
    assert verify(made.panel_dir / "audit", head).records == story.told["audit_records"] + 1

    fleet = LocalFleet(made, now=lambda: 0.0)
    assert fleet.controller.state.pending.update_id == story.pending
    assert await outcome_of(fleet) == story.before
    assert await computed(fleet, story.slot - BACK) == story.as_of
    for request_id, block in blocks(REPLAY)[8 + TAKEN_AT :]:
        await fleet.append(request_id, block)
    assert await outcome_of(fleet) == story.after
    assert story.pending in [decision[0] for decision in story.after["decisions"]]
    await fleet.close()
    with OwnerLock(made.panel_dir / "owner.lock", "anybody") as lock:
        assert lock.epoch == 3  # the first was the fleet's here, the second the restored one's


async def test_every_decision_of_the_gate_is_made_again_to_the_same_bits(story):
    fleet = LocalFleet(config(story.folder / "here"), now=lambda: 0.0)
    decided = [decision[0] for decision in story.after["decisions"]]
    assert len(decided) >= 3
    for update_id in decided:
        record, data = await fleet.registry.evidence.remote(update_id)
        assert len(data) < 20_000
        assert reproduce(record.kind, record.detail, data).differs == ()
    with pytest.raises(UnknownUpdate, match="no verdict on 'update-1'"):
        await fleet.registry.evidence.remote("update-1")
    await fleet.close()


async def test_a_part_that_fails_leaves_no_backup(story, tmp_path):
    made = config(story.folder / "here")
    fleet = LocalFleet(made, now=lambda: 0.0)
    with pytest.raises(StateError, match="is there already"):
        await take(fleet, made, story.folder / "backup")

    class NoLedger:
        async def copy_to(self, folder):
            raise StateError("cannot copy the ledger: disk I/O error")

    whole, fleet.ledger._actor = fleet.ledger._actor, NoLedger()
    with pytest.raises(StateError, match="cannot copy the ledger"):
        await take(fleet, made, tmp_path / "backup")
    assert list(tmp_path.iterdir()) == []
    fleet.ledger._actor = whole
    await take(fleet, made, tmp_path / "backup")
    assert check(tmp_path / "backup").files
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]
    await fleet.close()


async def test_steps_wait_while_all_is_held_and_the_ledger_copied_and_no_longer(story, tmp_path):
    made = config(story.folder / "here")
    fleet, turn, seen = LocalFleet(made, now=lambda: 0.0), asyncio.Lock(), {}

    def watched(handle, *names):
        class Watched(type(handle._actor)):
            def __init__(self):
                self.__dict__ = handle._actor.__dict__

            def __getattribute__(self, name):
                if name in names:
                    seen[name] = turn.locked()
                return super().__getattribute__(name)

        return LocalHandle(Watched())

    fleet.registry = watched(fleet.registry, "begin_copy", "end_copy")
    fleet.ledger = watched(fleet.ledger, "copy_to")
    await take(fleet, made, tmp_path / "backup", turn)
    assert seen == {"begin_copy": True, "copy_to": True, "end_copy": False}
    await fleet.close()


async def test_the_controllers_actor_writes_one_backup_after_the_other_while_it_steps(tmp_path):
    made = small_config(tmp_path / "state", REPLAY, enabled=False)
    fleet = LocalFleet(made, now=lambda: 0.0)
    handles = {name: getattr(fleet, name) for name in ("buffer", "ledger", "trainer", "registry")}
    actor = ControllerActor(**handles, **arguments.controller(made))
    for request_id, block in blocks(REPLAY, slots=1)[:3]:
        await fleet.append(request_id, block)
    asked = [actor.backup(tmp_path / "backups" / name) for name in ("one", "two")]
    told = await asyncio.gather(*asked)
    await actor.close()
    for one in told:
        assert check(Path(one["folder"])).files
    assert sorted(path.name for path in (tmp_path / "backups").iterdir()) == ["one", "two"]
    await fleet.close()


class Vanishing:
    """An aggregator one of whose files goes while it is looked at."""

    async def begin_copy(self, folder: Path) -> None:
        raise FileNotFoundError(2, "No such file or directory", "settled-3")

    async def end_copy(self) -> None:
        raise StateError("no copy was begun here")


async def test_a_federations_state_goes_with_the_backup_whether_its_aggregator_runs_or_not(
    tmp_path,
):
    made = small_config(tmp_path / "state", REPLAY, enabled=False)
    fleet = LocalFleet(made, now=lambda: 0.0)
    aggregator = federation(made.panel_dir)
    await aggregator.send(*update("a", 0, 0))
    for name, asked in (("running", LocalHandle(aggregator)), ("stopped", None)):
        await take(fleet, made, tmp_path / name, aggregator=asked)
        manifest = check(tmp_path / name)
        places = [file.path for file in manifest.files if "/federated" in file.path]
        assert places.count("state/federated/head") == 1
        assert "state/federated-rounds/book.json" in places
        assert manifest.epochs.get("federated.lock") == (1 if asked else None)
    with pytest.raises(StateError, match="settled-3"):
        await take(fleet, made, tmp_path / "gone", aggregator=LocalHandle(Vanishing()))
    assert not (tmp_path / "gone").exists()
    await aggregator.close()
    await fleet.close()


def run(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_commands_verify_reproduce_and_restore_from_files_alone(story, tmp_path):
    state = story.folder / "here" / "state"
    head = story.told["audit_head"]
    verified = run("audit", "verify", "--state-dir", state, "--head", head)
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["records"] >= story.told["audit_records"]
    missing = run("audit", "verify", "--state-dir", state, "--head", "1" * 64)
    assert missing.exit_code == 1
    assert f"the record with hash {'1' * 64} is missing" in missing.output
    assert run("audit", "verify", "--state-dir", state, "--panel", "other").exit_code == 2

    update_id = story.after["decisions"][0][0]
    again = run("audit", "reproduce", update_id, "--state-dir", state)
    assert (again.exit_code, json.loads(again.stdout)["equal"]) == (0, True), again.output
    unknown = run("audit", "reproduce", "update-1", "--state-dir", state)
    assert (unknown.exit_code, "no verdict on 'update-1'" in unknown.output) == (1, True)

    target = ("--state-dir", tmp_path / "state", "--storage", tmp_path / "storage")
    checked = run("restore", story.folder / "backup", *target, "--dry-run")
    assert (checked.exit_code, json.loads(checked.stdout)["restored"]) == (0, False)
    assert list(tmp_path.iterdir()) == []
    restored = run("restore", story.folder / "backup", *target)
    assert restored.exit_code == 0, restored.output
    twice = run("restore", story.folder / "backup", *target)
    assert (twice.exit_code, "needs an empty place" in twice.output) == (1, True)
    kinds = [record.kind for record in AuditLog(tmp_path / "state" / "servers" / "audit").records()]
    assert kinds[-1] == "restored"
