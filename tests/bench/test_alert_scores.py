"""What the bench of alerts counts, on streams small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bench.alert_scores import Counts, alarms_of, at_recall, counts, reduction

DAY = 100


def deviations(*spans: tuple[int, int, float], slots: int = 2 * DAY) -> np.ndarray:
    """One server, one target: 0, but so much in slots [begin, end)."""
    found = np.zeros((slots, 1, 1), np.float32)
    for begin, end, value in spans:
        found[begin:end] = value
    return found


def test_a_wider_band_tells_less_and_one_slot_alone_tells_nothing():
    firing = alarms_of(deviations((10, 15, 3.0), (50, 51, 9.0)), np.array([2.0, 4.0]), hold=2)
    assert np.flatnonzero(firing[:, 0, 0]).tolist() == list(range(11, 20))  # 15 to 20 are inside
    assert not firing[:, 0, 1].any()


def test_an_alarm_that_comes_near_an_incident_meets_it_and_any_other_is_false():
    labels = np.full((2 * DAY, 1), -1, np.int8)
    labels[40:] = 0
    labels[60:70] = labels[150:160] = 1
    firing = np.zeros((2 * DAY, 1, 2), bool)
    firing[10:20, 0] = True  # nobody labelled it
    firing[54:56, 0, 0] = True  # begins 6 slots before the first incident
    firing[77:80, 0, 1] = True  # 7 after it
    firing[120:125, 0] = True
    told = counts(firing, labels, first_slot=0, day_slots=DAY)
    assert told.incidents.tolist() == [1, 1]
    assert told.met.tolist() == [[1, 0], [0, 0]]
    assert told.false.tolist() == [[0, 1], [1, 1]]
    assert told.server_days.tolist() == [0.6, 1.0]


def test_an_alarm_that_never_ends_meets_nothing_unless_an_incident_began_it():
    labels = np.zeros((2 * DAY, 1), np.int8)
    labels[60:70] = labels[80:85] = labels[150:160] = 1
    firing = np.zeros((2 * DAY, 1, 3), bool)
    firing[10:, 0, 0] = True  # from long before
    firing[65:90, 0, 1] = True  # one that lasts over two of them
    told = counts(firing, labels, first_slot=0, day_slots=DAY)
    assert told.met.tolist() == [[0, 0], [2, 0], [0, 0]]
    assert told.false.tolist() == [[1, 0], [0, 0], [0, 0]]


def test_a_day_without_a_label_is_no_day():
    labels = np.full((2 * DAY, 1), -1, np.int8)
    labels[DAY:] = 0
    told = counts(np.zeros((2 * DAY, 1, 1), bool), labels, first_slot=3 * DAY, day_slots=DAY)
    assert told.server_days.tolist() == [1.0]


def system(met, false) -> Counts:
    """Four days with an incident each, at two widths."""
    return Counts(np.ones(4), np.asarray(met, float), np.asarray(false, float), np.full(4, 2.0))


def test_systems_are_compared_at_the_widest_band_that_recalls_enough():
    frozen = system([[1, 1, 1, 1], [1, 1, 0, 0]], [[9, 9, 9, 9], [4, 4, 4, 4]])
    online = system([[1, 1, 1, 0], [1, 0, 0, 0]], [[3, 3, 3, 3], [0, 0, 0, 0]])
    rates, reached = at_recall([[frozen], [online]], 0.5, seed=0)
    assert rates[:, 0].tolist() == [2.0, 1.5]
    assert reached[:, 0].tolist() == [0.5, 0.75]
    share, low, high = reduction(rates)
    assert share == pytest.approx(0.25)
    assert low <= share <= high
    rates, _ = at_recall([[frozen], [online]], 0.8, seed=0)
    assert rates[0, 0] == 4.5
    assert np.isnan(rates[1, 0])
    assert reduction(rates) == (None, None, None)


def test_data_sets_are_added_up_by_what_each_counts_at_its_own_width():
    one = system([[1, 1, 1, 1]], [[8, 8, 8, 8]])
    two = system([[1, 1, 0, 0], [0, 0, 0, 0]], [[2, 2, 2, 2], [0, 0, 0, 0]])
    rates, reached = at_recall([[one, two]], 0.5, seed=0)
    assert rates[0, 0] == (32 + 8) / 16
    assert reached[0, 0] == 6 / 8
