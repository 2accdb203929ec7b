"""A real file system that fills up: learning stops first, then ingest; forecasts go on."""

from __future__ import annotations

import errno
import subprocess

import pytest

from actors.buffer import BufferActor
from forecast.errors import Busy, StateError
from tests.forecast.ledger_scene import SERVERS, actuals, block, ledger
from tests.train.streams import DAY, SETTINGS, buffer_of, picture, steady

MIB = 1 << 20
BEGIN = 1000


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB; skips where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system may be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_up(folder):
    """Take all the space that is left; the file that holds it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 14))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return ballast


def day(number):
    return steady([f"s{at}" for at in range(8)], range(BEGIN, BEGIN + DAY), seed=number)


async def test_learning_stops_then_ingest_and_the_reserve_is_for_forecasts(small_disk):
    settings = {**SETTINGS, "directory": small_disk / "buffer", "owner": "fleet a"}
    settings["snapshot_every_bytes"] = 64 * MIB
    reserve = {"learning_free_bytes": 5 * MIB, "ingest_free_bytes": 3 * MIB}
    actor = BufferActor(**settings, **reserve)
    book = ledger(small_disk)
    assert (await actor.status()).may_learn
    seen, refusal = [], None
    while refusal is None and len(seen) < 100:
        try:
            await actor.append(f"r{len(seen)}", day(len(seen)))
            seen.append((await actor.status()).may_learn)
        except Busy as error:
            refusal = error
    kept = len(seen)
    assert refusal is not None
    assert refusal.retry_after_s > 0
    assert seen == sorted(seen, reverse=True)
    assert not seen[-1]
    # In the reserve windows are read, forecasts issued and scored.
    assert len((await actor.fleet(BEGIN + DAY)).servers) == 8
    assert book.issue([block(5)]) == 1
    assert book.score(6, SERVERS, actuals(0)).cells > 0
    before = (await actor.status()).requests
    assert before == kept
    # Room is made, and all goes on, the refused request too.
    await actor.close()
    for old in (small_disk / "buffer").glob("log-*.seg"):
        assert old.stat().st_size > 2 * MIB
    mount = ["mount", "-o", "remount,size=32m", str(small_disk)]
    subprocess.run(mount, check=True)
    actor = BufferActor(**settings, **reserve)
    assert (await actor.append(f"r{kept}", day(kept))).accepted == len(day(kept))
    shown = await actor.status()
    assert (shown.requests, shown.may_learn) == (kept + 1, True)
    await actor.close()
    book.close()


@pytest.mark.parametrize("acknowledge", ["write", "fsync"])
def test_what_does_not_fit_leaves_nothing_behind_and_no_restart_is_needed(small_disk, acknowledge):
    folder, other = small_disk / "buffer", small_disk / "ledger"
    other.mkdir()
    buffer, book = buffer_of(folder, acknowledge=acknowledge), ledger(other)
    buffer.append("r0", day(0))
    book.issue([block(5)])
    before, size = picture(buffer), buffer.status().log_bytes
    ballast = fill_up(small_disk)
    for _ in range(3):
        with pytest.raises(StateError, match="No space left"):
            buffer.append("r1", day(1))
    with pytest.raises(StateError, match="full"):
        book.issue([block(slot) for slot in range(6, 400)])
    assert picture(buffer) == before
    assert sum(path.stat().st_size for path in folder.glob("log-*")) == size
    assert [path.suffix for path in folder.iterdir()] == [".seg"]
    assert book.blocks(5)
    ballast.unlink()
    buffer.append("r1", day(1))
    assert book.issue([block(6)]) == 1
    buffer.close()
    assert picture(buffer_of(folder)) == picture(buffer)
    book.close()
