"""Requests, order and restarts: what was acknowledged is there, bit by bit."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.errors import StateError
from forecast.schema import ServerInfo
from forecast.storage import Disk
from tests.forecast.crash_disk import Crash, CrashDisk, QuickDisk
from tests.train.streams import (
    DAY,
    SCHEMA,
    STEP_S,
    block_of,
    buffer_of,
    picture,
    steady,
    value,
)

BEGIN = 1000


def requests(count, *, begin=BEGIN):
    """So many requests: two servers slot by slot, one late, one with a refused row."""
    made = []
    for at in range(count):
        block = steady(["a", "b"][: 1 + at % 3], [begin + at, begin + at + 1], seed=at)
        made.append((f"request-{at}", block))
    made[count // 2] = ("late", block_of([("c", (begin + 1) * STEP_S, "cpu", 0.5)]))
    made[-1] = ("old", steady(["a"], [begin - 3 * DAY, begin + count]))
    return made


def feed(buffer, made):
    return [buffer.append(request_id, block) for request_id, block in made]


def test_a_report_says_what_became_of_each_sample():
    buffer = buffer_of()
    buffer.append("1", steady(["a"], range(BEGIN, BEGIN + 10)))
    block = block_of(
        [
            ("a", (BEGIN + 10) * STEP_S, "cpu", 0.5),
            ("a", (BEGIN + 9) * STEP_S, "cpu", 0.0),  # the slot is open, the time known
            ("a", (BEGIN + 3) * STEP_S + 9, "cpu", 0.5),  # the slot is closed
            ("a", (BEGIN - 3 * DAY) * STEP_S, "cpu", 0.5),
        ]
    )
    report = buffer.append("2", block)
    assert (report.accepted, report.late, report.repeated) == (3, 1, 1)
    assert [(reject.index, reject.reason) for reject in report.rejected] == [(3, "too_old")]
    assert (report.clock_slot, report.closed_slot) == (BEGIN + 10, BEGIN + 9)


def test_an_empty_buffer_answers_everything():
    buffer = buffer_of()
    status = buffer.status()
    assert (status.clock_slot, status.closed_slot, status.first_slot) == (None, None, None)
    assert (status.servers, status.rows, status.late, status.requests) == (0, 0, 0, 0)
    assert buffer.servers() == ()
    assert buffer.new_rows_since(0, 10) == 0
    report = buffer.append("nothing", block_of([]))
    assert (report.accepted, report.clock_slot) == (0, None)


def test_a_request_id_seen_before_changes_nothing_and_gets_the_first_report():
    buffer = buffer_of()
    first = feed(buffer, requests(6))
    before = picture(buffer)
    again = [
        buffer.append(request_id, steady(["z"], [BEGIN + 99])) for request_id, _ in requests(6)
    ]
    assert again == first
    assert picture(buffer) == before


def test_a_request_without_an_id_is_refused():
    with pytest.raises(ValueError, match="id"):
        buffer_of().append("", steady(["a"], [BEGIN]))


def test_request_ids_are_remembered_up_to_a_bound(monkeypatch):
    monkeypatch.setattr("train.requests._MOST_REQUESTS", 3)
    buffer = buffer_of()
    feed(buffer, [(f"r{at}", steady(["a"], [BEGIN + at])) for at in range(5)])
    assert buffer.status().requests == 3
    assert buffer.append("r4", block_of([])).accepted == 3
    assert buffer.append("r0", block_of([])).accepted == 0


def test_many_rejects_shorten_what_is_remembered(monkeypatch):
    monkeypatch.setattr("train.requests._MOST_REJECTS", 10)
    buffer = buffer_of()
    buffer.append("now", steady(["a"], [BEGIN]))
    for at in range(4):
        buffer.append(f"old-{at}", steady(["a"], [BEGIN - 3 * DAY, BEGIN - 3 * DAY - 1]))
    assert buffer.status().requests == 1


def cells(buffer, servers, slots):
    """Values of all servers in these slots, as bytes."""
    first, last = min(slots), max(slots)
    parts = []
    for server in servers:
        raw = buffer.cut([server] * (last - first + 1), np.arange(first, last + 1), labels=False)
        parts.append((raw.values[:, raw.context - 1].tobytes(), raw.spread.tobytes()))
    return parts


SERVERS = ("a", "b", "c")
SPAN = 24  # the out-of-order window: 2 hours of 5 minutes
SAMPLES = st.lists(
    st.tuples(
        st.sampled_from(SERVERS),
        st.integers(BEGIN * STEP_S, (BEGIN + SPAN) * STEP_S - 1),
        st.sampled_from(SCHEMA.names),
        st.sampled_from([0.1, 0.2, 0.3, 1.7, 40.0, 1e5]),
    ),
    min_size=1,
    max_size=40,
)


@given(SAMPLES, st.data())
def test_any_order_any_repeats_and_any_requests_give_the_same_grid(samples, data):
    samples += [(server, BEGIN * STEP_S, "cpu", 0.5) for server in SERVERS]
    again = data.draw(st.lists(st.sampled_from(samples), max_size=12))
    shuffled = data.draw(st.permutations(samples + again))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(shuffled)), max_size=5)))
    one, other = buffer_of(), buffer_of()
    one.append("all", block_of(samples))
    for a, b in zip([0, *cuts], [*cuts, len(shuffled)], strict=True):
        other.append(f"part-{a}", block_of(shuffled[a:b]))
    slots = range(BEGIN, BEGIN + SPAN)
    assert cells(other, SERVERS, slots) == cells(one, SERVERS, slots)
    assert other.servers(BEGIN + SPAN) == one.servers(BEGIN + SPAN)


def copy_of(directory, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(directory, target)
    return target


@pytest.mark.parametrize("snapshot_every", [1 << 20, 6000])
def test_a_restarted_buffer_is_the_one_that_was_killed_and_goes_on_alike(tmp_path, snapshot_every):
    made = requests(30)
    living = buffer_of(tmp_path / "living", snapshot_every_bytes=snapshot_every)
    for at, (request_id, block) in enumerate(made):
        living.append(request_id, block)
        if at % 7 == 6:
            copied = copy_of(tmp_path / "living", tmp_path / "copy")
            restarted = buffer_of(copied, snapshot_every_bytes=snapshot_every)
            assert picture(restarted) == picture(living)
    # The raw samples are back too: late ones fold as if nothing had happened.
    late = block_of([("a", (BEGIN + 28) * STEP_S + 30, name, 3e6) for name in SCHEMA.names])
    restarted = buffer_of(copy_of(tmp_path / "living", tmp_path / "copy"))
    assert restarted.append("late-2", late) == living.append("late-2", late)
    assert picture(restarted) == picture(living)


def test_a_request_id_is_known_after_a_restart_from_log_and_from_snapshot(tmp_path):
    for snapshot_every in (1 << 20, 3000):
        folder = tmp_path / str(snapshot_every)
        first = feed(buffer_of(folder, snapshot_every_bytes=snapshot_every), requests(8))
        restarted = buffer_of(folder, snapshot_every_bytes=snapshot_every)
        before = picture(restarted)
        assert feed(restarted, requests(8)) == first
        assert picture(restarted) == before
        assert any(report.rejected for report in first)


def test_the_log_is_cut_short_by_snapshots(tmp_path):
    buffer = buffer_of(tmp_path, snapshot_every_bytes=5000)
    for at in range(60):
        buffer.append(f"r{at}", steady(["a", "b"], [BEGIN + at], seed=at))
        assert buffer.status().log_bytes < 7000
    assert len(list(tmp_path.glob("snapshot-*"))) == 1
    assert picture(buffer_of(tmp_path, snapshot_every_bytes=5000)) == picture(buffer)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A log of eight requests, its size after each, and the picture of a buffer after each."""
    folder = tmp_path_factory.mktemp("logged")
    buffer, sizes, pictures = buffer_of(folder), [0], [picture(buffer_of())]
    for request_id, block in requests(8):
        buffer.append(request_id, block)
        sizes.append(buffer.status().log_bytes)
        pictures.append(picture(buffer))
    return folder / "log-00000001.seg", sizes, pictures


