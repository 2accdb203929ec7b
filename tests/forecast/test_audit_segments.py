"""The audit log in segments: one chain, opened by its last part, and no damage unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.audit import GENESIS, AuditLog, verify
from forecast.audit_segments import Index, index_path, segment_path
from forecast.canonical import canonical, sha256
from forecast.errors import AuditError
from tests.forecast.crash_disk import Crash, CrashDisk, QuickDisk

SMALL = 700
"""Bytes: about three records a segment."""


def opened(folder: Path, *, disk: QuickDisk | None = None, segment_bytes: int = SMALL) -> AuditLog:
    return AuditLog(folder, segment_bytes=segment_bytes, disk=disk or QuickDisk())


def append(log: AuditLog, number: int):
    kind = "promote" if number % 4 == 0 else "pause"
    state = {"revision": number} if number % 4 == 0 else None
    given = {"slot": 10 * number, "who": "ann", "time_s": 1.0, "state": state}
    return log.append(kind=kind, detail={"n": number}, key=f"k{number}", **given)


def filled(folder: Path, count: int = 11) -> AuditLog:
    log = opened(folder)
    for number in range(1, count + 1):
        append(log, number)
    return log


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_full_segments_are_left_and_the_chain_goes_on_in_the_next(tmp_path):
    log = filled(tmp_path)
    firsts = [1, 4, 7, 10]
    assert names(tmp_path) == sorted(
        [segment_path(tmp_path, first).name for first in firsts]
        + [index_path(segment_path(tmp_path, first)).name for first in firsts[:-1]]
    )
    assert [record.sequence for record in log.records()] == list(range(1, 12))
    assert verify(tmp_path, log.record(2).hash).records == 11
    assert log.verify().head == log.head


def test_a_log_that_was_opened_again_is_the_same(tmp_path):
    log, again = filled(tmp_path), opened(tmp_path)
    assert list(again.records()) == list(log.records())
    assert (again.head, len(again), again.latest) == (log.head, 11, log.record(8))
    assert [again.find(f"k{number}") for number in range(1, 12)] == list(log.records())
    assert append(again, 5) == log.record(5)
    append(again, 12)
    assert verify(tmp_path).records == 12


def test_records_are_paged_across_segments_newest_first(tmp_path):
    log = filled(tmp_path)

    def page(**query: object) -> list[int]:
        return [record.sequence for record in log.records(newest_first=True, **query)]

    assert page(before=8, kinds=["pause"]) == [7, 6, 5, 3, 2, 1]
    assert page(before=100, since_slot=90) == [11, 10, 9]
    assert page(kinds=["promote"]) == [8, 4]
    assert [log.count(kind) for kind in ("promote", "pause", "reject")] == [2, 9, 0]


def test_opening_reads_no_full_segment(tmp_path, monkeypatch):
    filled(tmp_path)
    read: list[str] = []
    whole = Path.read_bytes

    def counted(path: Path) -> bytes:
        read.append(path.name)
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    opened(tmp_path)
    assert [name for name in read if name.endswith(".jsonl")] == ["audit-000000000010.jsonl"]


def test_a_log_of_one_file_as_it_was_before_opens_and_goes_on(tmp_path):
    before = opened(tmp_path, segment_bytes=1 << 20)
    for number in range(1, 8):
        append(before, number)
    assert names(tmp_path) == ["audit.jsonl"]
    log = opened(tmp_path)
    append(log, 8)
    assert names(tmp_path) == ["audit-000000000008.jsonl", "audit.index.json", "audit.jsonl"]
    assert list(opened(tmp_path).records())[:7] == list(before.records())


@pytest.mark.parametrize("damage", [None, b"", b"{}", b"7", b'{"format":1}'])
def test_an_index_that_is_missing_or_damaged_is_made_again(tmp_path, damage):
    log = filled(tmp_path)
    path = index_path(segment_path(tmp_path, 4))
    whole = path.read_bytes()
    path.unlink() if damage is None else path.write_bytes(damage)
    assert verify(tmp_path).records == 11
    assert list(opened(tmp_path).records()) == list(log.records())
    assert path.read_bytes() == whole


def test_an_index_that_tells_of_another_segment_is_found(tmp_path):
    log = filled(tmp_path)
    path = index_path(segment_path(tmp_path, 1))
    body = json.loads(path.read_bytes())
    del body["sha256"]
    body["entries"][1][3] = "k9"
    path.write_bytes(canonical({**body, "sha256": sha256(canonical(body))}))
    with pytest.raises(AuditError, match=r"audit\.index\.json: says something else"):
        log.verify()


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (1, r"audit\.jsonl is missing: audit-000000000004.jsonl continues it"),
        (4, r"audit-000000000007.jsonl: records 4 to 6 are missing"),
        (7, r"audit-000000000010.jsonl: records 7 to 9 are missing"),
    ],
)
def test_a_missing_segment_is_found_at_once(tmp_path, gone, said):
    filled(tmp_path)
    segment_path(tmp_path, gone).unlink()
    for check in (verify, opened):
        with pytest.raises(AuditError, match=said):
            check(tmp_path)


def test_the_last_segment_is_missed_by_who_remembers_the_head(tmp_path):
    log = filled(tmp_path)
    segment_path(tmp_path, 10).unlink()
    with pytest.raises(AuditError, match="is missing; 9 are there"):
        verify(tmp_path, log.head)


def test_two_segments_in_each_others_place_are_found(tmp_path):
    filled(tmp_path)
    one, other = segment_path(tmp_path, 4), segment_path(tmp_path, 7)
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)
    for check in (verify, opened):
        with pytest.raises(AuditError, match="a record before it is missing, added or in another"):
            check(tmp_path)


def test_a_record_cut_from_a_full_segment_is_found_when_it_opens(tmp_path):
    filled(tmp_path)
    path = segment_path(tmp_path, 4)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(AuditError, match="records 6 to 6 are missing"):
        opened(tmp_path)


def test_a_changed_record_of_a_full_segment_is_found_when_it_is_read(tmp_path):
    log = filled(tmp_path)
    path = segment_path(tmp_path, 4)
    path.write_bytes(path.read_bytes().replace(b'"n":5', b'"n":9'))
    again = opened(tmp_path)  # which does not read it
    with pytest.raises(AuditError, match="the record was changed"):
        again.find("k5")
    with pytest.raises(AuditError, match=r"audit-000000000004\.jsonl: line 2"):
        verify(tmp_path, log.head)


def test_only_the_last_segment_may_end_in_the_middle_of_a_record(tmp_path):
    filled(tmp_path)
    last, full = segment_path(tmp_path, 10), segment_path(tmp_path, 7)
    last.write_bytes(last.read_bytes() + b'{"detail":')
    assert opened(tmp_path).cut_bytes == 10
    full.write_bytes(full.read_bytes()[:-4])
    with pytest.raises(AuditError, match="line 3"):
        opened(tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A log in three segments, its head, and its files."""
    folder = tmp_path_factory.mktemp("small")
    log = filled(folder, 7)
    return log.head, {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_byte_changed_cut_or_added_in_any_segment_is_found(small, tmp_path_factory, data):
    head, files = small
    folder = tmp_path_factory.mktemp("changed")
    name = data.draw(st.sampled_from(sorted(files)))
    whole = files[name]
    at = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    how = data.draw(st.sampled_from(["changed", "cut", "added"]))
    middle = {"changed": bytes([other]), "cut": b"", "added": bytes([other, whole[at]])}[how]
    for each, content in files.items():
        (folder / each).write_bytes(content)
    (folder / name).write_bytes(whole[:at] + middle + whole[at + 1 :])
    with pytest.raises(AuditError):
        verify(folder, head)


@settings(max_examples=60, deadline=None)
@given(order=st.permutations(range(7)))
def test_records_in_any_other_order_are_found(small, tmp_path_factory, order):
    _, files = small
    lines = b"".join(files[name] for name in ("audit.jsonl", *sorted(files)[:-1]))
    records = lines.splitlines(keepends=True)
    folder = tmp_path_factory.mktemp("reordered")
    (folder / "audit.jsonl").write_bytes(b"".join(records[place] for place in order))
    if list(order) == list(range(7)):
        assert verify(folder).records == 7
        return
    with pytest.raises(AuditError):
        verify(folder)


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power-cut"])
def test_a_log_is_whole_wherever_the_program_dies_between_segments(tmp_path, power_cut):
    reached = set()
    for at in range(200):
        folder = tmp_path / str(at)
        folder.mkdir()
        disk = CrashDisk(folder, at=at, power_cut=power_cut)
        log = None
        try:
            log = opened(folder / "audit", disk=disk)
            for number in range(1, 9):
                append(log, number)
        except Crash:
            promised = 0 if log is None else len(log)
            again = opened(folder / "audit")
            assert promised <= len(again) <= promised + 1
            for number in range(len(again) + 1, 9):
                append(again, number)
            assert again.verify().records == 8
            reached.add(promised)
        else:
            break
    assert reached == set(range(8))


def test_an_index_reads_back_as_it_was_written(tmp_path):
    filled(tmp_path)
    path = segment_path(tmp_path, 1)
    made = Index.of(path, path.read_bytes(), first=1, previous=GENESIS)
    assert Index.read(path) == made
    assert made.fits(path, first=1, previous=GENESIS)
    assert not made.fits(path, first=2, previous=GENESIS)
