"""The audit log: chained, durable, and honest about what it lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.audit import GENESIS, AuditLog, verify
from forecast.canonical import canonical, plain, sha256
from forecast.errors import AuditError
from tests.forecast.crash_disk import Crash, CrashDisk, QuickDisk


def filled(folder: Path, count: int = 4) -> AuditLog:
    log = AuditLog(folder, disk=QuickDisk())
    for number in range(1, count + 1):
        append(log, number)
    return log


def append(log: AuditLog, number: int, **fields: object):
    fields = {"kind": "pause", "slot": number, "detail": {"n": number}, **fields}
    return log.append(who="ann", time_s=100.0 + number, **fields)


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "audit.jsonl").read_bytes().splitlines(keepends=True)


def rewrite(folder: Path, lines: list[bytes]) -> None:
    (folder / "audit.jsonl").write_bytes(b"".join(lines))


def test_records_are_read_back_as_they_were_written(tmp_path):
    log = filled(tmp_path, 3)
    again = AuditLog(tmp_path)
    assert list(again.records()) == list(log.records())
    assert [record.sequence for record in again.records()] == [1, 2, 3]
    assert again.head == log.head
    assert next(again.records()).previous == GENESIS


def test_records_are_chosen_by_number_slot_and_kind(tmp_path):
    log = filled(tmp_path)
    append(log, 5, kind="resume")
    assert [r.slot for r in log.records(since=3)] == [4, 5]
    assert [r.slot for r in log.records(since_slot=3, kinds=["pause"])] == [3, 4]
    assert [r.slot for r in log.records(kinds=["pause"], newest_first=True)] == [4, 3, 2, 1]
    with pytest.raises(IndexError, match="6; there are 5"):
        log.record(6)


def test_a_key_is_written_once_even_after_a_restart(tmp_path):
    first = append(AuditLog(tmp_path), 1, key="a")
    log = AuditLog(tmp_path)
    assert append(log, 2, key="a") == first
    assert log.find("a") == first
    assert log.find("b") is None
    assert len(log) == 1


def test_the_latest_state_is_the_last_one_that_a_record_holds(tmp_path):
    log = AuditLog(tmp_path)
    append(log, 1, state={"revision": 1})
    append(log, 2)
    assert AuditLog(tmp_path).latest.state == {"revision": 1}


def test_a_sound_log_verifies_and_names_its_head(tmp_path):
    log = filled(tmp_path)
    check = log.verify(head=log.record(2).hash)
    assert (check.records, check.head, check.torn_bytes) == (4, log.head, 0)
    assert verify(tmp_path / "nowhere").head == GENESIS


@pytest.mark.parametrize("line", range(4))
def test_a_changed_record_is_found(tmp_path, line):
    log = filled(tmp_path)
    lines = lines_of(tmp_path)
    lines[line] = lines[line].replace(b'"who":"ann"', b'"who":"bob"')
    rewrite(tmp_path, lines)
    with pytest.raises(AuditError, match=f"line {line + 1}: the record was changed"):
        log.verify()
    with pytest.raises(AuditError, match=f"line {line + 1}"):
        AuditLog(tmp_path)


def test_a_changed_record_with_a_new_hash_breaks_the_chain_behind_it(tmp_path):
    log = filled(tmp_path)
    lines = lines_of(tmp_path)
    record = json.loads(lines[1])
    del record["hash"]
    record["who"] = "bob"
    lines[1] = canonical({**record, "hash": sha256(canonical(record))}) + b"\n"
    rewrite(tmp_path, lines)
    with pytest.raises(AuditError, match="line 3: a record before it is missing"):
        log.verify()


def test_a_record_written_another_way_is_found(tmp_path):
    log = filled(tmp_path)
    lines = lines_of(tmp_path)
    lines[0] = json.dumps(json.loads(lines[0])).encode() + b"\n"
    rewrite(tmp_path, lines)
    with pytest.raises(AuditError, match="line 1: the record was changed"):
        log.verify()


def test_a_record_cut_out_of_the_middle_is_found(tmp_path):
    log = filled(tmp_path)
    lines = lines_of(tmp_path)
    rewrite(tmp_path, [lines[0], *lines[2:]])
    with pytest.raises(AuditError, match="line 2: a record before it is missing"):
        log.verify()


def test_records_in_another_order_are_found(tmp_path):
    log = filled(tmp_path)
    lines = lines_of(tmp_path)
    rewrite(tmp_path, [lines[0], lines[2], lines[1], lines[3]])
    with pytest.raises(AuditError, match="line 2"):
        log.verify()


def test_records_cut_off_the_end_are_found_by_who_remembers_the_head(tmp_path):
    log = filled(tmp_path)
    rewrite(tmp_path, lines_of(tmp_path)[:2])
    assert verify(tmp_path).records == 2
    with pytest.raises(AuditError, match="is missing; 2 are there"):
        verify(tmp_path, head=log.head)
    with pytest.raises(AuditError, match="but 4 were written"):
        log.verify()


def test_an_unknown_format_is_named(tmp_path):
    filled(tmp_path, 1)
    rewrite(tmp_path, [lines_of(tmp_path)[0].replace(b'"format":1', b'"format":2')])
    with pytest.raises(AuditError, match="format 2; this code reads 1"):
        AuditLog(tmp_path)


@pytest.mark.parametrize("line", [b'{"format":1,"n":NaN}\n', b'{"format":1}\n', b"7\n"])
def test_a_line_that_is_no_record_is_refused(tmp_path, line):
    filled(tmp_path, 1)
    rewrite(tmp_path, [*lines_of(tmp_path), line])
    with pytest.raises(AuditError, match="line 2"):
        AuditLog(tmp_path)


@pytest.mark.parametrize("tail", [b'{"format":1,"who', b"\0" * 300, b"\0\0\0}\n"])
def test_a_torn_tail_is_cut_and_said_so(tmp_path, tail):
    head = filled(tmp_path).head
    rewrite(tmp_path, [*lines_of(tmp_path), tail])
    assert verify(tmp_path).torn_bytes == len(tail)
    log = AuditLog(tmp_path)
    assert (log.cut_bytes, log.head, len(log)) == (len(tail), head, 4)
    append(log, 5)
    reopened = AuditLog(tmp_path)
    assert (reopened.cut_bytes, len(reopened)) == (0, 5)


@given(cut=st.integers(min_value=0))
def test_a_log_cut_anywhere_keeps_every_record_before_the_cut(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("log")
    filled(folder)
    whole = lines_of(folder)
    data = b"".join(whole)
    data = data[: cut % (len(data) + 1)]
    (folder / "audit.jsonl").write_bytes(data)
    log = AuditLog(folder, disk=QuickDisk())
    assert len(log) == data.count(b"\n")
    assert b"".join(whole[: len(log)]) == (folder / "audit.jsonl").read_bytes()


@pytest.mark.parametrize("power_cut", [False, True])
def test_an_append_is_whole_or_not_there_wherever_the_program_dies(tmp_path, power_cut):
    seen = []
    for at in range(20):
        folder = tmp_path / str(at)
        folder.mkdir()
        disk = CrashDisk(folder, at=at, power_cut=power_cut)
        try:
            log = AuditLog(folder / "audit", disk=disk)
            append(log, 1)
            append(log, 2)
        except Crash:
            seen.append(len(AuditLog(folder / "audit")))
        else:
            disk.die()
            assert len(AuditLog(folder / "audit")) == 2
            break
    assert set(seen) == {0, 1, 2} if not power_cut else {0, 1}
    assert seen == sorted(seen)


def test_a_failed_write_leaves_no_trace_in_the_next_one(tmp_path):
    class FullDisk(QuickDisk):
        full = False

        def append(self, path, data):
            super().append(path, data[:20] if self.full else data)
            if self.full:
                raise OSError(28, "No space left on device")

    disk = FullDisk()
    log = AuditLog(tmp_path, disk=disk)
    append(log, 1)
    disk.full = True
    with pytest.raises(OSError, match="No space"):
        append(log, 2, key="k")
    disk.full = False
    assert log.find("k") is None
    append(log, 2, key="k")
    assert AuditLog(tmp_path).find("k").sequence == 2


def test_numbers_that_json_has_not_are_kept_by_name():
    value = {"a": (np.float32(1.5), np.int64(2), np.bool_(True)), "b": [float("nan"), -np.inf]}
    assert plain(value) == {"a": [1.5, 2, True], "b": ["nan", "-inf"]}


@pytest.mark.parametrize("value", [{1: "a"}, {"a": b"bytes"}, {"a": {1, 2}}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(TypeError, match="JSON"):
        plain(value)