def test_killed_at_any_byte_of_the_log_what_was_acknowledged_is_there(logged, tmp_path):
    path, sizes, pictures = logged
    whole = path.read_bytes()
    around = {size + by for size in sizes for by in (-1, 0, 1)}
    for cut in sorted({*range(0, len(whole), 97), *around} & {*range(len(whole) + 1)}):
        folder = _folder(tmp_path / str(cut))
        (folder / path.name).write_bytes(whole[:cut])
        restarted = buffer_of(folder, disk=QuickDisk())
        complete = sum(size <= cut for size in sizes[1:])
        assert picture(restarted) == pictures[complete]
        if complete:
            assert restarted.status().torn_bytes == cut - sizes[complete]
        # The client retries what was not acknowledged, and all is as if nothing had happened.
        feed(restarted, requests(8))
        assert picture(restarted) == pictures[-1]


def test_a_torn_tail_is_said(logged, tmp_path, caplog):
    path, sizes, _ = logged
    (tmp_path / path.name).write_bytes(path.read_bytes()[: sizes[4] + 10])
    restarted = buffer_of(tmp_path)
    assert restarted.status().torn_bytes == 10
    assert "cut 10 bytes of an unfinished record" in caplog.text


def story(disk, made, acknowledged, settings):
    buffer = buffer_of(disk.root, disk=disk, **settings)
    for request_id, block in made:
        acknowledged.append(buffer.append(request_id, block))


