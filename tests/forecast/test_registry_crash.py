"""Dying between any two file operations leaves the registry in the old state or the new one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forecast.audit import AuditLog, verify
from forecast.errors import RegistryError, UnknownVersion
from forecast.registry import Registry, RegistryState
from forecast.storage import Disk
from tests.forecast.crash_disk import Crash, CrashDisk, QuickDisk
from tests.forecast.registry_scene import PANEL, add, artifact, folders, open_registry


def a_base(registry: Registry) -> None:
    add(registry, "b", slot=1, kind="base")


def an_update(registry: Registry) -> None:
    add(registry, "u9", slot=9)


def a_refusal(registry: Registry) -> None:
    version = add(registry, "u9", slot=9, promote=False)
    registry.reject(version, slot=9, reasons=("worse",), who="gate", update_id="u9")


def a_rollback(registry: Registry) -> None:
    registry.rollback(slot=9, who="ann", reason="bad night")


def an_alias(registry: Registry) -> None:
    registry.set_alias("pin-a", 3, slot=9, who="ann", reason="keep it")
    registry.set_alias("pin-a", None, slot=9, who="ann", reason="let it go")


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the system has one: hundreds of registries are built and removed."""
    shared = Path("/dev/shm")
    usable = os.access(shared, os.W_OK)
    with TemporaryDirectory(dir=shared if usable else tmp_path) as folder:
        yield Path(folder)


def prepare(root: Path, *, empty: bool) -> None:
    """Three versions, and everything that an earlier crash may have left over."""
    root.mkdir()
    if empty:
        return
    registry = open_registry(root, keep=1)
    for number in range(1, 4):
        add(registry, f"u{number}", slot=number)
    folder = root / "artifacts" / PANEL
    for name in ("000001", "000004", ".tmp-000004"):
        shutil.copytree(folder / "000003", folder / name)
    (folder / "aliases.json").unlink()
    with (root / "audit" / "audit.jsonl").open("ab") as file:
        file.write(b'{"detail":{')


def states(root: Path, scene: Callable[[Registry], None]) -> list[RegistryState]:
    """The states that the scene passes through: the one before it and one per commit."""
    registry = open_registry(root, keep=1)
    before, known = registry.state(), verify(root / "audit").records
    scene(registry)
    records = AuditLog(root / "audit", disk=QuickDisk()).records(since=known)
    return [before, *(RegistryState.from_json(record.state) for record in records)]


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power-cut"])
@pytest.mark.parametrize("scene", [a_base, an_update, a_refusal, a_rollback, an_alias])
def test_a_crash_leaves_a_committed_state_and_the_retry_finishes(memory_path, scene, power_cut):
    prepare(memory_path / "prepared", empty=scene is a_base)
    allowed = states(shutil.copytree(memory_path / "prepared", memory_path / "model"), scene)
    reached = set()
    for at in range(1000):
        root = shutil.copytree(memory_path / "prepared", memory_path / str(at))
        disk = CrashDisk(root, at=at, power_cut=power_cut)
        try:
            scene(open_registry(root, keep=1, disk=disk))
        except Crash:
            reopened = open_registry(root, keep=1)
        else:
            disk.die()
            assert open_registry(root, keep=1).state() == allowed[-1]
            break
        assert reopened.state() in allowed
        reached.add(reopened.state().revision)
        check(root, reopened)
        scene(reopened)
        assert reopened.state() == allowed[-1]
        check(root, reopened)
    assert reached >= {state.revision for state in allowed[:-1]}
    assert at > 10


def check(root: Path, registry: Registry) -> None:
    """What holds of every reopened registry."""
    state = registry.state()
    verify(root / "audit")
    if state.champion is not None:
        assert registry.newest_servable().version == state.champion
        assert registry.newest_servable().refused == ()
    assert folders(root) == [info.version for info in state.versions]
    assert all(registry.load(info.version) for info in state.versions)
    names = {path.name for path in (root / "artifacts" / PANEL).iterdir() if path.is_file()}
    assert names <= {"aliases.json"}


