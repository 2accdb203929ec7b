"""An update's windows from stream and replay table; restarts at any line; no label early."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from forecast.errors import StateError
from forecast.events import Event
from forecast.schema import Metric, Schema
from forecast.storage import Disk
from forecast.windows import RawWindows
from tests.bits import bits
from tests.train.streams import DAY, SCHEMA, buffer_of, steady
from train.rehearsal import Rehearsal

HOUR = 12
SERVERS = ("a", "b", "c")


@pytest.fixture(scope="module")
def buffer():
    made = buffer_of(history_days=2)
    for begin in range(0, 2 * DAY, 96):
        made.append(f"r-{begin}", steady(SERVERS, range(begin, begin + 96)))
    return made


def rehearsal(buffer, directory=None, **changes) -> Rehearsal:
    settings = {
        "schema": SCHEMA,
        "context": 6,
        "horizon": 3,
        "history_days": 2,
        "capacity": 1200,
        "snapshot_every_bytes": 1 << 20,
    }
    return Rehearsal(buffer=buffer, directory=directory, **{**settings, **changes})


def draw(made, number, **changes):
    asked = {
        "update_id": f"update-{number}",
        "as_of": 300 + 24 * number,
        "hours": 10,
        "count": 30,
        "seed": 7 + number,
        "holdout_hours": 2,
        "ratio": 0.3,
    }
    return made.draw(**{**asked, **changes})


def losses(number, count=30):
    return np.random.default_rng(number).lognormal(0, 1, count).astype(np.float32)


def learned(made, numbers):
    """Draw and report these updates; what was drawn."""
    drawn = []
    for number in numbers:
        drawn.append(bits(draw(made, number)))
        made.report(f"update-{number}", losses(number))
    return drawn


def state(made):
    header, arrays = made.table.dump()
    kept = made.table.kept(slice(len(made.table))).arrays()
    return header, {name: array.tobytes() for name, array in {**arrays, **kept}.items()}


def test_a_share_of_the_windows_comes_from_the_table_and_the_rest_as_ever(buffer):
    made = rehearsal(buffer)
    for number in range(3):
        got = draw(made, number)
        asked = {"as_of": 300 + 24 * number, "hours": 10, "seed": 7 + number, "holdout_hours": 2}
        plain = buffer.draw(count=21, **asked)
        assert len(got) == 30
        fresh = got.rows(slice(21))
        assert np.array_equal(fresh.values, plain.values)
        assert fresh.weight.tolist() == [1.0] * 21
        assert got.replayed.tolist() == [False] * 21 + [True] * 9
        mixed = RawWindows.concat([plain, got.select([29, 3])])
        assert mixed.replayed.tolist() == [False] * 21 + [True, False]
        assert mixed.weight.tolist() == [1.0] * 21 + [got.weight[29], 1.0]
        assert (got.weight > 0).all()
        assert (got.weight <= 1).all()
    old = rehearsal(buffer)
    assert np.array_equal(
        draw(old, 0, ratio=0.0).values,
        buffer.draw(count=30, as_of=300, hours=10, seed=7, holdout_hours=2).values,
    )


def test_no_window_has_a_label_in_the_holdout_or_a_horizon_before(buffer):
    made = rehearsal(buffer)
    newest = []
    for number in range(8):
        got = draw(made, number, ratio=0.7)
        newest.append(int(got.origin.max()) + got.horizon)
        assert newest[-1] <= 300 + 24 * number - 2 * HOUR - got.horizon
        kept = made.table.windows(np.arange(len(made.table)))
        assert kept.origin.max() + kept.horizon <= 300 + 24 * number - 2 * HOUR - got.horizon
    assert newest == sorted(newest)


def test_an_old_window_is_drawn_long_after_the_grid_forgot_it():
    buffer, made = buffer_of(history_days=2), None
    made = rehearsal(buffer)
    for day in range(8):
        for begin in range(day * DAY, day * DAY + DAY, 96):
            buffer.append(f"r-{begin}", steady(SERVERS, range(begin, begin + 96)))
        draw(made, day, as_of=(day + 1) * DAY - 1)
    got = draw(made, 9, as_of=8 * DAY - 1, ratio=1.0, count=200)
    assert got.origin.min() < 3 * DAY
    assert np.isfinite(got.values).all()


def test_a_restart_anywhere_gives_the_same_table_and_the_same_draws(buffer, tmp_path):
    whole = rehearsal(buffer)
    expected = learned(whole, range(6))
    for stop in range(6):
        folder = tmp_path / str(stop)
        folder.mkdir()
        first = rehearsal(buffer, folder)
        learned(first, range(stop))
        draw(first, stop)  # killed before its report
        second = rehearsal(buffer, folder)
        assert state(second) == state(first)
        assert bits(draw(second, stop)) == expected[stop]
        second.report(f"update-{stop}", losses(stop))
        third = rehearsal(buffer, folder)  # killed after its report, before the verdict
        assert bits(draw(third, stop)) == expected[stop]
        third.report(f"update-{stop}", losses(stop + 50))  # once is enough
        assert learned(third, range(stop + 1, 6)) == expected[stop + 1 :]
        assert state(third) == state(whole)


def test_a_snapshot_in_between_changes_nothing(buffer, tmp_path):
    whole = rehearsal(buffer)
    expected = learned(whole, range(6))
    made, got = rehearsal(buffer, tmp_path, snapshot_every_bytes=4096), []
    for number in range(6):
        got += learned(made, [number])
        made.close()
        made = rehearsal(buffer, tmp_path, snapshot_every_bytes=4096)
    assert list(tmp_path.glob("snapshot-*"))
    assert got == expected
    assert state(made) == state(whole)


class _Full(Disk):
    """A disk that takes nothing while `full`."""

    full = False

    def append(self, path, data):
        if self.full:
            raise OSError(28, "no space left")
        super().append(path, data)


def test_on_a_full_disk_nothing_is_drawn_and_later_it_is_as_if_nothing_had_been(buffer, tmp_path):
    disk, whole = _Full(), rehearsal(buffer)
    expected = learned(whole, range(3))
    made = rehearsal(buffer, tmp_path, disk=disk)
    got = learned(made, range(2))
    disk.full = True
    with pytest.raises(StateError, match="no space left"):
        draw(made, 2)
    disk.full = False
    assert got + learned(made, [2]) == expected
    assert state(rehearsal(buffer, tmp_path)) == state(whole)


def test_losses_change_what_is_drawn_later(buffer):
    one, other = rehearsal(buffer), rehearsal(buffer)
    for number in range(2):
        draw(one, number)
        one.report(f"update-{number}", losses(number))
        draw(other, number)
    one.report("update-0", losses(0))  # not the last one: too late
    assert draw(one, 2).origin.tolist() != draw(other, 2).origin.tolist()
    with pytest.raises(ValueError, match="for 30 windows"):
        one.report("update-2", losses(2, 29))


def test_every_hour_is_sampled_alike_whenever_updates_come(buffer):
    made = rehearsal(buffer, capacity=35 * 24 * 2)  # two windows an hour
    draw(made, 0, as_of=500, count=1, hours=1)
    draw(made, 1, as_of=520, count=1, hours=1)
    hours = made.table.windows(np.arange(len(made.table))).origin // HOUR
    counts = np.bincount(hours)
    assert counts[1:39].tolist() == [2] * 38 or counts[1:39].max() == 3
    assert counts[1:39].min() == 2


def test_after_a_change_of_size_the_table_goes_on(buffer, tmp_path):
    made = rehearsal(buffer, tmp_path)
    learned(made, range(4))
    size = len(made.table)
    less = rehearsal(buffer, tmp_path, capacity=40)
    assert len(less.table) == 40 < size
    learned(less, [4])
    more = rehearsal(buffer, tmp_path, capacity=5000)
    learned(more, [5])
    assert len(more.table) > 40
    assert state(rehearsal(buffer, tmp_path, capacity=5000)) == state(more)


def test_after_a_change_of_schema_old_windows_have_a_gap_or_are_let_go(buffer, tmp_path, caplog):
    learned(rehearsal(buffer, tmp_path), range(3))
    cpu, sent, peak = SCHEMA.metrics
    schema = Schema("servers", 300, (peak, Metric("added"), cpu), SCHEMA.targets)
    changed = rehearsal(buffer, tmp_path, schema=schema)
    before = rehearsal(buffer, tmp_path).table
    rows = np.arange(len(before))
    old, new = before.windows(rows), changed.table.windows(rows)
    assert np.array_equal(new.values[..., [2, 0]], old.values[..., [0, 2]])
    assert np.isnan(new.values[..., 1]).all()
    assert sent.name in old.metrics
    with caplog.at_level(logging.WARNING):
        longer = rehearsal(buffer, tmp_path, horizon=4)
    assert len(longer.table) == 0
    assert "begins anew" in caplog.text


def _masked_buffer(*events):
    made = buffer_of(history_days=2)
    for begin in range(0, 2 * DAY, 96):
        made.append(f"r-{begin}", steady(SERVERS, range(begin, begin + 96)))
    made.events.tell(events)
    return made


def test_windows_in_the_table_lose_labels_that_were_masked_later_also_of_a_server_that_left():
    buffer = _masked_buffer()
    made = rehearsal(buffer)
    learned(made, range(4))
    buffer.events.tell([Event("e1", "incident", 0, None, servers=("a",))])
    buffer._intake.roster.forget("a")  # as when there is room for no other new server
    known = buffer.closed_slot + 1
    got = draw(made, 4, known_at=known)
    old = got.select(got.replayed)
    hidden = np.isnan(old.values[:, old.context :]).all((1, 2))
    assert hidden.tolist() == [name == "a" for name in old.servers]
    assert 0 < hidden.sum() < len(old)


def test_where_the_whole_fleet_is_masked_the_table_alone_teaches():
    buffer = _masked_buffer()
    made = rehearsal(buffer)
    learned(made, range(3))
    since = 250 * 300_000  # ms
    buffer.events.tell([Event("e1", "incident", since, None)])
    known = buffer.closed_slot + 1
    got = draw(made, 9, hours=2, known_at=known)
    assert got.replayed.all()
    assert 0 < len(got) <= 9
    made.report("update-9", np.ones(len(got), np.float32))
    assert len(draw(made, 10, hours=2, known_at=known)) <= 9
