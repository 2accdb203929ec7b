from __future__ import annotations

import numpy as np
import pytest

from forecast.errors import StateError
from forecast.storage import DISK, Disk
from tests.forecast.crash_disk import Crash, CrashDisk, QuickDisk
from train.segments import Record, SegmentLog


def log_of(directory, *, acknowledge="write", segment_bytes=1 << 20, about=None, disk=DISK):
    return SegmentLog(
        directory,
        acknowledge=acknowledge,
        segment_bytes=segment_bytes,
        about=about or {},
        disk=disk,
    )


def record(number):
    return Record({"n": number}, {"x": np.arange(number, dtype=np.float64)})


def numbers(directory, **settings):
    """Record numbers that a restart finds, snapshot first."""
    log = log_of(directory, **settings)
    kept = [each.header["n"] for each in log.snapshot()]
    return kept + [each.header["n"] for _, each in log.replay()]


def files(directory):
    return sorted(path.name for path in directory.iterdir())


def test_records_come_back_in_order_with_their_arrays_and_what_they_are_about(tmp_path):
    first = log_of(tmp_path, about={"metrics": ["cpu"]})
    first.append(Record({"n": 1}, {"x": np.array([[1.5, np.nan]], np.float32)}))
    second = log_of(tmp_path, about={"metrics": ["cpu_usage"]})
    list(second.replay())
    second.append(Record({"n": 2}, {"x": np.empty((0, 3), np.int64)}))
    again = list(log_of(tmp_path).replay())
    assert [about["metrics"] for about, _ in again] == [["cpu"], ["cpu_usage"]]
    assert [each.header["n"] for _, each in again] == [1, 2]
    np.testing.assert_array_equal(again[0][1].arrays["x"], [[1.5, np.nan]])
    assert again[1][1].arrays["x"].shape == (0, 3)


def test_a_full_segment_is_followed_by_the_next(tmp_path):
    log = log_of(tmp_path, segment_bytes=400)
    for number in range(8):
        log.append(record(number))
    assert len(files(tmp_path)) > 2
    assert log.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert numbers(tmp_path) == list(range(8))


def test_a_snapshot_takes_the_place_of_the_segments_before_it(tmp_path):
    log = log_of(tmp_path, segment_bytes=400)
    for number in range(8):
        log.append(record(number))
    log.compact([record(100), record(101)])
    log.append(record(8))
    assert [name.split("-")[0] for name in files(tmp_path)] == ["log", "snapshot"]
    assert numbers(tmp_path) == [100, 101, 8]
    log.compact([record(200)])
    assert numbers(tmp_path) == [200]
    assert len(files(tmp_path)) == 2


def written(directory, count=4):
    """So many records in one segment; the file and its size after each of them."""
    log = log_of(directory, disk=QuickDisk())
    sizes = []
    for number in range(count):
        log.append(record(number))
        sizes.append(log.nbytes)
    return directory / "log-00000001.seg", sizes


def test_a_log_cut_at_any_byte_gives_back_every_whole_record(tmp_path):
    path, sizes = written(tmp_path)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        log = log_of(tmp_path, disk=QuickDisk())
        kept = [each.header["n"] for _, each in log.replay()]
        complete = sum(size <= cut for size in sizes)
        assert kept == list(range(complete))
        log.append(record(50))
        assert numbers(tmp_path, disk=QuickDisk()) == [*range(complete), 50]
        for left in tmp_path.iterdir():
            left.unlink()


def test_a_torn_tail_is_cut_and_said(tmp_path):
    path, sizes = written(tmp_path)
    path.write_bytes(path.read_bytes()[: sizes[-1] - 3])
    log = log_of(tmp_path)
    list(log.replay())
    assert log.torn_bytes == sizes[-1] - 3 - sizes[-2]
    assert path.stat().st_size == sizes[-2]


