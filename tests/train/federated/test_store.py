"""The state on disk: killed anywhere, it is the one before or the one after."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.errors import StateError
from tests.forecast.crash_disk import Crash, CrashDisk, QuickDisk
from tests.train.federated.scene import FullDisk, aggregator, meta
from train.federated.aggregator import Aggregator
from train.federated.state import save
from train.federated.store import AggregatorStore

CALLS = 9


def fresh(rule: str) -> Aggregator:
    return aggregator(updates=3, rule=rule, optimizer="adam", gated=True)


def call(one: Aggregator, number: int) -> None:
    """The n-th call of a run: three offers, a step, its verdict, and so on."""
    if number % 5 == 3:
        one.maybe_step(0.0)
    elif number % 5 == 4:
        one.accept_step() if number > 5 else one.reject_step()
    else:
        values = np.random.default_rng(number).normal(size=6).astype(np.float32)
        one.offer(meta(f"s{number}", base_version=one.version), values)


def bytes_of(one: Aggregator) -> dict[str, bytes]:
    saved = save(one)
    return {"head": saved.head, **{name: make() for name, make in saved.pieces.items()}}


def uninterrupted(rule: str) -> list[dict[str, bytes]]:
    """The state before every call, and the last one."""
    one, states = fresh(rule), []
    for number in range(CALLS):
        states.append(bytes_of(one))
        call(one, number)
    return [*states, bytes_of(one)]


@pytest.mark.parametrize("power_cut", [False, True])
@pytest.mark.parametrize("rule", ["mean", "median"])
def test_killed_at_any_operation_the_state_is_the_one_before_or_after(tmp_path, rule, power_cut):
    wanted, at = uninterrupted(rule), 0
    while True:
        root = tmp_path / str(at)
        root.mkdir()
        disk = CrashDisk(root, at, power_cut)
        acknowledged = 0
        try:
            store = AggregatorStore(root / "state", disk=disk)
            one = fresh(rule)
            store.load(one)
            for number in range(CALLS):
                call(one, number)
                store.write(save(one))
                acknowledged = number + 1
        except Crash:
            pass
        else:
            break
        back = fresh(rule)
        AggregatorStore(root / "state", disk=QuickDisk()).load(back)
        assert bytes_of(back) in (wanted[acknowledged], wanted[acknowledged + 1])
        at += 1
    assert at > 50


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_a_run_that_goes_on_after_a_kill_ends_bitwise_the_same(tmp_path, rule):
    wanted = uninterrupted(rule)
    for at in range(4, 60, 5):
        root = tmp_path / str(at)
        root.mkdir()
        done = 0
        disk: QuickDisk = CrashDisk(root, at)
        while done < CALLS:
            try:
                store, one = AggregatorStore(root / "state", disk=disk), fresh(rule)
                store.load(one)
                # What was on disk before the answer was lost is done already.
                done += bytes_of(one) == wanted[done + 1]
                for number in range(done, CALLS):
                    call(one, number)
                    store.write(save(one))
                    done = number + 1
            except Crash:
                disk = QuickDisk()
        assert bytes_of(one) == wanted[-1]


def test_a_full_disk_keeps_the_old_state_and_the_next_write_holds_all(tmp_path):
    disk, one = FullDisk(), fresh("median")
    store = AggregatorStore(tmp_path / "state", disk=disk)
    assert store.load(one) is None
    call(one, 0)
    store.write(save(one))
    before = bytes_of(one)
    disk.full = True
    for number in (1, 2):
        call(one, number)
        with pytest.raises(OSError, match="No space left"):
            store.write(save(one))
    back = fresh("median")
    AggregatorStore(tmp_path / "state").load(back)
    assert bytes_of(back) == before
    disk.full = False
    store.write(save(one))
    back = fresh("median")
    AggregatorStore(tmp_path / "state").load(back)
    assert bytes_of(back) == bytes_of(one)


def test_what_does_not_change_is_written_once_and_what_is_gone_is_removed(tmp_path):
    one, store = fresh("median"), AggregatorStore(tmp_path / "state", acknowledge="write")
    call(one, 0)
    store.write(save(one))
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "state").iterdir()}
    call(one, 1)
    store.write(save(one))
    now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "state").iterdir()}
    assert {name for name in kept if now[name] != kept[name]} == {"head"}
    assert len([name for name in now if name.startswith("entry-")]) == 2 * 2
    for number in (2, 3, 4):
        call(one, number)
        store.write(save(one))
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert names == ["head", f"settled-{one.epoch}"]


def test_damage_is_refused_by_name(tmp_path):
    one, store = fresh("mean"), AggregatorStore(tmp_path / "state")
    call(one, 0)
    store.write(save(one))
    head = tmp_path / "state" / "head"
    data = bytearray(head.read_bytes())
    data[-9] ^= 1
    head.write_bytes(data)
    with pytest.raises(StateError, match="stored aggregator: the checksum does not match"):
        AggregatorStore(tmp_path / "state").load(fresh("mean"))
