"""Numbers are counted in bins; quantiles are read off to 4.4 %."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.federated.usual import Usual

NORMS = st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=40)


def norms(*values: float) -> Usual:
    made = Usual()
    for each in values:
        made.add(each)
    return made


def test_before_the_first_round_every_norm_is_usual():
    assert norms(1.0).quantile(0.5) == math.inf


@given(NORMS, st.sampled_from([0.2, 0.5, 0.8, 0.98]))
def test_a_quantile_is_at_most_one_bin_above_that_of_the_numbers(values, level):
    found = norms(*values).quantile(level, fresh=True)
    wanted = float(np.quantile(values, level, method="inverted_cdf"))
    assert wanted * 0.9999 <= found <= wanted * 2 ** (1 / 16) * 1.0001


def test_within_a_round_nothing_moves():
    one = norms(1.0)
    one.close()
    before = one.quantile(0.8)
    one.add(1000.0)
    assert one.quantile(0.8) == before
    one.close()
    assert one.quantile(0.8) > 1000


def test_what_came_before_counts_half_with_every_round():
    one = norms(*[1.0] * 4)
    one.close()
    for _ in range(3):
        one.close()
    one.add(100.0)
    one.close()
    assert one.quantile(0.5) > 100


def test_a_delta_of_nothing_does_not_count():
    assert norms(0.0).quantile(0.5, fresh=True) == math.inf


def test_what_lies_beyond_the_bins_counts_at_their_ends():
    assert norms(1e-30).quantile(0.5, fresh=True) < 1e-18
    assert norms(1e38).quantile(0.5, fresh=True) > 1e18


@given(NORMS, NORMS)
def test_counts_add_up_and_come_back_from_json(first, second):
    both, one = norms(*first, *second), norms(*first)
    one.merge(norms(*second).fresh)
    both.close()
    one.close()
    one.add(3.0)
    back = Usual.from_json(one.to_json())
    assert back.to_json() == one.to_json()
    assert back.quantile(0.7) == both.quantile(0.7) == pytest.approx(one.quantile(0.7))
    assert back.fresh.dtype == np.int64
