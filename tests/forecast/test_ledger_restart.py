"""The ledger's file: restarts, crashes, retention, and files that are not its own."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from forecast.errors import StateError
from forecast.ledger_file import LedgerFile
from tests.forecast.ledger_scene import (
    DAY,
    HORIZON,
    SERVERS,
    actuals,
    block,
    ledger,
    random_actuals,
    random_blocks,
)
from tests.forecast.record_scene import snapshot


def crashed(source, target):
    """What a kill at this moment leaves on disk: the files as they are, nothing closed."""
    shutil.copytree(source, target)
    return target


def drive(book, slots, *, seed=3):
    """Score, then issue, as the controller does; the packed reports."""
    reports = []
    for slot in slots:
        rng = np.random.default_rng((seed, slot))
        servers = SERVERS if slot % 5 else (*SERVERS[1:], "new")
        reports.append(book.score(slot, servers, random_actuals(rng, servers)).pack())
        book.issue(random_blocks(rng, slot, servers, version=slot // 7))
    return reports


def test_a_restart_in_between_changes_no_bit(tmp_path):
    whole = ledger(tmp_path / "whole")
    wanted = drive(whole, range(18))
    found = []
    for part in (range(9), range(9, 10), range(10, 18)):
        book = ledger(tmp_path / "parts")
        found += drive(book, part)
        book.close()
    assert found == wanted
    again = ledger(tmp_path / "parts")
    assert again.accuracy() == whole.accuracy()
    same_sums(again, whole)
    assert again.scored_through == 17


@pytest.mark.parametrize("after", ["issue", "score", "publish"])
def test_a_kill_between_two_calls_loses_and_doubles_nothing(tmp_path, after):
    whole = ledger(tmp_path / "whole")
    wanted = drive(whole, range(12))
    book = ledger(tmp_path / "first")
    drive(book, range(7))
    rng = np.random.default_rng((3, 7))
    if after != "issue":
        book.score(7, SERVERS, random_actuals(rng))
    if after == "publish":
        book.issue(random_blocks(rng, 7, version=1))
    heir = ledger(crashed(tmp_path / "first", tmp_path / "second"))
    assert drive(heir, range(7, 12)) == wanted[7:]
    same_sums(heir, whole)
    assert heir.counts()["scored_slots"] == 12
    assert heir.counts()["issued_blocks"] == 24


OPERATIONS = ["put_server_sums", "put_fleet_sums", "insert_report", "set_counter", "prune"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_scoring_that_fails_half_way_leaves_no_trace(tmp_path, monkeypatch, operation):
    whole = ledger(tmp_path / "whole")
    wanted = drive(whole, range(12))
    book = ledger(tmp_path / "first", save_every=1)
    drive(book, range(7))

    def fail(*_args, **_kwargs):
        raise sqlite3.OperationalError("disk full")

    rng = np.random.default_rng((3, 7))
    with monkeypatch.context() as patch:
        patch.setattr(LedgerFile, operation, fail)
        with pytest.raises(StateError, match="disk full"):
            book.score(7, SERVERS, random_actuals(rng))
    assert book.scored_through == 6
    assert drive(book, range(7, 12)) == wanted[7:]
    same_sums(book, whole)


def same_sums(book, other):
    """Every read of the two ledgers is the same, to the last bit."""
    assert book.accuracy() == other.accuracy()
    for server in (*SERVERS, "new", "nobody"):
        assert book.accuracy(server=server) == other.accuracy(server=server)
    for member in ("champion", "copy_last", "v12"):
        mine, wanted = book.daily(member), other.daily(member)
        assert mine.days == wanted.days
        assert mine.member.tobytes() == wanted.member.tobytes()
        assert mine.champion.tobytes() == wanted.champion.tobytes()


@pytest.mark.parametrize("save_every", [1, 4, 100])
def test_a_kill_after_any_slot_costs_no_bit_of_the_sums_by_server(tmp_path, save_every):
    whole = ledger(tmp_path / "whole", save_every=3)
    book = ledger(tmp_path / "first", save_every=save_every)
    for slot in range(2 * DAY + 3):
        wanted = drive(whole, [slot])
        assert drive(book, [slot]) == wanted
        # Killed here, it begins with what is on disk and computes the rest again.
        book = ledger(crashed(tmp_path / "first", tmp_path / str(slot)), save_every=save_every)
        same_sums(book, whole)
        book.close()
        book = ledger(tmp_path / str(slot), save_every=save_every)
        (tmp_path / "first").rename(tmp_path / f"old{slot}")
        (tmp_path / str(slot)).rename(tmp_path / "first")
    same_sums(book, whole)


def test_a_start_computes_only_what_was_not_saved(tmp_path, monkeypatch):
    book = ledger(tmp_path / "first", save_every=3)
    drive(book, range(DAY))
    read = []
    report = LedgerFile.report
    monkeypatch.setattr(LedgerFile, "report", lambda self, at: read.append(at) or report(self, at))
    ledger(crashed(tmp_path / "first", tmp_path / "second"))
    assert read == [6, 7]


def test_a_block_issued_after_its_slots_were_scored_counts_in_none_of_them(tmp_path):
    book = ledger(tmp_path / "first")
    book.issue([block(4, center=1)])
    book.score(5, SERVERS, actuals(0))
    book.issue([block(4, "copy_last", center=2)])
    for now in (book, ledger(crashed(tmp_path / "first", tmp_path / "second"))):
        assert now.accuracy(server="s0").member("copy_last") is None
    book.score(6, SERVERS, actuals(0))
    heir = ledger(crashed(tmp_path / "first", tmp_path / "third"))
    for now in (book, heir):
        assert now.accuracy(server="s0").member("copy_last").pooled.n == 2
        assert now.accuracy(server="s0").member("champion").pooled.n == 4


def test_a_damaged_block_that_must_be_read_again_is_named_and_the_file_let_go(tmp_path):
    book = ledger(tmp_path)
    drive(book, range(4))
    book.close()
    for _ in range(2):
        with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
            db.execute("UPDATE blocks SET data = x'00112233' WHERE slot = 2")
        db.close()
        with pytest.raises(StateError, match="stored block"):
            ledger(tmp_path)


def test_slots_that_are_skipped_drop_nothing_that_is_not_saved(tmp_path):
    book = ledger(tmp_path / "first", retain_slots=HORIZON)
    drive(book, range(6))
    before = book.accuracy(server="s0").member("champion").pooled.n
    book.score(100 * DAY, SERVERS, actuals(0))
    heir = ledger(crashed(tmp_path / "first", tmp_path / "second"), retain_slots=HORIZON)
    for now in (book, heir):
        assert now.counts()["kept_blocks"] == 0
        assert now.accuracy(server="s0", since_slot=0).members == ()  # 35 days are long over
    assert before > 0


def test_old_blocks_and_reports_go_and_sums_stay(tmp_path):
    book = ledger(tmp_path, retain_slots=5)
    drive(book, range(12))
    assert [slot for slot in range(12) if book.blocks(slot)] == list(range(6, 12))
    assert book.counts()["kept_blocks"] == 12
    assert book.accuracy().since_slot == 0
    with pytest.raises(StateError, match="slot 3 comes after 11"):
        book.score(3, SERVERS, actuals(0))
    assert book.score(11, SERVERS, actuals(0)).slot == 11


def test_sums_of_old_days_go(tmp_path):
    book = ledger(tmp_path, retain_days=2)
    for day in range(5):
        drive(book, range(day * DAY, day * DAY + 2))
    assert book.accuracy().since_slot == 2 * DAY
    assert book.counts()["kept_days"] == 3


def test_blocks_must_outlive_the_horizon(tmp_path):
    with pytest.raises(ValueError, match="2 is below the horizon 3"):
        ledger(tmp_path, retain_slots=HORIZON - 1)


def test_another_horizon_starts_its_own_sums_and_keeps_the_old_ones(tmp_path):
    book = ledger(tmp_path)
    drive(book, range(10))
    before = book.accuracy()
    book.close()
    other = ledger(tmp_path, levels=(0.2, 0.5, 0.8))
    assert other.accuracy().members == ()
    assert other.score(10, SERVERS, actuals(0)).cells == 0  # the old blocks have other levels
    other.close()
    back = ledger(tmp_path)
    assert back.accuracy().members == before.members
    assert back.score(11, SERVERS, actuals(0)).cells > 0


def test_a_second_ledger_on_the_same_file_is_refused(tmp_path):
    book = ledger(tmp_path)
    with pytest.raises(StateError, match="locked"):
        ledger(tmp_path)
    book.close()
    ledger(tmp_path).close()


def test_a_file_of_an_unknown_format_is_refused_and_left_alone(tmp_path):
    ledger(tmp_path).close()
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StateError, match="format 99 is unknown, need 2"):
        ledger(tmp_path)


def test_a_database_that_is_no_ledger_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("CREATE TABLE other (x)")
    db.close()
    with pytest.raises(StateError, match="format 0"):
        ledger(tmp_path)


def test_a_file_that_is_no_database_is_refused_by_name(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StateError, match=r"ledger\.sqlite"):
        ledger(tmp_path)


def test_a_ledger_of_another_step_is_refused(tmp_path):
    ledger(tmp_path).close()
    with pytest.raises(StateError, match="slots of 10800 s, the panel's step is 300 s"):
        ledger(tmp_path, step_seconds=300)


def test_counts_say_what_was_done_and_what_is_kept(tmp_path):
    book = ledger(tmp_path)
    assert book.counts()["scored_slots"] == 0
    drive(book, range(10))
    counts = book.counts()
    assert (counts["issued_blocks"], counts["scored_slots"]) == (20, 10)
    assert counts["scored_through"] == 9
    assert counts["scored_cells"] == book.accuracy().member("champion").pooled.n
    assert counts["bytes"] > 0


def test_it_can_be_used_from_another_thread_than_it_was_made_in(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    book = ledger(tmp_path)
    book.issue([block(4)])
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: book.score(5, SERVERS, actuals(0)).pack(), range(8)))
    assert len(set(reports)) == 1
    assert book.counts()["scored_slots"] == 1


def test_the_published_snapshot_survives_a_restart_and_never_goes_back(tmp_path):
    book = ledger(tmp_path / "first")
    assert book.latest() is None
    for revision in (7, 8, 6):
        book.publish(replace(snapshot(), revision=revision))
    assert book.latest().revision == 8
    book.publish(replace(snapshot(), revision=8, version=4))
    heir = ledger(crashed(tmp_path / "first", tmp_path / "second"))
    assert (heir.latest().revision, heir.latest().version) == (8, 4)
    assert heir.latest().pack() == book.latest().pack()


def test_a_snapshot_of_blocks_of_record_is_kept_without_them_and_comes_back_whole(tmp_path):
    book = ledger(tmp_path / "first")
    rng = np.random.default_rng(0)
    blocks = tuple(random_blocks(rng, 7))
    other = replace(block(7, "v12"), values=block(7, center=3).values)
    book.issue(blocks)
    shown = replace(snapshot(), targets=blocks[0].targets, blocks=(other, *blocks))
    book.publish(shown)
    heir = ledger(crashed(tmp_path / "first", tmp_path / "second"))
    assert heir.latest().pack() == shown.pack()
    with sqlite3.connect(tmp_path / "second" / "ledger.sqlite") as db:
        heir.close()
        ((size,),) = db.execute("SELECT length(data) FROM snapshot")
        db.execute("DELETE FROM blocks")
    db.close()
    assert size == len(shown.pack(without=("champion", "copy_last")))
    assert ledger(tmp_path / "second").latest() is None


def test_a_damaged_snapshot_is_as_good_as_none(tmp_path, caplog):
    book = ledger(tmp_path)
    book.publish(snapshot())
    book.close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("UPDATE snapshot SET data = x'00112233'")
    db.close()
    again = ledger(tmp_path)
    assert again.latest() is None
    assert "snapshot is lost" in caplog.text
    again.publish(snapshot())
    assert again.latest().revision == 7
