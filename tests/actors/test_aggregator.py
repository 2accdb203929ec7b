"""The aggregator's actor: what it answered is on disk, and a repeated call changes nothing."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import numpy as np
import pytest

from actors.aggregator import AggregatorActor
from actors.local import LocalHandle
from forecast.errors import Busy, StateError
from forecast.storage import Disk
from tests.forecast.crash_disk import Crash, CrashDisk, QuickDisk
from tests.train.federated.scene import LAYOUT, FullDisk, meta
from train.federated.aggregator import Aggregator
from train.federated.settings import AggregatorSettings
from train.federated.state import save
from train.federated.update import Verdict

SETTINGS = AggregatorSettings(updates=3, quorum=1, optimizer="adam", gated=True)


def actor(folder: Path, disk: Disk | None = None, **given) -> AggregatorActor:
    return AggregatorActor(
        directory=folder / "federated",
        owner="fleet a",
        layout=LAYOUT,
        start=np.zeros(6, np.float32),
        disk=disk or QuickDisk(),
        **{"settings": SETTINGS, **given},
    )


def state_of(one: Aggregator) -> dict[str, bytes]:
    saved = save(one)
    return {"head": saved.head, **{name: make() for name, make in saved.pieces.items()}}


def update(number: int) -> tuple:
    values = np.random.default_rng(number).normal(size=6).astype(np.float32)
    return meta(f"s{number % 4}", number), values


async def run(folder: Path, disk: Disk, done: list[int]) -> AggregatorActor:
    """Offers, steps and verdicts, each call again until it was answered; `done` are the answers."""
    one = actor(folder, disk)
    try:
        for number in range(len(done), 12):
            at = number // 6
            if number % 6 == 4:
                await one.step(0.0)
                candidate = await one.candidate()
                assert candidate is None or candidate[0] == at + 1
            elif number % 6 == 5:
                await (one.accept if at else one.reject)(at + 1)
            else:
                receipt = await one.offer(*update(number))
                assert receipt.counted
                assert receipt.durable
            done.append(number)
    except BaseException:
        one._lock.release()  # as the kernel does when the process is gone
        raise
    return one


async def test_killed_anywhere_and_called_again_it_ends_bitwise_the_same(tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    wanted = await run(plain, QuickDisk(), [])
    for at in range(2, 400, 3):
        folder = tmp_path / str(at)
        (folder / "federated").mkdir(parents=True)
        disk, done = CrashDisk(folder / "federated", at, power_cut=at % 2 == 0), []
        try:
            await (await run(folder, disk, done)).close()
            break
        except Crash:
            pass
        again = await run(folder, QuickDisk(), done)
        assert state_of(again._aggregator) == state_of(wanted._aggregator)
        await again.close()
    assert 60 < at < 399


async def test_an_answer_is_on_disk_before_it_is_given(tmp_path):
    one = actor(tmp_path)
    await one.offer(*update(0))
    one._lock.release()
    other = actor(tmp_path)
    assert (await other.offer(*update(0))).verdict is Verdict.DUPLICATE
    assert (
        state_of(other._aggregator)["head"]
        != state_of(Aggregator(LAYOUT, np.zeros(6, np.float32), settings=SETTINGS))["head"]
    )
    await other.close()


async def test_with_a_full_disk_it_answers_busy_and_later_knows_the_update(tmp_path):
    disk = FullDisk()
    one = actor(tmp_path, disk)
    disk.full = True
    for _ in range(2):
        with pytest.raises(Busy, match="cannot write now"):
            await one.offer(*update(0))
    assert (await one.status())["unwritten"] == 1
    disk.full = False
    receipt = await one.offer(*update(0))
    assert (receipt.verdict, receipt.durable) == (Verdict.DUPLICATE, True)
    await one.offer(*update(1))
    status = await one.status()
    assert (status["unwritten"], status["updates"]) == (0, 2)
    await one.close()
    again = actor(tmp_path)
    assert (await again.status())["updates"] == 2
    await again.close()


class CountingDisk(QuickDisk):
    """Counts how often the head was written."""

    heads = 0

    def write(self, path: Path, data: bytes) -> None:
        self.heads += path.name.endswith("head")
        super().write(path, data)


async def test_calls_at_the_same_time_share_a_write_and_refused_ones_need_none(tmp_path):
    disk = CountingDisk()
    one = actor(tmp_path, disk, settings=AggregatorSettings(updates=99))
    receipts = await asyncio.gather(*(one.offer(meta(f"s{n}"), update(n)[1]) for n in range(20)))
    assert all(each.durable and each.counted for each in receipts)
    assert disk.heads <= 3
    before = disk.heads
    for _ in range(3):
        await one.offer(meta("s0"), update(0)[1])
        await one.offer(meta("s0", 1, base_version=7), update(0)[1])
        await one.step(0.0)
    assert disk.heads == before
    await one.close()


async def test_what_cannot_be_read_is_refused_and_leaves_no_lock_behind(tmp_path):
    one = actor(tmp_path)
    await one.offer(*update(0))
    await one.close()
    head = tmp_path / "federated" / "head"
    data = head.read_bytes()
    head.write_bytes(data[:-1])
    with pytest.raises(StateError, match="checksum does not match"):
        actor(tmp_path)
    head.write_bytes(data)
    again = actor(tmp_path)
    assert (await again.status())["updates"] == 1
    await again.close()


async def test_a_tree_of_actors_hands_on_what_it_collected(tmp_path):
    root = actor(tmp_path / "root")
    leaves = [
        actor(tmp_path / name, node=name, settings=AggregatorSettings()) for name in ("l0", "l1")
    ]
    for number in range(4):
        await leaves[number % 2].offer(*update(number))
    for leaf in (LocalHandle(each) for each in leaves):
        partial = await leaf.partial.remote()
        receipt = await root.merge(partial)
        assert (receipt.verdict, receipt.durable) == (Verdict.ACCEPTED, True)
        assert (await root.merge(partial)).verdict is Verdict.DUPLICATE
        await leaf.confirm.remote(partial.sequence)
        assert await leaf.partial.remote() is None
    report = await root.step(0.0)
    assert report is not None
    assert report.sites == ("s0", "s1", "s2", "s3")
    assert await root.last() == report
    await root.accept(1)
    version, shared = await root.shared()
    for leaf in leaves:
        await leaf.adopt(version, {"": shared})
        await leaf.adopt(version, {"": shared})
        assert (await leaf.shared())[0] == 1
        await leaf.close()
    await root.close()


@pytest.mark.ray
def test_on_ray_deltas_come_by_reference_and_a_kill_loses_nothing(tmp_path, ray_cluster):
    import ray

    shell = ray.remote(AggregatorActor)
    options = {"num_cpus": 0.1, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": 100}
    handle = shell.options(name=f"aggregator-{uuid.uuid4().hex[:8]}", **options).remote(
        directory=tmp_path / "federated",
        owner="fleet a",
        layout=LAYOUT,
        start=np.zeros(6, np.float32),
        settings=SETTINGS,
    )
    try:
        sent = [(update(n)[0], ray.put(update(n)[1])) for n in range(3)]
        first = ray.get([handle.offer.remote(*each) for each in sent], timeout=60)
        assert all(each.durable and each.verdict is Verdict.ACCEPTED for each in first)
        ray.kill(handle, no_restart=False)
        again = ray.get([handle.offer.remote(*each) for each in sent], timeout=60)
        assert [each.verdict for each in again] == [Verdict.DUPLICATE] * 3
        report = ray.get(handle.step.remote(0.0), timeout=60)
        assert (report.outcome, report.updates) == ("stepped", 3)
    finally:
        ray.kill(handle)