class RegistryMachine(RuleBasedStateMachine):
    """Any order of calls, restarts and crashes: something serves, and the audit verifies."""

    @initialize(keep=st.integers(min_value=1, max_value=3))
    def start(self, keep: int) -> None:
        self.root = self.folder()
        self.keep = keep
        self.registry = open_registry(self.root, keep=keep)
        self.slot = 0
        self.updates = 0
        self.expected: int | None = None
        self.add(promote=True)

    def folder(self) -> Path:
        raise AssertionError("set by the test")

    def add(self, *, promote: bool) -> None:
        self.slot += 1
        self.updates += 1
        version = add(self.registry, f"u{self.updates}", slot=self.slot, promote=promote)
        self.expected = version if promote else self.expected

    @rule(promote=st.booleans())
    def an_update_arrives(self, promote: bool) -> None:
        self.add(promote=promote)

    @rule(number=st.integers(min_value=1, max_value=12))
    def an_old_call_is_repeated(self, number: int) -> None:
        if number <= self.updates:
            before = self.registry.state()
            self.registry.register(artifact(f"u{number}"), update_id=f"u{number}", slot=number)
            assert self.registry.state() == before

    @rule(number=st.integers(min_value=1, max_value=12))
    def a_version_is_promoted(self, number: int) -> None:
        self.slot += 1
        try:
            self.registry.promote(number, slot=self.slot, reasons=("asked",), who="ann")
        except UnknownVersion:
            return
        self.expected = number

    @rule(number=st.integers(min_value=1, max_value=12))
    def a_version_is_refused(self, number: int) -> None:
        self.slot += 1
        try:
            self.registry.reject(
                number, slot=self.slot, reasons=("worse",), who="gate", update_id=f"u{number}"
            )
        except RegistryError:
            return

    @rule(to=st.none() | st.integers(min_value=1, max_value=12))
    def a_rollback_is_asked_for(self, to: int | None) -> None:
        self.slot += 1
        before = self.registry.state()
        try:
            after = self.registry.rollback(to, slot=self.slot, who="ann", reason="asked")
        except RegistryError:
            assert self.registry.state() == before
            return
        assert after.champion == (before.aliases["previous"] if to is None else to)
        self.expected = after.champion

    @rule(number=st.integers(min_value=1, max_value=12))
    def a_version_is_pinned(self, number: int) -> None:
        self.slot += 1
        try:
            self.registry.set_alias("pin-a", number, slot=self.slot, who="ann", reason="asked")
        except UnknownVersion:
            return

    @rule()
    def the_process_restarts(self) -> None:
        before = self.registry.state()
        self.reopen()
        assert self.registry.state() == before

    @precondition(lambda self: self.updates < 12)
    @rule(at=st.integers(min_value=0, max_value=40), power_cut=st.booleans())
    def the_process_dies_in_an_update(self, at: int, power_cut: bool) -> None:
        before = self.registry.state()
        disk = CrashDisk(self.root, power_cut=power_cut)
        self.reopen(disk)
        disk.at = disk.done + at
        try:
            self.add(promote=True)
        except Crash:
            self.reopen()
            state = self.registry.state()
            self.updates -= state.next_version == before.next_version
            self.expected = state.champion
            assert state.champion in (before.champion, before.next_version)
        else:
            self.reopen()

    def reopen(self, disk: Disk | None = None) -> None:
        self.registry = open_registry(self.root, keep=self.keep, disk=disk)

    @invariant()
    def the_champion_serves_and_the_audit_verifies(self) -> None:
        assert self.registry.state().champion == self.expected
        check(self.root, self.registry)


def test_whatever_happens_something_serves_and_the_audit_verifies(memory_path):
    class Machine(RegistryMachine):
        def folder(self) -> Path:
            return Path(mkdtemp(dir=memory_path))

    Machine.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
    Machine.TestCase().runTest()
