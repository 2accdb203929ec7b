"""What an acknowledgement means, who may write, and what waits: the actors' side of it, no Ray."""

from __future__ import annotations

import asyncio
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from ray.exceptions import RayTaskError

from actors.appends import Appends
from actors.buffer import BufferActor
from actors.ledger import LedgerActor
from actors.state import ControllerState, Pending, StateFile
from forecast.errors import Busy, StateError
from forecast.http import problems
from forecast.storage import DISK, Disk, write_atomic
from tests.forecast.crash_disk import Crash, CrashDisk, QuickDisk
from tests.forecast.ledger_scene import HORIZON, LEVELS, TARGETS, block
from tests.train.streams import SETTINGS, STEP_S, block_of, steady

BEGIN = 1000
_DEADLINE_S = 20.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Nobody waits for a lock, nor for the next repair."""
    monkeypatch.setattr("actors.buffer.HANDOVER_S", 0.0)
    monkeypatch.setattr("actors.ledger.HANDOVER_S", 0.0)
    monkeypatch.setattr("actors.buffer._REPAIR_EVERY_S", 0.0)


def buffer_actor(folder, *, disk=DISK, owner="fleet a", **changes):
    settings = {**SETTINGS, "acknowledge": "fsync", "disk": disk, **changes}
    return BufferActor(**{**settings, "directory": folder, "owner": owner})


def ledger_actor(folder, owner="fleet a"):
    return LedgerActor(
        path=folder / "ledger.sqlite",
        owner=owner,
        targets=TARGETS,
        levels=LEVELS,
        horizon=HORIZON,
        step_seconds=10800,
        retain_slots=100,
        lock_timeout_s=0.0,
    )


class SlowDisk(Disk):
    """Syncs of the log's segments wait for `release`, are counted, and may fail."""

    def __init__(self):
        self.release = threading.Event()
        self.begun, self.fails = 0, False

    def sync(self, path):
        if path.suffix == ".seg":
            self.begun += 1
            assert self.release.wait(_DEADLINE_S)
            if self.fails:
                raise OSError(5, "Input/output error")
        super().sync(path)


async def until(condition):
    async with asyncio.timeout(_DEADLINE_S):
        while not condition():
            await asyncio.sleep(0)  # polls a condition with a deadline


def send(actor, number):
    return asyncio.ensure_future(actor.append(f"r{number}", steady(["a"], [BEGIN + number])))


async def test_appends_that_wait_together_share_one_sync_and_close_nothing_before_it(tmp_path):
    disk = SlowDisk()
    actor = buffer_actor(tmp_path, disk=disk)
    waiting = [send(actor, 0)]
    await until(lambda: disk.begun == 1)
    waiting += [send(actor, number) for number in range(1, 10)]
    waiting.append(send(actor, 3))  # a retry waits like the first
    closed = asyncio.ensure_future(actor.wait_closed(None, _DEADLINE_S))
    async with asyncio.timeout(_DEADLINE_S):
        while (shown := await actor.status()).requests < 10:
            await asyncio.sleep(0)  # polls a condition with a deadline
    assert (shown.clock_slot, shown.closed_slot) == (None, None)
    assert not any(one.done() for one in (*waiting, closed))
    disk.release.set()
    reports = await asyncio.gather(*waiting)
    assert disk.begun == 2
    assert reports[3] is reports[10]
    assert (await closed).closed_slot is not None
    assert (await actor.status()).closed_slot == BEGIN + 8
    await actor.close()


async def test_with_write_nobody_waits_for_the_disk(tmp_path):
    disk = SlowDisk()
    actor = buffer_actor(tmp_path, disk=disk, acknowledge="write")
    await send(actor, 0)
    await send(actor, 1)
    assert ((await actor.status()).closed_slot, disk.begun) == (BEGIN, 0)
    disk.release.set()
    await actor.close()


async def test_after_a_failed_sync_those_that_waited_are_told_and_may_send_again(tmp_path):
    disk = SlowDisk()
    actor = buffer_actor(tmp_path, disk=disk)
    disk.release.set()
    await send(actor, 0)
    disk.fails = True
    failed = await asyncio.gather(*(send(actor, n) for n in (1, 2, 3)), return_exceptions=True)
    assert [type(one) for one in failed] == [StateError] * 3
    assert (await actor.status()).clock_slot == BEGIN
    disk.fails = False
    again = [await send(actor, number) for number in (3, 2, 1, 0, 4)]
    assert [report.accepted for report in again] == [3] * 5
    assert (await actor.status()).rows == 5
    shown = await actor.status()
    await actor.close()
    heir = buffer_actor(tmp_path)
    found = await heir.status()
    assert (found.rows, found.requests, found.closed_slot) == (5, 5, shown.closed_slot)
    await heir.close()


