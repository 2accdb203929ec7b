"""What decisions were made from: kept by content, for so long, and never taken for another."""

from __future__ import annotations

import pytest

from forecast.canonical import sha256
from forecast.errors import StateError
from forecast.evidence_files import EvidenceFiles
from tests.forecast.crash_disk import Crash, CrashDisk, QuickDisk


def files(folder, *, disk=None):
    return EvidenceFiles(folder / "evidence", keep_slots=10, disk=disk or QuickDisk())


def test_what_is_kept_is_read_by_its_hash_also_by_another_reader(tmp_path):
    digest = files(tmp_path).keep(b"sums", slot=100)
    assert digest == sha256(b"sums")
    assert files(tmp_path).read(digest, slot=100) == b"sums"
    assert files(tmp_path).keep(b"sums", slot=100) == digest
    assert len(files(tmp_path).files()) == 1


def test_it_goes_once_it_is_older_than_is_kept(tmp_path):
    kept = files(tmp_path)
    old, young = kept.keep(b"old", slot=100), kept.keep(b"young", slot=110)
    assert kept.read(old, slot=100) == b"old"
    kept.keep(b"new", slot=111)
    with pytest.raises(StateError, match="the evidence of slot 100 is no longer kept"):
        kept.read(old, slot=100)
    assert kept.read(young, slot=110) == b"young"


def test_a_changed_file_is_refused(tmp_path):
    kept = files(tmp_path)
    digest = kept.keep(b"sums", slot=1)
    [path] = kept.files().values()
    path.write_bytes(b"sumz")
    with pytest.raises(StateError, match="sha256 is"):
        kept.read(digest, slot=1)


def test_a_crash_leaves_it_whole_or_not_there(tmp_path):
    for at in range(30):
        folder = tmp_path / str(at)
        folder.mkdir()
        disk = CrashDisk(folder, at=at, power_cut=True)
        try:
            files(folder, disk=disk).keep(b"sums", slot=1)
        except Crash:
            again = files(folder)
            assert again.read(again.keep(b"sums", slot=1), slot=1) == b"sums"
        else:
            break
    assert at > 4
