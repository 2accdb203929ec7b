"""Sums of weighed deltas in float64, chunk by chunk."""

from __future__ import annotations

import math

import numpy as np
import pytest

from train.federated.mean import CHUNK, Mean, norm_of


def random(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 3])
def test_it_is_numpy_s_average_in_float64(size):
    deltas, mean = [random(size, seed) for seed in range(3)], Mean()
    for samples, delta in zip((1, 5, 2), deltas, strict=True):
        mean.add(delta, scale=float(samples), samples=samples)
    wanted = np.average(np.stack(deltas).astype(np.float64), axis=0, weights=[1, 5, 2])
    found = mean.take()
    assert found.dtype == np.float64
    assert found == pytest.approx(wanted, rel=1e-14, abs=1e-14)
    assert not mean


def test_small_deltas_are_not_lost_beside_large_ones():
    mean = Mean()
    for value in (1.0, 1e-9, -1.0):
        mean.add(np.array([value], np.float32), scale=1.0, samples=1)
    assert mean.take()[0] == pytest.approx(np.float32(1e-9) / 3, rel=1e-6)


def test_it_is_divided_by_samples_and_not_by_discounted_weights():
    mean = Mean()
    mean.add(np.ones(2, np.float32), scale=0.5 * 4, samples=4)
    assert mean.take().tolist() == [0.5, 0.5]


def test_sums_merge_and_an_empty_mean_is_none():
    one, other = Mean(), Mean()
    one.add(np.ones(3, np.float32), scale=1.0, samples=1)
    other.add(np.full(3, 4, np.float32), scale=1.0, samples=1)
    assert other.sums is not None
    one.merge(other.sums, other.samples, scale=0.5)
    assert one.take().tolist() == [1.5] * 3
    with pytest.raises(ValueError, match="no update"):
        one.take()


@pytest.mark.parametrize("size", [0, 1, CHUNK + 7])
def test_the_norm_is_numpy_s(size):
    delta = random(size, 1)
    assert norm_of(delta) == pytest.approx(float(np.linalg.norm(delta.astype(float))), rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.float32(3e38)])
@pytest.mark.parametrize("place", [0, CHUNK, 2 * CHUNK])
def test_one_bad_number_anywhere_makes_the_norm_not_finite(bad, place):
    delta = random(2 * CHUNK + 1, 2)
    delta[place] = bad
    assert not math.isfinite(norm_of(delta))