async def test_while_the_log_cannot_be_repaired_appends_are_busy(tmp_path, monkeypatch):
    monkeypatch.setattr("actors.buffer._REPAIR_EVERY_S", 60.0)
    disk = SlowDisk()
    disk.release.set()
    actor = buffer_actor(tmp_path, disk=disk)
    await send(actor, 0)
    disk.fails = True
    with pytest.raises(StateError, match="cannot sync"):
        await send(actor, 1)
    monkeypatch.setattr(disk, "rename", _no_rename)
    with pytest.raises(StateError, match="read-only"):
        await send(actor, 1)
    with pytest.raises(Busy, match="cannot write") as refused:
        await send(actor, 1)
    assert refused.value.retry_after_s == 60
    assert (await actor.fleet(BEGIN)).servers == ("a",)


def _no_rename(source, target):
    raise OSError(30, "read-only file system")


@pytest.mark.parametrize("make", [buffer_actor, ledger_actor])
async def test_state_has_one_owner_who_is_named(tmp_path, make):
    first = make(tmp_path)
    with pytest.raises(StateError, match=r"owned by 'fleet a' \(host .*, process \d+, epoch 1\)"):
        make(tmp_path, owner="fleet b")
    await first.close()
    await make(tmp_path, owner="fleet b").close()


async def test_one_that_comes_back_after_another_took_over_may_only_read(tmp_path):
    buffer, ledger = buffer_actor(tmp_path / "buffer"), ledger_actor(tmp_path)
    await send(buffer, 0)
    await ledger.issue([block(5)])
    for record in (tmp_path / "buffer/owner.lock.json", tmp_path / "ledger.sqlite.lock.json"):
        # As a holder on another node would leave it, where the file system knows no locks.
        taken = record.read_bytes().replace(b'"epoch": 1', b'"epoch": 2')
        write_atomic(record, taken.replace(b"fleet a", b"fleet b"))
    with pytest.raises(StateError, match=r"'fleet b'.*epoch 2.*this is epoch 1, now read-only"):
        await send(buffer, 1)
    nothing = ((), np.empty((0, len(TARGETS))))
    for write in (ledger.issue([block(6)]), ledger.score(6, nothing)):
        with pytest.raises(StateError, match="'fleet b'"):
            await write
    assert (await buffer.fleet(BEGIN)).servers == ("a",)
    members = {block.member for block in await ledger.blocks(5)}
    assert members == {"champion", "champion_calibrated", "ensemble"}
    await buffer.close()
    await ledger.close()


async def test_a_damaged_log_does_not_keep_the_lock(tmp_path):
    actor = buffer_actor(tmp_path)
    for number in range(3):
        await send(actor, number)
    await actor.close()
    path = next(tmp_path.glob("log-*.seg"))
    whole = path.read_bytes()
    path.write_bytes(whole[:50] + b"\x00" + whole[51:])
    with pytest.raises(StateError, match="damaged"):
        buffer_actor(tmp_path)
    path.write_bytes(whole)
    await buffer_actor(tmp_path).close()


async def test_too_little_free_space_stops_learning_then_ingest_and_says_when_to_retry(tmp_path):
    enough = {"learning_free_bytes": 1 << 60, "ingest_free_bytes": 0}
    actor = buffer_actor(tmp_path, **enough)
    await send(actor, 0)
    shown = await actor.status()
    assert not shown.may_learn
    assert shown.free_bytes > 0
    await actor.close()
    actor = buffer_actor(tmp_path, ingest_free_bytes=1 << 60)
    with pytest.raises(Busy, match="free space") as refused:
        await send(actor, 1)
    assert refused.value.retry_after_s == 30
    assert (await actor.fleet(BEGIN)).servers == ("a",)
    assert (await actor.status()).requests == 1
    await actor.close()