def test_zeros_after_the_last_record_are_a_torn_tail(tmp_path):
    path, sizes = written(tmp_path)
    path.write_bytes(path.read_bytes() + bytes(4096))
    assert numbers(tmp_path) == list(range(4))
    assert path.stat().st_size == sizes[-1]


def test_a_flipped_bit_before_the_last_record_is_damage_and_named(tmp_path):
    path, sizes = written(tmp_path)
    whole = path.read_bytes()
    for at in range(sizes[-2]):
        content = bytearray(whole)
        content[at] ^= 1 << at % 8
        path.write_bytes(bytes(content))
        with pytest.raises(StateError, match=r"log-00000001\.seg: damaged at byte"):
            numbers(tmp_path, disk=QuickDisk())


def test_damage_in_an_older_segment_is_never_taken_for_a_torn_tail(tmp_path):
    log = log_of(tmp_path, segment_bytes=400)
    for number in range(8):
        log.append(record(number))
    first = tmp_path / "log-00000001.seg"
    whole = first.read_bytes()
    for content in (whole[:-5], b""):
        first.write_bytes(content)
        with pytest.raises(StateError, match="log-00000001"):
            numbers(tmp_path)


def test_a_missing_segment_or_snapshot_is_named(tmp_path):
    log = log_of(tmp_path, segment_bytes=200)
    for number in range(8):
        log.append(record(number))
    (tmp_path / "log-00000002.seg").unlink()
    with pytest.raises(StateError, match=r"segments \[2\] are missing"):
        log_of(tmp_path)
    (tmp_path / "log-00000001.seg").unlink()
    with pytest.raises(StateError, match=r"segments \[1, 2\] are missing"):
        log_of(tmp_path)


