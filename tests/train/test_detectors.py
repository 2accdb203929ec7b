"""Every detector in one shape: it tells a change, is quiet without, goes on after a restart."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.errors import StateError
from train.cusum import Cusum
from train.detectors import KINDS, Window

SETTINGS = {
    "window": {"window": 40, "threshold": 0.5},
    "cusum": {"wanted": 20_000, "warmup": 60},
    "adwin": {"window": 200, "warmup": 60},
    "kswin": {"window": 160, "warmup": 60},
    "page_hinkley": {"window": 200, "warmup": 60},
}
STEPS, CHANGE = 240, 150


def made(kind, count):
    return KINDS[kind](count, **SETTINGS[kind])


def stream(series=3, changed=(1,), steps=STEPS):
    """Noise around 10; from `CHANGE` on the changed ones lie three deviations higher."""
    x = 10 + np.random.default_rng(5).standard_normal((steps, series))
    x[CHANGE:, list(changed)] += 3
    return x


def alarms(detector, x):
    """Who was told to drift, when, and with how many values that began."""
    told = []
    for at, values in enumerate(x):
        detector.update(values)
        told += [(at, row, int(detector.age[row])) for row in np.flatnonzero(detector.drifted)]
    return told


@pytest.mark.parametrize("kind", KINDS)
class TestEveryDetector:
    def test_tells_the_series_that_changed_since_when_and_no_other(self, kind):
        told = alarms(made(kind, 3), stream())
        assert {row for _, row, _ in told} == {1}
        at, _, age = told[0]
        assert CHANGE < at < CHANGE + 60
        assert abs(at - age + 1 - CHANGE) <= 25

    def test_takes_what_it_told_as_the_new_usual(self, kind):
        assert len(alarms(made(kind, 3), stream())) <= 2

    def test_goes_on_to_the_bit_after_a_restart(self, kind):
        x, one = stream(), made(kind, 3)
        through = alarms(one, x)
        first = made(kind, 3)
        before = alarms(first, x[:100])
        again = type(first).unpack(first.pack())
        after = [(at + 100, row, age) for at, row, age in alarms(again, x[100:])]
        assert before + after == through
        assert again.pack() == one.pack()

    def test_copies_are_told_alike_and_change_nothing(self, kind):
        x = stream(steps=200)
        once, often = alarms(made(kind, 3), x), alarms(made(kind, 6), np.tile(x, 2))
        assert sorted({(at, row % 3, age) for at, row, age in often}) == once
        assert len(often) == 2 * len(once)

    def test_a_gap_is_no_value(self, kind):
        x = stream(steps=200)
        holes = np.full((2 * len(x), 3), np.nan)
        holes[::2] = x
        assert [(at // 2, row, age) for at, row, age in alarms(made(kind, 3), holes)] == alarms(
            made(kind, 3), x
        )

    def test_rows_may_change_places_and_new_ones_come(self, kind):
        x, detector = stream(), made(kind, 3)
        alarms(detector, x[:100])
        moved = detector.taken(np.array([2, -1, 1]))
        told = alarms(moved, np.stack([x[100:, 2], x[100:, 0], x[100:, 1]], axis=1))
        assert {row for _, row, _ in told} - {1} == {2}  # 1 has a short past of its own

    def test_nothing_else_reads_what_it_packed(self, kind):
        data = made(kind, 1).pack()
        for other in KINDS.values():
            if other.kind != kind:
                with pytest.raises(StateError, match=kind):
                    other.unpack(data)


@pytest.mark.parametrize(("threshold", "told"), [(0.15, True), (2.0, False)])
def test_the_window_rule_goes_by_its_threshold(threshold, told):
    x = 10 + np.random.default_rng(1).standard_normal((200, 1))
    x[100:] += 2
    assert bool(alarms(Window(1, window=40, threshold=threshold), x)) == told


def test_the_window_rule_sees_a_change_of_a_mean_near_zero_and_of_the_spread_alone():
    x = np.random.default_rng(1).standard_normal((200, 2))
    x[100:, 0] += 2
    x[100:, 1] *= 3
    assert {row for _, row, _ in alarms(Window(2, window=40, threshold=0.8), x)} == {0, 1}


def test_cusum_is_patient_with_a_series_that_wanders_and_finds_its_change_later():
    rng, steps = np.random.default_rng(3), 600
    noise = rng.standard_normal((steps, 60))
    x = np.zeros_like(noise)
    for at in range(1, steps):
        x[at] = 0.7 * x[at - 1] + np.sqrt(1 - 0.49) * noise[at]
    told, plain = (len(alarms(Cusum(60, wanted=2000, warmup=96), values)) for values in (x, noise))
    most = 4 * 60 * steps / 2000
    assert told < most
    assert plain < most


def test_cusum_that_looks_upward_only_does_not_tell_a_fall():
    x = stream(changed=(1,))
    x[CHANGE:, 2] -= 3
    both = {row for _, row, _ in alarms(Cusum(3, wanted=2000, warmup=60), x)}
    up = {row for _, row, _ in alarms(Cusum(3, wanted=2000, warmup=60, upward=True), x)}
    assert (both, up) == ({1, 2}, {1})


def test_a_longer_wanted_time_between_false_alarms_makes_a_higher_threshold():
    x = stream(changed=())
    counts = [len(alarms(Cusum(3, wanted=w, warmup=60), x)) for w in (20, 20_000)]
    assert counts[0] > counts[1] == 0