@pytest.mark.parametrize(("acknowledge", "power_cut"), [("write", False), ("fsync", True)])
def test_killed_at_any_file_operation_a_retry_of_everything_gives_the_same_buffer(
    tmp_path, acknowledge, power_cut
):
    made = requests(9)
    settings = {"acknowledge": acknowledge, "snapshot_every_bytes": 2500}
    want = buffer_of()
    reports = feed(want, made)
    operations = CrashDisk(_folder(tmp_path / "count"))
    story(operations, made, [], settings)
    for at in range(0, operations.done, 3):
        folder = _folder(tmp_path / str(at))
        acknowledged = []
        with pytest.raises(Crash):
            story(CrashDisk(folder, at, power_cut), made, acknowledged, settings)
        restarted = buffer_of(folder, disk=QuickDisk(), **settings)
        assert restarted.status().requests in (len(acknowledged), len(acknowledged) + 1)
        assert feed(restarted, made) == reports
        assert picture(restarted) == picture(want)


def _folder(path):
    path.mkdir()
    return path


class FullDisk(Disk):
    full = False

    def append(self, path, data):
        if self.full:
            raise OSError(28, "No space left on device")
        super().append(path, data)


def test_what_could_not_be_logged_is_not_kept_and_may_be_sent_again(tmp_path):
    disk = FullDisk()
    buffer = buffer_of(tmp_path, disk=disk)
    buffer.append("1", steady(["a"], [BEGIN]))
    before = picture(buffer)
    disk.full = True
    with pytest.raises(StateError, match="No space left"):
        buffer.append("2", steady(["a", "b"], [BEGIN + 1]))
    assert picture(buffer) == before
    disk.full = False
    assert buffer.append("2", steady(["a", "b"], [BEGIN + 1])).accepted == 6


class NoSnapshots(Disk):
    def rename(self, source, target):
        raise OSError(5, "Input/output error")


def test_a_snapshot_that_fails_costs_space_and_no_request(tmp_path, caplog):
    buffer = buffer_of(tmp_path, snapshot_every_bytes=1000, disk=NoSnapshots())
    made = [(f"r{at}", steady(["a"], [BEGIN + at])) for at in range(20)]
    feed(buffer, made)
    assert "the log grows" in caplog.text
    assert caplog.text.count("the log grows") < 10
    assert picture(buffer_of(tmp_path)) == picture(buffer)


def test_a_closed_buffer_takes_nothing_more_and_still_answers(tmp_path):
    buffer = buffer_of(tmp_path)
    buffer.append("1", steady(["a"], [BEGIN]))
    buffer.close()
    with pytest.raises(StateError, match="closed"):
        buffer.append("2", steady(["a"], [BEGIN + 1]))
    assert buffer.fleet(BEGIN).servers == ("a",)
    buffer_of().close()


def test_samples_of_a_block_are_not_held_on_to():
    buffer = buffer_of()
    block = block_of([("a", BEGIN * STEP_S, "cpu", 0.5)], infos={"a": ServerInfo("web")})
    buffer.append("1", block)
    block.value[:] = 9.0
    buffer.append("2", block_of([("a", BEGIN * STEP_S + 1, "cpu", 0.7)]))
    assert value(buffer, "a", BEGIN, "cpu") == pytest.approx(0.6)
