"""kill -9 of a process that writes the ledger: all it had acknowledged is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from forecast.ledger import Ledger
from tests.forecast.ledger_scene import ledger
from tests.forecast.test_ledger_restart import drive, same_sums

ROOT = Path(__file__).resolve().parents[2]
SLOTS = 60
STORY = """
import sys
from pathlib import Path
from tests.forecast.ledger_scene import ledger
from tests.forecast.test_ledger_restart import drive

book = ledger(Path(sys.argv[1]), acknowledge=sys.argv[2])
first = 0 if book.scored_through is None else book.scored_through
for slot in range(first, int(sys.argv[3])):
    drive(book, [slot])
    print(slot, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("acknowledge", ["write", "fsync"])
def test_killed_while_it_writes_the_ledger_has_all_that_was_acknowledged(tmp_path, acknowledge):
    acknowledged = -1
    for lines in (1, 7, 19):  # so many slots are acknowledged before each kill
        command = [sys.executable, "-c", STORY, str(tmp_path), acknowledge, str(10 * SLOTS)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as story:
            assert story.stdout is not None
            for _ in range(lines):
                acknowledged = int(story.stdout.readline())
            story.kill()
        heir = ledger(tmp_path, acknowledge=acknowledge)
        assert heir.scored_through is not None
        assert heir.scored_through >= acknowledged
        assert all(len(heir.blocks(slot)) == 2 for slot in range(acknowledged + 1))
        heir.close()
    same_as_undisturbed(tmp_path, ledger(tmp_path, acknowledge=acknowledge))


def same_as_undisturbed(tmp_path: Path, heir: Ledger) -> None:
    """The controller does its last slot again and goes on: no bit differs."""
    assert heir.scored_through is not None
    drive(heir, range(heir.scored_through, SLOTS + 10))
    whole = ledger(tmp_path / "whole")
    drive(whole, range(SLOTS + 10))
    assert heir.scored_through == whole.scored_through
    same_sums(heir, whole)
    heir.close()
    whole.close()
