"""Examples cut from the grid: what is in them, when they end, and which of the day they cover."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from actors.buffer import BufferActor
from forecast.least_squares import MOST_WINDOWS, least_squares
from tests.bits import bits
from tests.train.streams import DAY, SCHEMA, SETTINGS, block_of, buffer_of, steady
from train.examples import stride_of
from train.expert import fit

BEGIN = 1008
LEVELS = (0.1, 0.5, 0.9)
NAMES = ("a", "b", "c")


def filled(slots, **changes):
    buffer = buffer_of(**changes)
    buffer.append("all", steady(NAMES, slots))
    return buffer


def test_an_example_is_a_window_with_its_labels():
    buffer = filled(range(BEGIN, BEGIN + 2 * DAY))
    as_of = BEGIN + 2 * DAY - 1
    found = buffer.examples(as_of=as_of)
    assert (found.servers, found.targets, found.context) == (NAMES, ("cpu", "peak"), 6)
    for row, name in enumerate(NAMES):
        origins = found.origins[row]
        raw = buffer.cut([name] * len(origins), origins, labels=True)
        np.testing.assert_array_equal(found.values[row], raw.values[:, :, [0, 2]])
        np.testing.assert_array_equal(found.daily[row], raw.daily[:, 6:, [0, 2]])
        assert origins.max() + 3 <= as_of


def test_nothing_after_the_slot_is_read():
    as_of = BEGIN + DAY + 100
    known, told = (filled(range(BEGIN, as_of + 1), history_days=4) for _ in range(2))
    told.append("later", steady((*NAMES, "new"), range(as_of + 1, as_of + 200), seed=5))
    one, other = (fit(each.examples(as_of=as_of), LEVELS) for each in (known, told))
    assert bits(one) == bits(other)


def test_with_coarse_slots_more_days_are_read_and_what_came_since_changes_nothing():
    hourly = {"schema": replace(SCHEMA, step_seconds=3600), "history_days": 30}
    as_of = BEGIN + 44 * 24
    noise = np.random.default_rng(1).random((len(NAMES), 45 * 24))

    def until(end):
        told = buffer_of(**hourly)
        slots = range(BEGIN, end + 1)
        rows = [
            (n, t * 3600, "cpu", noise[i, t - BEGIN]) for i, n in enumerate(NAMES) for t in slots
        ]
        told.append("all", block_of(rows))
        return told.examples(as_of=as_of)

    found, later = until(as_of), until(as_of + 23)
    assert found.origins[0, -1] - found.origins[0, 0] > 27 * 24
    assert (np.diff(found.origins) == 1).all()
    assert bits(fit(found, LEVELS)) == bits(fit(later, LEVELS))


def test_a_forecast_stays_the_same_whatever_comes_after_its_origin():
    as_of = BEGIN + DAY + 100
    answers = []
    for seed in (5, 6):
        buffer = filled(range(BEGIN, as_of + 6), history_days=4)
        buffer.append("later", steady(NAMES, range(as_of + 6, as_of + 99), seed=seed))
        tables = fit(buffer.examples(as_of=as_of), LEVELS)
        answers.append(least_squares(buffer.fleet(as_of + 5), tables, ("cpu", "peak")))
    np.testing.assert_array_equal(*answers)


def test_a_horizon_longer_than_a_day_reads_no_label_as_yesterday():
    buffer = filled(range(BEGIN, BEGIN + 3 * DAY), horizon=DAY + 5, history_days=4)
    found = buffer.examples(as_of=BEGIN + 3 * DAY - 1)
    assert found.origins.size > 0
    assert not np.isnan(found.daily[:, -1, :DAY]).any()
    assert np.isnan(found.daily[:, :, DAY:]).all()


def test_of_nobody_there_are_none():
    found = buffer_of().examples(as_of=5)
    assert (found.servers, found.values.shape) == ((), (0, 0, 9, 2))
    assert fit(found, LEVELS).servers == ()


@pytest.mark.parametrize("servers", [1, 24, 300, 3000])
@pytest.mark.parametrize("day", [1, 24, 288, 1440])
def test_the_number_is_bounded_and_every_time_of_day_comes_up(servers, day):
    slots = 14 * day
    stride = stride_of(servers, slots, day)
    assert servers * (slots // stride) <= MOST_WINDOWS
    assert np.gcd(stride, day) == 1


def test_origins_of_a_large_fleet_are_staggered():
    buffer = buffer_of(max_servers=64)
    names = [f"s{number:02d}" for number in range(40)]
    slots = range(BEGIN, BEGIN + 40)
    buffer.append("all", block_of([(n, s * 300, "cpu", 1.0) for n in names for s in slots]))
    origins = buffer.examples(as_of=BEGIN + 39).origins
    assert len(np.unique(origins % 7)) == 7


async def test_the_actor_fits_them_beside_appends(tmp_path):
    settings = {key: value for key, value in SETTINGS.items() if key != "directory"}
    actor = BufferActor(directory=tmp_path, owner="test", **settings)
    as_of = BEGIN + DAY
    await actor.append("first", steady(NAMES, range(BEGIN, as_of + 1)))
    wanted = fit(filled(range(BEGIN, as_of + 1)).examples(as_of=as_of), LEVELS)
    found, _ = await asyncio.gather(
        actor.least_squares(as_of=as_of, levels=LEVELS),
        actor.append("second", steady(NAMES, range(as_of + 1, as_of + 50), seed=2)),
    )
    assert bits(found) == bits(wanted)
    await actor.close()
