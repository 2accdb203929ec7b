"""The fit of the quantile network: what it learns, and that it repeats itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecast.least_squares import least_squares
from forecast.quantile_network import MOST_EXAMPLES, quantile_network
from tests.forecast.test_least_squares import (
    CONTEXT,
    DAY,
    HORIZON,
    LEVELS,
    examples,
    loss,
    noise,
    windows,
)
from train import expert
from train.quantile_network import LEAST_EXAMPLES, fit, thinned


def tents(*, servers=6, slots=2000, seed=1):
    """The tent map: the next value is certain, and no line through the last ones tells it."""
    random = np.random.default_rng(seed)
    found = np.empty((servers, slots))
    found[:, 0] = random.uniform(-0.5, 0.5, servers)
    for slot in range(1, slots):
        found[:, slot] = 0.9 - 1.8 * np.abs(found[:, slot - 1])
    return found[..., None]


def test_it_learns_what_a_line_cannot_say():
    history = tents()
    known = examples(history, as_of=1500)
    origins = range(1500, 1990, 3)
    raw = windows(history, origins)
    network = quantile_network(raw, fit(known, LEVELS, seed=1), ("a",))
    line = least_squares(raw, expert.fit(known, LEVELS), ("a",))
    assert loss(history, origins, network)[0] < 0.9 * loss(history, origins, line)[0]


def test_the_same_examples_and_seed_give_the_same_network_and_another_seed_another():
    known = examples(noise(targets=2))
    one, same, other = (fit(known, LEVELS, seed=seed) for seed in (4, 4, 5))
    for name, array in one.weights.each().items():
        np.testing.assert_array_equal(array, getattr(same.weights, name))
    assert not np.array_equal(one.weights.first, other.weights.first)


def test_too_few_examples_make_no_network():
    known = examples(noise(servers=1, slots=DAY + HORIZON + LEAST_EXAMPLES))
    assert fit(known, LEVELS, seed=1) is not None
    few = replace(
        known,
        origins=known.origins[:, : LEAST_EXAMPLES - 1],
        values=known.values[:, : LEAST_EXAMPLES - 1],
        daily=known.daily[:, : LEAST_EXAMPLES - 1],
    )
    assert fit(few, LEVELS, seed=1) is None


def test_a_large_fleet_has_nothing_of_each_server():
    network = fit(examples(noise(servers=5)), LEVELS, seed=1, own_servers=4)
    assert network.weights.own.shape[0] == 0
    assert np.isfinite(quantile_network(windows(noise(servers=5), [800]), network, ("a",))).all()


def test_examples_with_gaps_do_not_count():
    history = noise(servers=2, slots=700)
    known = examples(history)
    values = known.values.copy()
    values[:, ::2, CONTEXT] = np.nan
    holed = fit(replace(known, values=values), LEVELS, seed=1)
    assert all(np.isfinite(one).all() for one in holed.weights.each().values())


@pytest.mark.parametrize("log", [False, True])
def test_one_absurd_value_spoils_no_ones_forecast(log):
    """Nor does it raise a warning, which is an error here."""
    history, origins = tents() + 1.0, range(1500, 1990, 3)
    spiked = history.astype(np.float32)
    spiked[0, 1200] = 3e38  # some origin's newest value, and some others' label
    losses = []
    for given in (history, spiked):
        known = replace(examples(given, as_of=1500), logs=(log,))
        raw = windows(history, origins)
        losses.append(
            loss(history, origins, quantile_network(raw, fit(known, LEVELS, seed=1), ("a",)))[0]
        )
    assert losses[1] < 1.1 * losses[0]


def test_very_many_targets_leave_every_time_of_the_day():
    servers, origins, targets = 24, 600, 8
    ones = np.ones((servers, origins, CONTEXT + HORIZON, targets), np.float32)
    known = replace(
        examples(noise(servers=servers, slots=64)),
        origins=np.broadcast_to(5 * np.arange(origins), (servers, origins)),
        values=ones,
        daily=ones[:, :, CONTEXT:],
    )
    left = thinned(replace(known, targets=tuple("abcdefgh")))
    assert left.origins.size * targets <= MOST_EXAMPLES
    assert left.origins[0, -1] == known.origins[0, -1]
    assert {*(left.origins[0] % DAY)} == {*(known.origins[0] % DAY)}
