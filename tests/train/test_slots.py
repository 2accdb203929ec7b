from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.schema import Metric
from train.slots import RawSamples, Samples, SlotRules, no_samples

STEP_MS = 1000
METRICS = (
    Metric("mean"),
    Metric("max", slot_rule="max"),
    Metric("last", slot_rule="last"),
    Metric("rate", kind="counter", upper=100.0),
)
RULES = SlotRules(METRICS, step_ms=STEP_MS)
EARLY = np.full(2, -10)


def samples(*points, column=0, row=0):
    """Samples of one series from (milliseconds, value)."""
    series = row * len(METRICS) + column
    return Samples(
        np.full(len(points), series),
        np.array([time_ms for time_ms, _ in points], dtype=np.int64),
        np.array([value for _, value in points], dtype=np.float64),
    )


def fold(*points, column):
    folded = RULES.fold(no_samples().together(samples(*points, column=column)))
    return dict(zip(folded.slot.tolist(), folded.value.tolist(), strict=True))


def test_mean_max_and_last_fill_a_slot_as_they_say():
    points = [(1900, 2.0), (1100, 9.0), (1500, 4.0), (2000, 7.0)]
    assert fold(*points, column=0) == {1: 5.0, 2: 7.0}
    assert fold(*points, column=1) == {1: 9.0, 2: 7.0}
    assert fold(*points, column=2) == {1: 2.0, 2: 7.0}


def test_a_rate_is_the_rise_per_second_in_the_slot_of_the_later_reading():
    rates = fold((500, 10.0), (1500, 30.0), (2000, 35.0), (2500, 40.0), column=3)
    assert math.isnan(rates.pop(0))
    assert rates == {1: 20.0, 2: 10.0}


def test_a_counter_that_falls_is_a_reset_and_never_a_negative_rate():
    rates = fold((0, 50.0), (1000, 60.0), (2000, 5.0), (3000, 25.0), column=3)
    assert rates[1] == 10.0
    assert math.isnan(rates[2])
    assert rates[3] == 20.0


def test_a_reset_inside_a_slot_leaves_the_rises_around_it():
    rates = fold((1000, 50.0), (1250, 55.0), (1500, 1.0), (1750, 6.0), column=3)
    assert rates == {1: 20.0}


def test_readings_more_than_three_steps_apart_say_no_rate():
    assert fold((0, 0.0), (3000, 30.0), column=3)[3] == 10.0
    assert math.isnan(fold((0, 0.0), (3001, 30.0), column=3)[3])


def test_a_rate_beyond_the_bounds_is_a_gap():
    assert fold((0, 0.0), (1000, 100.0), column=3)[1] == 100.0
    assert math.isnan(fold((0, 0.0), (1000, 100.5), column=3)[1])


def test_a_late_reading_changes_the_rate_of_the_slot_after_it_too():
    raw = RawSamples(RULES)
    raw.add(samples((0, 0.0), (2000, 30.0), column=3), edges=EARLY)
    folded, _ = raw.add(samples((1000, 10.0), column=3), edges=EARLY)
    rates = dict(zip(folded.slot.tolist(), folded.value.tolist(), strict=True))
    assert (rates[1], rates[2]) == (10.0, 20.0)


def test_the_same_time_twice_counts_once_and_the_larger_value_holds():
    raw = RawSamples(RULES)
    folded, repeated = raw.add(samples((0, 1.0), (0, 3.0), (500, 5.0)), edges=EARLY)
    assert (folded.value.tolist(), repeated) == ([4.0], 1)
    folded, repeated = raw.add(samples((0, 2.0)), edges=EARLY)
    assert (folded.value.tolist(), repeated) == ([4.0], 1)


def test_series_do_not_mix():
    raw = RawSamples(RULES)
    both = samples((0, 1.0)).together(samples((0, 5.0), row=1))
    raw.add(both, edges=EARLY)
    folded, _ = raw.add(samples((100, 7.0), row=1), edges=EARLY)
    assert folded.series.tolist() == [len(METRICS)]
    assert folded.value.tolist() == [6.0]


def test_trimming_keeps_the_window_and_the_reading_a_rate_starts_from():
    raw = RawSamples(RULES)
    points = [(0, 0.0), (1000, 10.0), (2000, 30.0)]
    raw.add(samples(*points), edges=EARLY)
    raw.add(samples(*points, column=3), edges=EARLY)
    raw.trim(np.array([1]))
    assert raw.kept.time_ms.tolist() == [2000, 1000, 2000]
    folded, _ = raw.add(samples((3000, 40.0), column=3), edges=np.array([1]))
    assert folded.slot.tolist() == [3]
    assert folded.value.tolist() == [10.0]
    folded, _ = raw.add(samples((2500, 35.0), column=3), edges=np.array([1]))
    assert folded.slot.tolist() == [2, 3]
    assert folded.value.tolist() == [50 / 3, 10.0]


def test_trimming_nothing_or_everything_is_fine():
    raw = RawSamples(RULES)
    raw.trim(np.array([5]))
    raw.add(samples((0, 1.0)), edges=EARLY)
    raw.trim(np.array([5]))
    assert len(raw.kept) == 0


def test_a_forgotten_row_leaves_the_others_alone():
    raw = RawSamples(RULES)
    raw.add(samples((0, 1.0)).together(samples((0, 5.0), row=1)), edges=EARLY)
    raw.forget(0)
    assert raw.kept.value.tolist() == [5.0]


POINTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 40), st.sampled_from([0.1, 0.2, 0.7, 3.3, 1e6])),
    min_size=1,
    max_size=30,
)


def slot_values(batches):
    """All slot values after the batches, keyed by series and slot, as bytes."""
    raw, cells = RawSamples(RULES), {}
    for batch in batches:
        given_samples = Samples(
            np.array([column for column, _, _ in batch], dtype=np.int64),
            np.array([tenth * 100 for _, tenth, _ in batch], dtype=np.int64),
            np.array([value for _, _, value in batch]),
        )
        folded, _ = raw.add(given_samples, edges=EARLY)
        keys = zip(folded.series.tolist(), folded.slot.tolist(), strict=True)
        cells.update(zip(keys, (each.tobytes() for each in folded.value), strict=True))
    return cells


@given(POINTS, st.data())
def test_neither_order_nor_repeats_nor_batches_change_a_bit(points, data):
    again = data.draw(st.lists(st.sampled_from(points), max_size=10))
    shuffled = data.draw(st.permutations(points + again))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(shuffled)), max_size=4)))
    batches = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(shuffled)], strict=True)]
    assert slot_values(batch for batch in batches if batch) == slot_values([points])


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=12))
def test_no_readings_whatsoever_give_a_negative_rate(readings):
    points = [(at * 500, reading) for at, reading in enumerate(readings)]
    rates = [rate for rate in fold(*points, column=3).values() if not math.isnan(rate)]
    assert all(0.0 <= rate <= 100.0 for rate in rates)


@pytest.mark.parametrize("column", range(4))
def test_no_samples_fold_to_nothing(column):
    assert fold(column=column) == {}
