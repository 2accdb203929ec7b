"""Durable files and the owner's lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forecast.errors import StateError
from forecast.storage import DISK, Disk, OwnerLock, make_folders, write_atomic, write_folder
from tests.forecast.crash_disk import Crash, CrashDisk


def crashes(
    root: Path, run: Callable[[Disk], None], prepare: Callable[[Path], None] = lambda _: None
) -> Iterator[tuple[Path, bool]]:
    """Run up to each file operation and die there; yields what is left and whether it had ended."""
    for power_cut in (False, True):
        ended, at = False, 0
        while not ended:
            folder = root / f"{power_cut}-{at}"
            folder.mkdir()
            prepare(folder)
            disk = CrashDisk(folder, at=at, power_cut=power_cut)
            try:
                run(disk)
            except Crash:
                at += 1
            else:
                disk.die()
                ended = True
            yield folder, ended


def test_a_file_is_the_old_or_the_new_one_wherever_the_program_dies(tmp_path):
    old, new = b"old" * 10, b"new" * 20
    seen = set()
    for folder, ended in crashes(
        tmp_path,
        lambda disk: write_atomic(disk.root / "state", new, disk=disk),
        prepare=lambda folder: write_atomic(folder / "state", old),
    ):
        content = (folder / "state").read_bytes()
        seen.add((ended, content))
    assert seen == {(False, old), (False, new), (True, new)}


def test_a_folder_is_missing_or_complete_wherever_the_program_dies(tmp_path):
    files = {"weights": b"w" * 100, "manifest": b"m" * 10}
    seen = set()
    for root, ended in crashes(
        tmp_path, lambda disk: write_folder(disk.root / "7", files, disk=disk)
    ):
        folder = root / "7"
        seen.add((ended, folder.exists()))
        if folder.exists():
            assert {each.name: each.read_bytes() for each in folder.iterdir()} == files
    assert seen == {(False, False), (False, True), (True, True)}


def test_a_published_folder_is_never_overwritten(tmp_path):
    write_folder(tmp_path / "7", {"a": b"1"})
    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "7", {"a": b"2"})
    assert (tmp_path / "7" / "a").read_bytes() == b"1"


def test_what_an_unfinished_folder_held_is_not_published(tmp_path):
    (tmp_path / ".tmp-7").mkdir()
    (tmp_path / ".tmp-7" / "stray").write_bytes(b"?")
    write_folder(tmp_path / "7", {"a": b"1"})
    assert [each.name for each in (tmp_path / "7").iterdir()] == ["a"]


def test_folders_survive_a_power_cut_once_made(tmp_path):
    disk = CrashDisk(tmp_path, power_cut=True)
    make_folders(tmp_path / "a" / "b", disk=disk)
    disk.at = disk.done
    with pytest.raises(Crash):
        disk.sync(tmp_path)
    assert (tmp_path / "a" / "b").is_dir()


def test_removing_takes_files_folders_and_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    write_folder(tmp_path / "folder", {"a": b"1"})
    for name in ("file", "folder", "nothing"):
        DISK.remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_second_owner_is_refused_by_the_name_of_the_first(tmp_path):
    path = tmp_path / "owner.lock"
    with OwnerLock(path, "fleet-a") as lock:
        with pytest.raises(StateError, match=r"owned by 'fleet-a'.*epoch 1"):
            OwnerLock(path, "fleet-b")
        lock.check()


def test_epochs_rise_with_every_holder(tmp_path):
    path = tmp_path / "owner.lock"
    epochs = []
    for _ in range(3):
        with OwnerLock(path, "fleet-a") as lock:
            epochs.append(lock.epoch)
    assert epochs == [1, 2, 3]


def test_a_holder_that_was_displaced_is_told_so(tmp_path):
    path = tmp_path / "owner.lock"
    with OwnerLock(path, "fleet-a") as lock:
        record = json.loads((tmp_path / "owner.lock.json").read_bytes())
        record |= {"epoch": 2, "owner": "fleet-b"}
        (tmp_path / "owner.lock.json").write_text(json.dumps(record))
        with pytest.raises(StateError, match=r"owned by 'fleet-b'.*this is epoch 1"):
            lock.check()


def test_a_lock_given_up_no_longer_allows_a_write(tmp_path):
    lock = OwnerLock(tmp_path / "owner.lock", "fleet-a")
    lock.release()
    lock.release()
    with pytest.raises(StateError, match="given up"):
        lock.check()


def test_a_damaged_owner_record_is_named(tmp_path):
    (tmp_path / "owner.lock.json").write_text("{")
    with pytest.raises(StateError, match=r"owner\.lock\.json"):
        OwnerLock(tmp_path / "owner.lock", "fleet-a")


def test_after_kill_9_the_next_one_gets_in_at_once(tmp_path):
    path = tmp_path / "owner.lock"
    code = (
        "import sys; from pathlib import Path; from forecast.storage import OwnerLock\n"
        "lock = OwnerLock(Path(sys.argv[1]), 'fleet-a')\n"
        "sys.stdout.write('held\\n'); sys.stdout.flush(); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(StateError, match=rf"process {child.pid}"):
            OwnerLock(path, "fleet-a")
        child.send_signal(signal.SIGKILL)
        child.wait()
    with OwnerLock(path, "fleet-a") as lock:
        assert lock.epoch == 2


@pytest.fixture
def _no_kernel_locks(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)


def held_elsewhere(folder: Path, **changes: object) -> None:
    """Write the record of another holder."""
    record = {"format": 1, "owner": "fleet-a", "host": "other", "process": 1, "epoch": 4}
    (folder / "owner.lock.json").write_text(json.dumps(record | changes))


@pytest.mark.usefixtures("_no_kernel_locks")
def test_without_kernel_locks_another_owner_is_refused(tmp_path):
    held_elsewhere(tmp_path)
    with pytest.raises(StateError, match="fleet-a"):
        OwnerLock(tmp_path / "owner.lock", "fleet-b")


@pytest.mark.usefixtures("_no_kernel_locks")
@pytest.mark.parametrize("changes", [{}, {"owner": "fleet-b", "process": None}])
def test_without_kernel_locks_a_successor_fences_the_first(tmp_path, changes):
    held_elsewhere(tmp_path, **changes)
    with OwnerLock(tmp_path / "owner.lock", "fleet-a") as lock:
        assert lock.epoch == 5
        held_elsewhere(tmp_path, epoch=6)
        with pytest.raises(StateError, match="epoch 6"):
            lock.check()


@pytest.mark.usefixtures("_no_kernel_locks")
def test_without_kernel_locks_a_living_process_on_this_host_is_respected(tmp_path):
    held_elsewhere(tmp_path, host=os.uname().nodename, process=os.getppid())
    with pytest.raises(StateError, match="fleet-a"):
        OwnerLock(tmp_path / "owner.lock", "fleet-a")


@pytest.mark.usefixtures("_no_kernel_locks")
def test_without_kernel_locks_giving_up_lets_anyone_in(tmp_path):
    OwnerLock(tmp_path / "owner.lock", "fleet-a").release()
    with OwnerLock(tmp_path / "owner.lock", "fleet-b") as lock:
        assert lock.epoch == 2
