"""The buffer actor's replay table: below its folder, its own log, the same after a kill."""

from __future__ import annotations

import numpy as np
import pytest

from actors.buffer import BufferActor
from forecast.errors import StateError
from tests.bits import bits
from tests.train.streams import DAY, SETTINGS, steady

QUERY = {"hours": 10, "count": 30, "holdout_hours": 2, "ratio": 0.3}


def actor(folder, **changes):
    settings = {**SETTINGS, "directory": folder, "owner": "test", "replay_windows": 600}
    return BufferActor(**{**settings, **changes})


async def learn(one, number):
    query = {"update_id": f"update-{number}", "as_of": 300 + 24 * number, "seed": number}
    drawn = bits(await one.rehearse(**query, **QUERY))
    losses = np.random.default_rng(number).lognormal(0, 1, 30).astype(np.float32)
    await one.reprioritize(f"update-{number}", losses)
    return drawn


async def test_a_killed_buffer_rehearses_as_the_one_that_was_not(tmp_path):
    whole, killed = actor(tmp_path / "whole"), actor(tmp_path / "killed")
    for one in (whole, killed):
        for begin in range(0, 2 * DAY, 96):
            await one.append(f"r-{begin}", steady(("a", "b"), range(begin, begin + 96)))
    for number in range(4):
        assert await learn(killed, number) == await learn(whole, number)
        killed._lock.release()  # as the kernel does for a process that was killed
        killed = actor(tmp_path / "killed")
    assert (tmp_path / "killed" / "replay").is_dir()
    await killed.close()
    await whole.close()


async def test_without_the_strategy_there_is_no_table(tmp_path):
    one = actor(tmp_path, replay_windows=0)
    with pytest.raises(StateError, match="the strategy is another"):
        await learn(one, 0)
    assert not (tmp_path / "replay").exists()
    await one.close()