class StoppedBuffer:
    """An actor that answers nothing until it goes on."""

    def __init__(self, actor):
        self.actor, self.goes_on, self.calls = actor, asyncio.Event(), 0

    async def append(self, request_id, samples):
        self.calls += 1
        await self.goes_on.wait()
        return await self.actor.append(request_id, samples)


async def test_a_stopped_buffer_costs_no_more_than_was_on_its_way(tmp_path):
    stopped = StoppedBuffer(buffer_actor(tmp_path, acknowledge="write"))
    appends = Appends(stopped.append, limit_bytes=1 << 20, patience_s=0.05)
    samples = steady(["a"], range(BEGIN, BEGIN + 20))
    first = [appends.append(f"r{number}", samples) for number in range(20)]
    told = await asyncio.gather(*first, return_exceptions=True)
    assert {type(one) for one in told} == {Busy}
    held, calls = appends.nbytes, stopped.calls
    for number in range(1000):
        with pytest.raises(Busy) as refused:
            await appends.append(f"r{number}", samples)
    assert (appends.nbytes, stopped.calls) == (held, calls)
    assert refused.value.retry_after_s > 0
    stopped.goes_on.set()
    await until(lambda: appends.nbytes == 0)
    # The ones that were told to come again are kept once.
    again = await asyncio.gather(*(appends.append(f"r{number}", samples) for number in range(20)))
    assert sum(report.repeated < report.accepted for report in again) == 1
    assert (await stopped.actor.status()).requests == 20


async def test_more_than_the_limit_is_refused_at_once_and_one_alone_always_fits(tmp_path):
    stopped = StoppedBuffer(buffer_actor(tmp_path, acknowledge="write"))
    appends = Appends(stopped.append, limit_bytes=10, patience_s=_DEADLINE_S)
    large = asyncio.ensure_future(appends.append("large", steady(["a"], [BEGIN])))
    await until(lambda: stopped.calls == 1)
    with pytest.raises(Busy, match="on their way"):
        await appends.append("one more", steady(["a"], [BEGIN]))
    stopped.goes_on.set()
    assert (await large).accepted == 3
    assert appends.nbytes == 0


async def test_a_log_that_cannot_be_written_is_busy_to_who_sends(tmp_path):
    class FullDisk(Disk):
        def append(self, path, data):
            raise OSError(28, "No space left on device")

    appends = Appends(buffer_actor(tmp_path, disk=FullDisk()).append, limit_bytes=1 << 20)
    with pytest.raises(Busy, match="cannot write") as refused:
        await appends.append("r", block_of([("a", BEGIN * STEP_S, "cpu", 0.5)]))
    assert refused.value.retry_after_s == 5


def across(error):
    """An error as it arrives from another process: Ray pickles it and raises a copy around it."""
    crossed = pickle.loads(pickle.dumps(error))  # noqa: S301 - made in this line
    return RayTaskError("append", "Traceback", crossed).as_instanceof_cause()


async def test_busy_from_the_actor_is_a_503_with_its_retry_after():
    async def refused(_request_id, _block):
        raise across(Busy("too little free space", retry_after_s=30))

    with pytest.raises(Busy) as told:
        await Appends(refused, limit_bytes=1 << 20).append("r", steady(["a"], [BEGIN]))
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    async def ask():
        raise across(told.value)

    answer = TestClient(app).get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["detail"] == "too little free space"


@pytest.mark.parametrize("power_cut", [False, True])
def test_killed_at_any_file_operation_of_a_commit_the_state_is_the_old_or_the_new(
    tmp_path, power_cut
):
    old = ControllerState(slot=7, last_update_slot=5)
    new = replace(old, slot=8, pending=Pending("update", "u-8", 8, 9, 1))
    folder = tmp_path / "state"
    folder.mkdir()
    StateFile(folder / "state.json", disk=QuickDisk()).save(old)
    counting = CrashDisk(folder)
    StateFile(folder / "state.json", disk=counting).save(new)
    found = []
    for at in range(counting.done):
        StateFile(folder / "state.json", disk=QuickDisk()).save(old)
        with pytest.raises(Crash):
            StateFile(folder / "state.json", disk=CrashDisk(folder, at, power_cut)).save(new)
        found.append(StateFile(folder / "state.json").load())
    assert {old} <= set(found) <= {old, new}
    assert found == sorted(found, key=lambda state: state.slot)
