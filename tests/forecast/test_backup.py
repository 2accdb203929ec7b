"""A backup is whole or none; a restore takes nothing else, and only into an empty place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast import backup
from forecast.audit import AuditLog, verify
from forecast.backup import ARTIFACTS, STATE, CopiedFile, Held, Manifest, check, files_below
from forecast.canonical import canonical, sha256
from forecast.errors import AuditError, FleetcastError, StateError
from forecast.restore import restore
from forecast.storage import DISK, OwnerLock
from tests.forecast.crash_disk import Crash, CrashDisk, QuickDisk
from tests.forecast.registry_scene import PANEL, add, open_registry


def scene(root: Path) -> dict[str, Path]:
    """A registry with two versions and a state file; its files by their place in a backup."""
    registry = open_registry(root)
    add(registry, "b", slot=1, kind="base")
    add(registry, "u2", slot=2)
    (root / "state.json").write_bytes(b'{"slot": 2}')
    (root / "owner.lock").write_bytes(b"")
    (root / ".tmp-state.json").write_bytes(b"half")
    own = files_below(root, STATE, leave={"artifacts"})
    return {**own, **files_below(root / "artifacts" / PANEL, ARTIFACTS)}


def take(root: Path, folder: Path, *, disk=DISK) -> Manifest:
    work = backup.begin(folder, disk=disk)
    files = Held(scene(root)).copy(work, disk=disk)
    audit = verify(work / STATE / "audit")
    manifest = Manifest(
        fleet="demo",
        panel=PANEL,
        slot=2,
        taken_at=5.0,
        audit_records=audit.records,
        audit_head=audit.head,
        epochs={"owner.lock": 6, "buffer/owner.lock": 2},
        files=tuple(files),
    )
    backup.finish(work, folder, manifest, disk=disk)
    return manifest


@pytest.fixture
def made(tmp_path) -> Path:
    take(tmp_path / "here", tmp_path / "backups" / "one", disk=QuickDisk())
    return tmp_path / "backups" / "one"


def restored(folder: Path, root: Path, *, disk=None) -> Manifest:
    return restore(
        folder,
        state_dir=root / "state",
        storage=root / "storage",
        who="ann",
        now_s=9.0,
        disk=disk or QuickDisk(),
    )


def test_files_are_copied_as_they_stood_when_they_were_held(tmp_path):
    log, state = tmp_path / "a.log", tmp_path / "state.json"
    log.write_bytes(b"one\n")
    state.write_bytes(b"old")
    held = Held({"x/a.log": log, "x/state.json": state})
    DISK.append(log, b"two\n")
    state.with_name("new").write_bytes(b"new")
    state.with_name("new").replace(state)
    log.unlink()
    copied = held.copy(tmp_path / "to")
    assert (tmp_path / "to" / "x" / "a.log").read_bytes() == b"one\n"
    assert (tmp_path / "to" / "x" / "state.json").read_bytes() == b"old"
    assert copied[0] == CopiedFile("x/a.log", 4, sha256(b"one\n"))


def test_files_that_never_change_are_not_held_and_may_be_gone_when_their_turn_comes(tmp_path):
    for name in ("old", "young"):
        (tmp_path / name).write_bytes(name.encode())
    held = Held({}, {"x/old": tmp_path / "old", "x/young": tmp_path / "young"})
    (tmp_path / "old").unlink()
    assert [file.path for file in held.copy(tmp_path / "to")] == ["x/young"]
    assert [path.name for path in (tmp_path / "to" / "x").iterdir()] == ["young"]


def test_locks_and_unfinished_files_are_no_part_of_it(made):
    manifest = check(made)
    names = [file.path for file in manifest.files]
    assert f"{STATE}/state.json" in names
    assert f"{ARTIFACTS}/000002/weights.safetensors" in names
    assert not [name for name in names if "lock" in name or ".tmp-" in name]


def test_a_restored_registry_serves_the_same_and_its_log_says_so(made, tmp_path):
    manifest = restored(made, tmp_path / "there")
    state = tmp_path / "there" / "state" / PANEL
    assert (state / "state.json").read_bytes() == b'{"slot": 2}'
    log = AuditLog(state / "audit")
    assert log.verify(head=manifest.audit_head).records == manifest.audit_records + 1
    [told] = log.records(kinds=["restored"])
    assert (told.who, told.slot, told.detail["audit_head"]) == ("ann", 2, manifest.audit_head)
    with OwnerLock(state / "owner.lock", "fleet demo") as lock:
        assert lock.epoch == 7
    shutil.copytree(tmp_path / "there" / "storage", state / "artifacts")
    again = open_registry(state)
    assert again.state() == open_registry(tmp_path / "here").state()
    assert again.newest_servable().artifact.weights == b"weights of u2"


def test_a_backup_goes_into_no_folder_that_holds_something(made, tmp_path):
    with pytest.raises(StateError, match="is there already, and not empty"):
        take(tmp_path / "other", made)
    with pytest.raises(StateError, match="absolute"):
        backup.begin(Path("somewhere"))
    (tmp_path / "empty").mkdir()
    take(tmp_path / "other", tmp_path / "empty", disk=QuickDisk())
    assert check(tmp_path / "empty").slot == 2


@pytest.mark.parametrize("part", ["state", "storage"])
def test_a_restore_goes_into_no_place_that_holds_something(made, tmp_path, part):
    there = tmp_path / "there" / part / PANEL
    there.mkdir(parents=True)
    (there / "file").write_bytes(b"")
    with pytest.raises(StateError, match="a restore needs an empty place"):
        restored(made, tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").rglob("*")] == [part, PANEL, "file"]


def test_a_folder_without_a_manifest_is_refused_by_name(made):
    (made / "manifest.json").unlink()
    with pytest.raises(StateError, match=r"one: no manifest\.json: this is no backup, or one that"):
        check(made)


def test_a_file_that_is_missing_or_added_is_named(made):
    (made / STATE / "more").write_bytes(b"")
    with pytest.raises(StateError, match=r"state/more: is not in the backup's manifest"):
        check(made)
    (made / STATE / "more").unlink()
    (made / STATE / "state.json").unlink()
    with pytest.raises(StateError, match=r"state\.json: No such file"):
        check(made)


def resealed(folder: Path, **changes: object) -> None:
    """Another manifest with a hash of its own, as somebody who knows the format writes it."""
    path = folder / "manifest.json"
    body = {**json.loads(path.read_bytes()), **changes}
    del body["sha256"]
    path.write_bytes(canonical({**body, "sha256": sha256(canonical(body))}))


@pytest.mark.parametrize(
    "place",
    ["state/../../x", "/etc/passwd", "elsewhere/x", "state//etc/x", "state", "state/", "state/./x"],
)
def test_a_manifest_cannot_name_files_outside(made, place):
    resealed(made, files=[{"path": place, "bytes": 0, "sha256": sha256(b"")}])
    with pytest.raises(StateError, match="names a file outside of the backup"):
        check(made)


@pytest.mark.parametrize("panel", ["../x", "/tmp/x", "a/b", "..", "."])
def test_a_manifest_cannot_name_a_panel_outside_of_the_targets(made, tmp_path, panel):
    resealed(made, panel=panel)
    with pytest.raises(StateError, match="is no panel's name"):
        restored(made, tmp_path / "there")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("place", ["../../x", "/tmp/x", "buffer/../../x", "buffer//owner.lock", ""])
def test_a_manifest_cannot_name_locks_outside_of_the_panels_folder(made, tmp_path, place):
    resealed(made, epochs={place: 3})
    with pytest.raises(StateError, match="names a lock outside of the panel's folder"):
        restored(made, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_an_audit_log_that_is_not_the_manifests_is_refused_before_anything_has_a_name(
    made, tmp_path
):
    resealed(made, audit_head="1" * 64)
    with pytest.raises(AuditError, match="the manifest says"):
        restored(made, tmp_path / "there")
    left = {path.name for path in (tmp_path / "there").glob("*/*")}
    assert left == {f".tmp-{PANEL}"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    root = tmp_path_factory.mktemp("kept")
    take(root / "here", root / "one", disk=QuickDisk())
    return root / "one"


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_byte_changed_or_cut_anywhere_is_found_before_anything_is_restored(
    kept, tmp_path_factory, data
):
    folder = tmp_path_factory.mktemp("changed") / "one"
    shutil.copytree(kept, folder)
    paths = sorted(path for path in folder.rglob("*") if path.stat().st_size and path.is_file())
    path = data.draw(st.sampled_from(paths))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    other = bytes([whole[at] ^ data.draw(st.integers(1, 255))])
    path.write_bytes(whole[:at] if cut else whole[:at] + other + whole[at + 1 :])
    with pytest.raises(FleetcastError):
        restored(folder, folder.parent / "there")
    assert not (folder.parent / "there").exists()


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power-cut"])
def test_a_crash_in_a_backup_leaves_none_or_a_whole_one(tmp_path, power_cut):
    (tmp_path / "whole").mkdir()
    whole = CrashDisk(tmp_path / "whole")
    take(tmp_path / "source", tmp_path / "whole" / "one", disk=whole)
    at_rename = whole.done - 4  # the manifest is written; syncs, the name and its sync follow
    finished = 0
    for at in range(1000):
        root = tmp_path / str(at)
        (root / "backups").mkdir(parents=True)
        disk = CrashDisk(root / "backups", at=at, power_cut=power_cut)
        folder = root / "backups" / "one"
        try:
            take(root / "here", folder, disk=disk)
        except Crash:
            if folder.exists():
                finished += 1
                check(folder)
                continue
            for left in (root / "backups").iterdir():
                if (left / "manifest.json").exists() and disk.done >= at_rename:
                    check(left)  # all but its name
                    continue
                with pytest.raises(StateError, match=r"no manifest\.json|damaged"):
                    restored(left, root / "there")
            shutil.rmtree(root / "here", ignore_errors=True)
            take(root / "here", folder, disk=QuickDisk())
            assert [path.name for path in (root / "backups").iterdir()] == ["one"]
        else:
            break
    assert at > 40
    assert finished <= 1


def test_a_crash_in_a_restore_leaves_nothing_that_could_be_taken_for_a_state(made, tmp_path):
    ready = 0
    for at in range(1000):
        root = tmp_path / f"there-{at}"
        root.mkdir()
        disk = CrashDisk(root, at=at, power_cut=True)
        try:
            restored(made, root, disk=disk)
        except Crash:
            state, storage = root / "state" / PANEL, root / "storage" / PANEL
            if state.exists():
                assert storage.exists()
                ready += 1
            elif storage.exists():
                with pytest.raises(StateError, match="an interrupted restore has left"):
                    restored(made, root)
                shutil.rmtree(storage)
            if not state.exists():
                restored(made, root)
            assert verify(state / "audit").records == check(made).audit_records + 1
        else:
            break
    assert at > 50
    assert ready <= 1