def test_a_damaged_snapshot_is_named(tmp_path):
    log_of(tmp_path).compact([record(100)])
    path = next(tmp_path.glob("snapshot-*"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StateError, match="snapshot-0000000"):
        numbers(tmp_path)


def test_an_unknown_format_is_refused_by_number(tmp_path, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr("train.segments.FORMAT", 2)
        log_of(tmp_path).append(record(1))
    with pytest.raises(StateError, match="format 2, this program reads format 1"):
        numbers(tmp_path)


class FullDisk(Disk):
    """Writes a part of what is appended, then is full, as long as `full` says."""

    full = False

    def append(self, path, data):
        if self.full:
            super().append(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        super().append(path, data)


class StuckDisk(FullDisk):
    def truncate(self, path, size):
        raise OSError(5, "Input/output error")


def test_a_record_that_did_not_fit_leaves_no_trace_and_the_next_one_is_kept(tmp_path):
    disk = FullDisk()
    log = log_of(tmp_path, disk=disk)
    log.append(record(1))
    disk.full = True
    with pytest.raises(StateError, match="No space left"):
        log.append(record(2))
    disk.full = False
    log.append(record(3))
    assert numbers(tmp_path) == [1, 3]


def test_a_log_that_cannot_be_made_whole_again_takes_nothing_more(tmp_path):
    disk = StuckDisk()
    log = log_of(tmp_path, disk=disk)
    log.append(record(1))
    disk.full = True
    with pytest.raises(StateError):
        log.append(record(2))
    disk.full = False
    with pytest.raises(StateError, match="the log stopped"):
        log.append(record(3))
    assert numbers(tmp_path) == [1]


def test_a_snapshot_that_did_not_fit_leaves_the_log_as_it_was(tmp_path):
    disk = FullDisk()
    log = log_of(tmp_path, disk=disk)
    log.append(record(1))
    disk.full = True
    with pytest.raises(StateError, match="No space left"):
        log.compact([record(100)])
    disk.full = False
    log.append(record(2))
    assert numbers(tmp_path) == [1, 2]


def test_a_closed_log_takes_nothing_more(tmp_path):
    log = log_of(tmp_path)
    log.append(record(1))
    log.close()
    log.close()
    with pytest.raises(StateError, match="closed"):
        log.append(record(2))
    assert numbers(tmp_path) == [1]


def story(directory, disk, acknowledge, acknowledged):
    """Appends with two snapshots in between; a snapshot's record sums up all before it."""
    log = log_of(directory, disk=disk, acknowledge=acknowledge, segment_bytes=300)
    kept = [each.header["n"] for each in log.snapshot()]
    acknowledged[:] = (kept[0] if kept else []) + [each.header["n"] for _, each in log.replay()]
    for number in range(7):
        log.append(record(number))
        acknowledged.append(number)
        if number in (2, 5):
            log.compact([Record({"n": list(acknowledged)}, {})])


@pytest.mark.parametrize(("acknowledge", "power_cut"), [("write", False), ("fsync", True)])
def test_a_crash_at_any_file_operation_loses_nothing_acknowledged(tmp_path, acknowledge, power_cut):
    counting = CrashDisk(_folder(tmp_path / "count"))
    story(counting.root, counting, acknowledge, [])
    for at in range(counting.done):
        folder = _folder(tmp_path / str(at))
        acknowledged: list[int] = []
        with pytest.raises(Crash):
            story(folder, CrashDisk(folder, at, power_cut), acknowledge, acknowledged)
        log = log_of(folder, disk=QuickDisk())
        kept = [each.header["n"] for each in log.snapshot()]
        found = (kept[0] if kept else []) + [each.header["n"] for _, each in log.replay()]
        # One record may have been written whole and not yet acknowledged.
        assert found[: len(acknowledged)] == acknowledged
        assert len(found) <= len(acknowledged) + 1


def test_after_a_restart_and_a_power_cut_the_run_before_is_whole(tmp_path):
    """`write` promises nothing about power cuts, but what one leaves must be readable."""
    disk = CrashDisk(_folder(tmp_path / "log"), power_cut=True)
    log_of(disk.root, disk=disk).append(record(1))
    again = log_of(disk.root, disk=disk)
    assert len(list(again.replay())) == 1
    again.append(record(2))
    disk.die()
    assert numbers(disk.root) == [1]


def _folder(path):
    path.mkdir()
    return path


def test_records_written_together_share_one_sync(tmp_path):
    disk = Syncs()
    log = log_of(tmp_path, acknowledge="fsync", disk=disk)
    log.append(record(0))
    before = disk.count
    for number in range(1, 9):
        log.write(record(number))
    log.sync()
    log.sync()
    assert disk.count == before + 1
    assert numbers(tmp_path) == list(range(9))


class Syncs(Disk):
    """Counts syncs; fails while `fails` says so."""

    def __init__(self):
        self.count, self.fails = 0, False

    def sync(self, path):
        self.count += 1
        if self.fails:
            raise OSError(5, "Input/output error")


def test_after_a_power_cut_a_hole_among_what_was_never_acknowledged_is_a_torn_tail(tmp_path):
    log = log_of(tmp_path, acknowledge="fsync")
    log.append(record(0))
    first = log.nbytes
    for number in range(1, 5):
        log.write(record(number))
    path = tmp_path / "log-00000001.seg"
    content = bytearray(path.read_bytes())
    content[first : first + 40] = bytes(40)  # records 2 to 4 reached the disk, record 1 did not
    path.write_bytes(content)
    again = log_of(tmp_path)
    assert [each.header["n"] for _, each in again.replay()] == [0]
    assert again.torn_bytes == len(content) - first


def test_a_hole_in_what_a_later_record_knows_to_be_acknowledged_is_damage(tmp_path):
    log = log_of(tmp_path, acknowledge="fsync")
    log.append(record(0))
    first = log.nbytes
    for number in range(1, 5):
        log.write(record(number))
    log.sync()
    log.append(record(5))
    path = tmp_path / "log-00000001.seg"
    content = bytearray(path.read_bytes())
    content[first : first + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(StateError, match=f"damaged at byte {first}"):
        numbers(tmp_path)


def test_a_log_whose_sync_failed_goes_on_only_in_a_new_snapshot(tmp_path):
    disk = Syncs()
    log = log_of(tmp_path, acknowledge="fsync", disk=disk)
    log.append(record(1))
    log.write(record(2))
    disk.fails = True
    with pytest.raises(StateError, match="cannot sync"):
        log.sync()
    for refused in (lambda: log.append(record(3)), log.sync, lambda: log.compact([record(9)])):
        with pytest.raises(StateError):
            refused()
    disk.fails = False
    with pytest.raises(StateError, match="the log stopped"):
        log.write(record(3))
    log.compact([record(100)])
    log.append(record(3))
    assert numbers(tmp_path) == [100, 3]


def test_what_a_killed_run_wrote_is_made_sure_of_before_it_can_be_acknowledged(tmp_path):
    disk = CrashDisk(_folder(tmp_path / "log"), power_cut=True)
    killed = log_of(disk.root, acknowledge="fsync", disk=disk)
    killed.append(record(0))
    killed.write(record(1))
    heir = log_of(disk.root, acknowledge="fsync", disk=disk)
    assert [each.header["n"] for _, each in heir.replay()] == [0, 1]
    disk.die()
    assert numbers(disk.root) == [0, 1]


def test_a_half_written_snapshot_gives_its_space_back(tmp_path):
    disk = FullDisk()
    log = log_of(tmp_path, disk=disk)
    log.append(record(1))
    disk.full = True
    with pytest.raises(StateError, match="No space left"):
        log.compact([record(100)])
    assert not [name for name in files(tmp_path) if name.startswith(".tmp-")]


@pytest.mark.parametrize("acknowledge", ["write", "fsync"])
@pytest.mark.parametrize("power_cut", [False, True])
@pytest.mark.parametrize("failing_sync", [None, 4, 6])
def test_a_crash_at_any_file_operation_of_a_group_commit_loses_nothing_acknowledged(
    tmp_path, acknowledge, power_cut, failing_sync
):
    """Groups of two; where a sync fails, all that was written goes into a snapshot."""
    counting = FailingSync(_folder(tmp_path / "count"), fails=failing_sync)
    grouped(counting.root, counting, acknowledge, [])
    for at in range(counting.done):
        folder = _folder(tmp_path / str(at))
        acknowledged: list[int] = []
        disk = FailingSync(folder, at, power_cut, fails=failing_sync)
        with pytest.raises(Crash):
            grouped(folder, disk, acknowledge, acknowledged)
        found = summed(log_of(folder, disk=QuickDisk()))
        assert found == list(range(len(found)))
        if acknowledge == "fsync" or not power_cut:
            assert len(acknowledged) <= len(found) <= len(acknowledged) + 2


class FailingSync(CrashDisk):
    """One sync of a file, counted from 0, fails for good and leaves what it should have synced."""

    def __init__(self, root, at=None, power_cut=False, *, fails):
        super().__init__(root, at, power_cut)
        self.fails, self.syncs = fails, 0

    def sync(self, path):
        self.syncs += 1
        if self.syncs - 1 == self.fails:
            raise OSError(5, "Input/output error")
        super().sync(path)


def grouped(directory, disk, acknowledge, acknowledged):
    log = log_of(directory, disk=disk, acknowledge=acknowledge, segment_bytes=600)
    written = summed(log)

    def trying(what):
        try:
            what()
        except StateError:
            if log.stopped:
                log.compact([Record({"n": list(written)}, {})])
                return False
            what()  # refused without a trace: it may be tried again
        return True

    for number in range(len(written), 10):
        while not trying(lambda number=number: log.write(record(number))):
            pass
        written.append(number)
        if number % 2:
            trying(log.sync)
        if number == 6:
            trying(lambda: log.compact([Record({"n": list(written)}, {})]))
        if acknowledge == "write" or number % 2 or number == 6:
            acknowledged[:] = written


def summed(log):
    kept = [each.header["n"] for each in log.snapshot()]
    return (kept[0] if kept else []) + [each.header["n"] for _, each in log.replay()]
