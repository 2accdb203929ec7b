"""What people change in the registry by hand: pauses, which hold until somebody resumes."""

from __future__ import annotations

import pytest

from forecast.audit import AuditLog
from forecast.errors import RegistryError
from forecast.versions import RegistryState
from tests.forecast.crash_disk import Crash, CrashDisk
from tests.forecast.registry_scene import add, open_registry


def pause(registry, **changes):
    return registry.pause(**{"reason": "bad night", "who": "ann", "slot": 5, **changes})


def test_while_promotion_is_paused_nothing_is_promoted_until_somebody_resumes(tmp_path):
    registry = open_registry(tmp_path)
    first = add(registry, "b", slot=1, kind="base")
    waiting = add(registry, "u2", slot=2, promote=False)
    state = pause(registry)
    assert str(state.paused) == "promotion is paused by ann since slot 5: bad night"
    asked = {"slot": 6, "reasons": ("better",), "who": "gate"}
    with pytest.raises(RegistryError, match="version 2 is not promoted: promotion is paused"):
        registry.promote(waiting, **asked)
    assert (registry.state().champion, registry.state()) == (first, state)
    resumed = registry.resume(reason="seen", who="bob", slot=7)
    assert (resumed.paused, resumed.resumed) == (None, state.revision + 1)
    assert registry.promote(waiting, **asked).champion == waiting


def test_the_first_version_serves_all_the_same(tmp_path):
    registry = open_registry(tmp_path)
    pause(registry)
    assert registry.state().champion is None
    assert add(registry, "b", slot=6, kind="base") == registry.state().champion


def test_a_change_by_hand_is_made_once_per_request_and_survives_a_restart(tmp_path):
    registry = open_registry(tmp_path)
    state = pause(registry, key="r1", learning=True)
    assert pause(registry, key="r1", reason="again") == state
    assert open_registry(tmp_path).state() == state
    assert state.paused.learning
    resumed = registry.resume(reason="seen", who="ann", slot=5, key="r2")
    assert registry.resume(reason="seen", who="ann", slot=9, key="r2") == resumed
    assert pause(registry, key="r1") == resumed  # a request repeated late undoes nothing
    kinds = [record.kind for record in AuditLog(tmp_path / "audit").records()]
    assert kinds == ["pause", "resume"]


def test_a_rollback_pauses_promotion_in_the_same_record_and_weakens_no_pause(tmp_path):
    registry = open_registry(tmp_path)
    add(registry, "b", slot=1, kind="base")
    add(registry, "u2", slot=2)
    pause(registry, learning=True)
    before = registry.state().revision
    state = registry.rollback(slot=6, who="bob", reason="worse", pause=True)
    assert (state.champion, state.revision) == (1, before + 1)
    assert (state.paused.who, state.paused.reason) == ("bob", "rollback: worse")
    assert state.paused.learning  # as ann said


def test_a_record_of_before_pauses_came_loads(tmp_path):
    registry = open_registry(tmp_path)
    add(registry, "b", slot=1)
    stored = registry.state().to_json()
    del stored["paused"], stored["resumed"]
    assert RegistryState.from_json(stored) == registry.state()


def test_a_crash_in_a_pause_leaves_it_done_or_not_and_the_retry_finishes(tmp_path):
    for at in range(100):
        root = tmp_path / str(at)
        root.mkdir()
        add(open_registry(root), "b", slot=1, kind="base")
        disk = CrashDisk(root, at=at)
        try:
            pause(open_registry(root, disk=disk))
        except Crash:
            again = open_registry(root)
            assert (again.state().paused is None) or (again.state().champion == 1)
            assert pause(again).paused.slot == 5
        else:
            break
    assert at > 2
