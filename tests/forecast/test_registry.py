"""The registry: what it commits, what it keeps, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from forecast.audit import AuditLog, verify
from forecast.errors import ArtifactError, AuditError, RegistryError, StateError, UnknownVersion
from forecast.storage import OwnerLock
from forecast.versions import RegistryState, VersionInfo
from tests.forecast.crash_disk import QuickDisk
from tests.forecast.registry_scene import PANEL, add, artifact, folders, open_registry


def path_of(root: Path, version: int, name: str = "weights.safetensors") -> Path:
    return root / "artifacts" / PANEL / f"{version:06d}" / name


def damage(root: Path, version: int) -> None:
    path_of(root, version).write_bytes(b"damaged")


def test_an_empty_registry_serves_nothing_and_says_so(tmp_path):
    registry = open_registry(tmp_path)
    assert registry.state().champion is None
    assert registry.newest_servable() is None
    assert registry.pull_if_newer(-1) is None
    with pytest.raises(UnknownVersion, match="no version or alias 'champion'; there are none"):
        registry.resolve("champion")


def test_a_version_is_read_back_as_it_was_registered(tmp_path):
    registry = open_registry(tmp_path)
    version = registry.register(artifact("u1"), update_id="u1", slot=5)
    assert registry.load(version) == artifact("u1")
    assert registry.manifest(version) == artifact("u1").manifest
    info = registry.state().info(version)
    assert (info.status, info.kind, info.slot, info.update_id) == ("registered", "update", 5, "u1")


def test_registering_the_same_update_again_changes_nothing(tmp_path):
    registry = open_registry(tmp_path)
    first = registry.register(artifact("u1"), update_id="u1", slot=5)
    state = registry.state()
    assert registry.register(artifact("u1"), update_id="u1", slot=6) == first
    reopened = open_registry(tmp_path)
    assert reopened.register(artifact("u1"), update_id="u1", slot=6) == first
    assert reopened.state() == state


def test_an_update_keeps_its_number_after_the_version_is_gone(tmp_path):
    registry = open_registry(tmp_path, keep=1)
    version = add(registry, "u1", slot=1, promote=False)
    registry.reject(version, slot=1, reasons=("worse",), who="gate", update_id="u1")
    assert folders(tmp_path) == []
    assert registry.register(artifact("u1"), update_id="u1", slot=1) == version
    assert add(registry, "u2", slot=2, promote=False) == version + 1


def test_a_promotion_moves_champion_and_previous(tmp_path):
    registry = open_registry(tmp_path)
    first = add(registry, "b", slot=1, kind="base")
    second = add(registry, "u1", slot=2)
    assert registry.state().aliases == {"base": first, "champion": second, "previous": first}
    assert [registry.resolve(name) for name in ("champion", str(second), second)] == [second] * 3
    assert open_registry(tmp_path).state() == registry.state()


def test_promoting_again_with_the_same_key_does_not_undo_a_rollback(tmp_path):
    registry = open_registry(tmp_path)
    first, second = add(registry, "b", slot=1), add(registry, "u1", slot=2)
    registry.rollback(slot=2, who="ann", reason="bad night")
    registry.promote(second, slot=2, reasons=("better",), who="gate")
    assert registry.state().champion == first
    registry.promote(second, slot=2, reasons=("fixed",), who="ann", key="request-7")
    assert registry.state().champion == second


def test_a_rollback_goes_to_previous_and_then_further(tmp_path):
    registry = open_registry(tmp_path, keep=5)
    one, two, three = (add(registry, f"u{n}", slot=n) for n in (1, 2, 3))
    state = registry.rollback(slot=3, who="ann", reason="bad night")
    assert (state.champion, state.aliases["previous"]) == (two, one)
    assert state.info(three).status == "withdrawn"
    state = registry.rollback(slot=4, who="ann", reason="still bad")
    assert (state.champion, "previous" in state.aliases) == (one, False)
    with pytest.raises(RegistryError, match="no previous version"):
        registry.rollback(slot=5, who="ann", reason="worse")
    assert registry.rollback(three, slot=6, who="ann", reason="was fine").champion == three


def test_a_version_promoted_again_stands_in_the_line_once(tmp_path):
    registry = open_registry(tmp_path, keep=5)
    one, two = add(registry, "u1", slot=1), add(registry, "u2", slot=2)
    state = registry.promote(one, slot=3, reasons=("asked",), who="ann")
    assert (state.line, state.aliases) == ((two, one), {"champion": one, "previous": two})
    state = registry.rollback(slot=4, who="ann", reason="no better")
    assert (state.line, state.aliases) == ((two,), {"champion": two})


def test_a_way_back_to_a_withdrawn_version_withdraws_only_what_was_promoted_after_it(tmp_path):
    registry = open_registry(tmp_path, keep=9)
    add(registry, "b", slot=1, kind="base")
    for number in (2, 3):
        add(registry, f"u{number}", slot=number)
    for slot in (4, 5):
        registry.rollback(slot=slot, who="ann", reason="bad")
    state = registry.rollback(3, slot=6, who="ann", reason="it was good after all")
    assert (state.line, state.champion, state.servable()) == ((1, 3), 3, (3, 1))
    assert [info.status for info in state.versions] == ["promoted", "withdrawn", "promoted"]
    add(registry, "u4", slot=7)
    state = registry.rollback(2, slot=8, who="ann", reason="and this one")
    assert (state.line, state.servable()) == ((1, 2), (2, 1))
    statuses = ["promoted", "promoted", "withdrawn", "withdrawn"]
    assert [info.status for info in state.versions] == statuses


def test_a_way_back_to_a_withdrawn_version_never_withdraws_the_base(tmp_path):
    registry = open_registry(tmp_path, keep=9)
    add(registry, "b", slot=1, kind="base")
    add(registry, "u2", slot=2)
    registry.rollback(slot=3, who="ann", reason="bad")
    registry.promote(1, slot=4, reasons=("asked",), who="ann")
    state = registry.rollback(2, slot=5, who="ann", reason="it was good after all")
    assert (state.line, state.aliases["previous"], state.info(1).status) == ((1, 2), 1, "promoted")


def test_a_dry_run_of_a_rollback_tells_what_a_rollback_would(tmp_path):
    registry = open_registry(tmp_path, keep=9)
    add(registry, "b", slot=1, kind="base")
    add(registry, "u2", slot=2)
    before, told = registry.state(), {"slot": 3, "who": "ann", "reason": "bad", "key": "r1"}
    dry = registry.rollback(pause=True, dry_run=True, **told)
    assert (dry.champion, dry.paused.who, registry.state()) == (1, "ann", before)
    damage(tmp_path, 1)
    for dry_run in (True, False):
        with pytest.raises(ArtifactError, match="weights"):
            registry.rollback(dry_run=dry_run, **told)
    assert registry.state() == before


def test_a_rollback_is_audited_with_its_reason(tmp_path):
    registry = open_registry(tmp_path)
    add(registry, "u1", slot=1)
    add(registry, "u2", slot=2)
    registry.rollback(1, slot=3, who="ann", reason="bad night")
    record = next(AuditLog(tmp_path / "audit").records(kinds=["rollback"]))
    assert (record.who, record.slot, record.detail) == (
        "ann",
        3,
        {"version": 1, "replaces": 2, "reason": "bad night"},
    )


def test_a_rollback_to_what_never_served_is_refused(tmp_path):
    registry = open_registry(tmp_path)
    add(registry, "u1", slot=1)
    other = add(registry, "u2", slot=2, promote=False)
    with pytest.raises(RegistryError, match="version 2 is registered and never was champion"):
        registry.rollback(other, slot=3, who="ann", reason="try")


def test_a_damaged_version_is_never_made_champion(tmp_path):
    registry = open_registry(tmp_path)
    first = add(registry, "u1", slot=1)
    second = add(registry, "u2", slot=2, promote=False)
    damage(tmp_path, second)
    with pytest.raises(ArtifactError, match=r"000002/weights\.safetensors: sha256"):
        registry.promote(second, slot=2, reasons=("better",), who="gate")
    third = add(registry, "u3", slot=3)
    damage(tmp_path, first)
    with pytest.raises(ArtifactError, match="000001"):
        registry.rollback(slot=4, who="ann", reason="bad night")
    assert registry.state().champion == third


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_damaged_champion_is_refused_by_name_and_the_last_good_one_serves(
    tmp_path, caplog, name, gone
):
    registry = open_registry(tmp_path)
    good, bad = add(registry, "u1", slot=1), add(registry, "u2", slot=2)
    path = path_of(tmp_path, bad, name)
    path.unlink() if gone else path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=str(path)):
        registry.load("champion")
    servable = open_registry(tmp_path).newest_servable()
    assert servable.version == good
    assert servable.artifact == artifact("u1")
    assert [refusal.version for refusal in servable.refused] == [bad]
    assert str(path) in servable.refused[0].reason
    assert "version 2 cannot serve" in caplog.text


def test_an_artifact_of_another_schema_is_refused_by_name(tmp_path):
    registry = open_registry(tmp_path)
    with pytest.raises(ArtifactError, match=r"update u1: the artifact is of schema other"):
        registry.register(artifact("u1", fingerprint="other"), update_id="u1", slot=1)


def test_after_a_schema_change_the_old_version_serves_until_a_new_base_does(tmp_path):
    add(open_registry(tmp_path), "b1", slot=1, kind="base")
    registry = open_registry(tmp_path, fingerprint="new")
    assert registry.newest_servable().version == 1
    version = registry.register(
        artifact("b2", kind="base", fingerprint="new"), update_id="b2", slot=2
    )
    registry.promote(version, slot=2, reasons=("first of its schema",), who="gate")
    assert registry.newest_servable().version == version
    assert registry.state().aliases == {"base": version, "champion": version, "previous": 1}


def test_an_artifact_that_does_not_fit_its_checksum_is_not_stored(tmp_path):
    registry = open_registry(tmp_path)
    torn = dataclasses.replace(artifact("u1"), weights=b"half")
    with pytest.raises(ArtifactError, match=r"weights\.safetensors has sha256"):
        registry.register(torn, update_id="u1", slot=1)
    unfit = artifact("u1")
    unfit.manifest["metrics"] = {"wql": float("nan")}
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        registry.register(unfit, update_id="u1", slot=1)
    assert registry.state().revision == 0


def test_a_reader_pulls_what_it_has_not_seen(tmp_path):
    registry = open_registry(tmp_path)
    version = add(registry, "u1", slot=1)
    state, servable = registry.pull_if_newer(0)
    assert (state, servable.version) == (registry.state(), version)
    assert registry.pull_if_newer(state.revision) is None
    registry.note("drill", slot=2, detail={})
    assert registry.pull_if_newer(state.revision) is None
    assert registry.pull_if_newer(state.revision + 9) is not None


def test_a_reader_that_cannot_use_a_version_gets_the_one_before(tmp_path):
    registry = open_registry(tmp_path)
    first, second = add(registry, "u1", slot=1), add(registry, "u2", slot=2)
    _, servable = registry.pull_if_newer(0, refused=[second])
    assert (servable.version, servable.refused[0].version) == (first, second)


def test_what_was_withdrawn_or_refused_does_not_serve_as_a_way_out(tmp_path):
    registry = open_registry(tmp_path, keep=5)
    add(registry, "u1", slot=1)
    add(registry, "u2", slot=2)
    registry.rollback(slot=3, who="ann", reason="bad night")
    add(registry, "u3", slot=4, promote=False)
    damage(tmp_path, 1)
    assert registry.newest_servable() is None


def test_verdicts_are_listed_newest_first_with_their_reports(tmp_path):
    registry = open_registry(tmp_path)
    version = registry.register(artifact("u1"), update_id="u1", slot=1)
    registry.promote(version, slot=1, reasons=("first",), who="gate", report={"wql": float("nan")})
    registry.reject(
        None, slot=2, reasons=("worse by 0.1",), who="gate", update_id="u2", report={"n": 7}
    )
    other = add(registry, "u3", slot=3, promote=False)
    registry.reject(other, slot=3, reasons=("worse",), who="gate", update_id="u3")
    third, second, first = registry.updates()
    assert (first.verdict, first.update_id, first.version) == ("promoted", "u1", version)
    assert first.report == {"wql": "nan"}
    assert (second.verdict, second.version, second.report) == ("rejected", None, {"n": 7})
    assert second.reasons == ("worse by 0.1",)
    assert (third.parent, third.lineage["update_id"]) == (version, "u3")
    assert [update.slot for update in registry.updates(since_slot=2)] == [3, 2]
    assert [update.slot for update in registry.updates(limit=1)] == [3]


def test_a_refusal_is_kept_once_and_a_promoted_version_cannot_be_refused(tmp_path):
    registry = open_registry(tmp_path)
    version = add(registry, "u1", slot=1)
    for _ in range(2):
        registry.reject(None, slot=2, reasons=("worse",), who="gate", update_id="u2")
    assert len(registry.updates()) == 2
    with pytest.raises(RegistryError, match="roll it back"):
        registry.reject(version, slot=3, reasons=("worse",), who="gate", update_id="u1")


def test_retention_keeps_the_last_promoted_the_base_and_what_an_alias_names(tmp_path):
    registry = open_registry(tmp_path, keep=2)
    base = add(registry, "b", slot=1, kind="base")
    pinned = add(registry, "u2", slot=2)
    registry.set_alias("pin-audit", pinned, slot=2, who="ann", reason="to look at")
    for number in range(3, 8):
        add(registry, f"u{number}", slot=number)
    waiting = add(registry, "u8", slot=8, promote=False)
    assert folders(tmp_path) == [base, pinned, 6, 7, waiting]
    assert [info.version for info in registry.state().versions] == folders(tmp_path)
    registry.set_alias("pin-audit", None, slot=9, who="ann", reason="seen")
    assert folders(tmp_path) == [base, 6, 7, waiting]
    with pytest.raises(UnknownVersion, match="no version 3"):
        registry.load(3)


def test_versions_that_are_members_beside_the_champion_are_kept(tmp_path):
    registry = open_registry(tmp_path, keep=1, keep_beside=2)
    base = add(registry, "b", slot=1, kind="base")
    for number in range(2, 7):
        add(registry, f"u{number}", slot=number)
    assert folders(tmp_path) == [base, 4, 5, 6]
    state = registry.state()
    assert list(state.beside(6, 2).items()) == [("previous_1", 5), ("previous_2", 4), ("base", 1)]
    assert state.beside(6, 1) == {"previous_1": 5, "base": 1}
    assert state.beside(6, 0) == {}
    assert state.beside(5, 1) == {"previous_1": 4, "base": 1}  # where 6 cannot be loaded
    state = registry.rollback(slot=8, who="ann", reason="bad night")
    assert state.beside(5, 2) == {"previous_1": 4, "base": 1}
    assert state.rolled_back(1, slot=9).beside(1, 2) == {}


def test_a_base_among_the_last_has_its_own_name():
    state = RegistryState()
    for number, kind in ((1, "update"), (2, "base"), (3, "update")):
        info = VersionInfo(number, kind, None, f"u{number}", 1, "", "", "", "", 1)
        state = state.registered(info).promoted(number, slot=number)
    assert list(state.beside(3, 3).items()) == [("base", 2), ("previous_2", 1)]


def test_challengers_that_nobody_decides_on_do_not_pile_up(tmp_path):
    registry = open_registry(tmp_path, keep=2)
    for number in range(5):
        add(registry, f"u{number}", slot=number, promote=False)
    assert folders(tmp_path) == [4, 5]


def test_the_challenger_alias_goes_with_the_verdict(tmp_path):
    registry = open_registry(tmp_path)
    for slot, verdict in ((1, "promote"), (2, "reject")):
        version = add(registry, f"u{slot}", slot=slot, promote=False)
        registry.set_alias("challenger", version, slot=slot, who="controller", reason="shadow")
        if verdict == "promote":
            registry.promote(version, slot=slot, reasons=("better",), who="gate")
        else:
            registry.reject(
                version, slot=slot, reasons=("worse",), who="gate", update_id=f"u{slot}"
            )
        assert "challenger" not in registry.state().aliases


@pytest.mark.parametrize("name", ["champion", "previous", "base", "7", "No Alias", ""])
def test_some_names_are_no_free_alias(tmp_path, name):
    registry = open_registry(tmp_path)
    version = add(registry, "u1", slot=1)
    with pytest.raises(RegistryError, match="alias"):
        registry.set_alias(name, version, slot=1, who="ann", reason="try")


def test_notes_are_audited_once_and_change_no_version(tmp_path):
    registry = open_registry(tmp_path)
    first = registry.note("drill", slot=4, detail={"why": "maintenance"}, who="ann")
    assert registry.note("drill", slot=4, detail={"why": "again"}) == first
    assert registry.note("drill", slot=4, detail={}, key="request-2") != first
    assert registry.state().revision == 0
    with pytest.raises(ValueError, match="not a note"):
        registry.note("promote", slot=4, detail={})


def test_every_commit_holds_the_whole_state(tmp_path):
    registry = open_registry(tmp_path)
    add(registry, "u1", slot=1)
    records = list(AuditLog(tmp_path / "audit").records())
    assert [record.kind for record in records] == ["register", "promote"]
    assert [record.state["revision"] for record in records] == [1, 2]
    assert records[-1].state["aliases"] == {"champion": 1}
    assert verify(tmp_path / "audit").records == 2


def test_the_alias_file_is_rebuilt_at_start(tmp_path):
    registry = open_registry(tmp_path)
    add(registry, "u1", slot=1)
    path = tmp_path / "artifacts" / PANEL / "aliases.json"
    written = path.read_bytes()
    assert json.loads(written)["aliases"] == {"champion": 1}
    for damaged in (b"", b"{}", b"7", None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        open_registry(tmp_path)
        assert path.read_bytes() == written


@pytest.mark.parametrize("keep", [0, 1])
def test_a_log_that_lost_its_end_is_not_believed(tmp_path, keep):
    add(open_registry(tmp_path), "u1", slot=1)
    path = tmp_path / "audit" / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:keep]))
    with pytest.raises(AuditError, match=r"aliases\.json follows audit record 2; there are"):
        open_registry(tmp_path)
    assert folders(tmp_path) == [1]


def test_another_registrys_log_is_not_believed(tmp_path):
    for name in ("a", "b"):
        add(open_registry(tmp_path / name), name, slot=1)
    (tmp_path / "b" / "audit").rename(tmp_path / "a" / "other")
    (tmp_path / "a" / "audit" / "audit.jsonl").write_bytes(
        (tmp_path / "a" / "other" / "audit.jsonl").read_bytes()
    )
    with pytest.raises(AuditError, match="follows another log"):
        open_registry(tmp_path / "a")


def test_storage_that_is_not_there_is_not_taken_for_empty(tmp_path):
    add(open_registry(tmp_path), "u1", slot=1)
    (tmp_path / "artifacts").rename(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="none of the 1 versions that the audit log names"):
        open_registry(tmp_path)


def test_a_torn_tail_of_the_log_is_cut_and_audited(tmp_path):
    add(open_registry(tmp_path), "u1", slot=3)
    with (tmp_path / "audit" / "audit.jsonl").open("ab") as file:
        file.write(b'{"detail":')
    open_registry(tmp_path)
    (record,) = AuditLog(tmp_path / "audit").records(kinds=["audit_tail_cut"])
    assert (record.slot, record.detail) == (3, {"bytes": 10, "after_record": 2})


def test_a_writer_that_lost_its_lock_changes_nothing(tmp_path):
    lock = OwnerLock(tmp_path / "owner.lock", "fleet-a")
    registry = open_registry(tmp_path, lock=lock)
    add(registry, "u1", slot=1)
    lock.release()
    with OwnerLock(tmp_path / "owner.lock", "fleet-b"):
        with pytest.raises(StateError):
            registry.register(artifact("u2"), update_id="u2", slot=2)
        with pytest.raises(StateError):
            registry.note("drill", slot=2, detail={})
        with pytest.raises(StateError):
            open_registry(tmp_path, lock=lock)
    assert folders(tmp_path) == [1]
    assert registry.newest_servable().version == 1


class FaultyDisk(QuickDisk):
    """Has no room for files whose name holds `fault`."""

    fault = "nothing"

    def write(self, path, data):
        self._room_for(path)
        super().write(path, data)

    def append(self, path, data):
        self._room_for(path)
        super().append(path, data)

    def _room_for(self, path):
        if self.fault in path.name:
            raise OSError(28, "No space left on device")


def test_a_commit_whose_file_work_failed_is_finished_by_the_next_call(tmp_path):
    disk = FaultyDisk()
    registry = open_registry(tmp_path, disk=disk)
    version = add(registry, "u1", slot=1, promote=False)
    disk.fault = "aliases"
    with pytest.raises(OSError, match="No space"):
        registry.promote(version, slot=1, reasons=("better",), who="gate")
    assert registry.state().champion == version
    disk.fault = "nothing"
    registry.promote(version, slot=1, reasons=("better",), who="gate")
    path = tmp_path / "artifacts" / PANEL / "aliases.json"
    assert json.loads(path.read_bytes())["aliases"] == {"champion": version}


@pytest.mark.parametrize("fault", ["weights", "manifest", "audit"])
def test_a_registration_that_failed_can_be_tried_again(tmp_path, fault):
    disk = FaultyDisk()
    registry = open_registry(tmp_path, disk=disk)
    disk.fault = fault
    with pytest.raises(OSError, match="No space"):
        registry.register(artifact("u1"), update_id="u1", slot=1)
    assert registry.state().revision == 0
    disk.fault = "nothing"
    assert registry.register(artifact("u1"), update_id="u1", slot=1) == 1


def test_a_version_that_the_disk_did_not_keep_is_not_committed(tmp_path):
    class ForgetfulDisk(QuickDisk):
        def write(self, path, data):
            super().write(path, data[:-1] if path.name == "weights.safetensors" else data)

    registry = open_registry(tmp_path, disk=ForgetfulDisk())
    with pytest.raises(ArtifactError, match=r"weights\.safetensors: sha256 is"):
        registry.register(artifact("u1"), update_id="u1", slot=1)
    assert registry.state().revision == 0


def test_keeping_no_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep_versions is 0"):
        open_registry(tmp_path, keep=0)


def test_the_registry_loads_no_torch():
    code = "import sys, forecast.registry; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0
