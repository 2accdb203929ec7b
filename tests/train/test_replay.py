"""The replay table: what stays in it, what is drawn, and how much that counts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.train.replay_scene import DAY, SCHEMA, table, take, windows
from train.halves import ERROR, halved, restored
from train.replay import ReplayTable


def test_a_window_comes_back_within_the_error_that_is_stated():
    raw = windows(range(200), level=3.0)
    raw.values[3, 1] = np.nan
    made = table(200)
    take(made, raw)
    back = made.windows(np.arange(200))
    assert back.servers == raw.servers
    assert np.array_equal(back.origin, raw.origin)
    assert np.array_equal(np.isnan(back.values), np.isnan(raw.values))
    last = raw.values[:, raw.context - 1]
    assert np.array_equal(back.values[:, raw.context - 1], last)
    off = np.abs(back.values[..., 0] - raw.values[..., 0])
    far = np.abs(raw.values[..., 0] - last[:, None, 0])
    assert (off <= ERROR * far + 2e-7 * last.max())[~np.isnan(off)].all()
    logs = np.abs(np.log1p(back.daily[..., 1]) - np.log1p(raw.daily[..., 1]))
    assert logs.max() <= ERROR * 0.5


def test_a_value_far_from_all_others_neither_overflows_nor_becomes_a_gap():
    raw = windows([5])
    raw.weekly[0, 0, 0] = 3e9
    _, _, weekly = restored(halved(raw, SCHEMA), SCHEMA)
    assert weekly[0, 0, 0] == pytest.approx(3e9, rel=1e-3)


def test_quiet_regimes_survive_a_busy_stream_many_times_the_tables_size():
    made = table(240)
    quiet = np.arange(0, 10 * DAY, 12)
    for day in range(10):
        take(made, windows(quiet[day * 24 : day * 24 + 24], level=0.1), seed=day)
    assert len(made) == 240
    for day in range(10, 110):
        origins = day * DAY + np.arange(0, DAY, 6)
        take(made, windows(origins, level=5.0), seed=day)
    left = int((made.windows(np.arange(len(made))).origin < 10 * DAY).sum())
    assert left >= 40  # a first-in-first-out table has none, a plain reservoir about 12
    assert made.strata().max() <= 2 * max(10, np.median(made.strata()[made.strata() > 0]))


def test_inside_a_stratum_old_and_new_have_the_same_chance():
    kept = np.zeros(60)
    for seed in range(150):
        made = table(10)
        for begin in range(0, 60, 10):  # Monday's first hours: one phase, and one level
            raw = windows(4 * DAY + np.arange(begin, begin + 10))
            raw.values[:] = 0.5
            take(made, raw, seed=seed * 60 + begin)
        np.add.at(kept, made.windows(np.arange(10)).origin - 4 * DAY, 1)
    assert kept.sum() == 1500
    assert kept[:30].sum() == pytest.approx(750, abs=75)


def test_weighed_losses_of_draws_are_those_of_a_uniform_draw_on_average():
    made = table(400)
    rng = np.random.default_rng(3)
    losses = rng.lognormal(0, 1, 400)
    take(made, windows(range(400)), losses=losses)
    worth = losses[made.windows(np.arange(400)).origin]
    plain, weighed, weights_seen = [], [], []
    for seed in range(400):
        rows, weights = made.draw(40, last=9999, seed=seed)
        assert 0 < weights.min() <= weights.max() <= 1
        plain.append(worth[rows].mean())
        weighed.append((weights * worth[rows]).mean())
        weights_seen.append(weights.mean())
    assert np.mean(plain) > 1.2 * worth.mean()  # it does prefer what is hard
    assert np.mean(weighed) / np.mean(weights_seen) == pytest.approx(worth.mean(), rel=0.02)


def test_half_of_a_draw_heeds_no_priority_and_no_spike_takes_all():
    made = table(100)
    take(made, windows(range(100)), losses=[*([1.0] * 99), 1e9])
    counts = np.zeros(100)
    for seed in range(200):
        np.add.at(counts, made.draw(20, last=999, seed=seed)[0], 1)
    assert counts.min() > 0.5 * 40 * 0.9
    assert counts.max() < 40 * 0.5 * (1 + 5**0.5) * 1.4  # of 200 draws, each could have had it


def test_priorities_follow_the_losses_that_are_reported_over_what_is_usual_for_the_server():
    made = table(40)
    take(made, windows(range(20), server="calm"), losses=[1.0] * 20)
    take(made, windows(range(20), server="loud"), losses=[50.0] * 20)

    def shares(server):
        rows = np.concatenate([made.draw(20, last=99, seed=seed)[0] for seed in range(50)])
        return np.mean([name == server for name in made.windows(rows).servers])

    assert shares("loud") == pytest.approx(0.5, abs=0.02)  # large losses, but usual ones
    made.refresh(np.arange(20), np.full(20, 4.0, np.float32))
    assert shares("calm") > 0.53


def test_an_unmeasured_window_enters_at_the_median_of_its_stratum():
    made = table(100)
    take(made, windows(range(30)), losses=[1.0] * 10 + [3.0] * 20)
    take(made, windows(range(30, 60)))
    chance = np.zeros(60)
    for seed in range(300):
        np.add.at(chance, made.draw(20, last=99, seed=seed)[0], 1)
    fresh, calm, hard = chance[30:].mean(), chance[:10].mean(), chance[10:30].mean()
    assert min(calm, hard) * 0.9 < fresh < max(calm, hard) * 1.1


def test_no_window_is_in_twice_and_none_is_drawn_from_later_than_asked():
    made = table(100)
    take(made, windows(range(50)))
    take(made, windows(range(25, 75)))
    assert sorted(made.windows(np.arange(len(made))).origin) == list(range(75))
    for seed in range(20):
        assert made.windows(made.draw(30, last=40, seed=seed)[0]).origin.max() <= 40
    assert made.draw(30, last=-1, seed=0)[0].size == 0


@pytest.mark.parametrize("capacity", [30, 200])
def test_a_table_of_another_size_keeps_what_it_can(capacity):
    made = table(60)
    for day in range(8):
        take(made, windows(day * DAY + np.arange(0, DAY, 12)), seed=day)
    other = made.resized(capacity)
    before = set(made.windows(np.arange(60)).origin.tolist())
    after = other.windows(np.arange(len(other))).origin.tolist()
    assert len(after) == len(set(after)) == min(60, capacity)
    assert set(after) <= before
    take(other, windows(9 * DAY + np.arange(50)), seed=9)  # and it goes on
    assert len(other) == min(capacity, 110)
    assert other.strata().sum() == len(other)
    assert isinstance(other, ReplayTable)
