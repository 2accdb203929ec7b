"""Windows as changes: what is read, and the way back to natural units."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.changes import Changes, spaced
from forecast.restless import squashed
from tests.forecast.test_least_squares import CONTEXT, HORIZON, noise, windows


def changes_of(history, origins, *, log=False, unit=2.0):
    raw = windows(history, origins)
    last = raw.values[:, raw.context - 1, 0]
    units = np.full(len(raw), unit, np.float32)
    return Changes.of(raw, 0, last, log=log, unit_N=units, horizon=HORIZON)


@pytest.mark.parametrize("log", [False, True])
def test_what_was_squashed_comes_back_in_natural_units(log):
    history = noise(servers=3, slots=60)
    read = changes_of(history, [40, 44], log=log)
    wanted = np.stack([history[:, at + 1 : at + 1 + HORIZON, 0] for at in (40, 44)])
    wanted = wanted.reshape(-1, HORIZON).astype(np.float32)
    moved = squashed(spaced(wanted, log), read.last, read.unit)
    np.testing.assert_allclose(read.natural(moved[..., None])[..., 0], wanted, rtol=1e-5)


def test_levels_that_cross_are_sorted_and_none_goes_far_beyond_the_window():
    read = changes_of(noise(servers=2, slots=60), [40])
    moved = np.array([9.0, -9.0, 0.5], np.float32) * np.ones((2, HORIZON, 1), np.float32)
    found = read.natural(moved)
    assert (np.diff(found, axis=-1) >= 0).all()
    known = np.concatenate([read.context, read.yesterday], axis=1)
    width = np.nanmax(known, axis=1) - np.nanmin(known, axis=1) + 2.0
    assert (found <= (np.nanmax(known, axis=1) + width)[:, None, None] + 1e-4).all()
    assert (found >= (np.nanmin(known, axis=1) - width)[:, None, None] - 1e-4).all()


def test_a_shorter_horizon_than_the_experts_is_answered():
    read = changes_of(noise(servers=2, slots=60), [40])
    inputs = read.inputs()
    longer = Changes(
        log=read.log,
        context=read.context,
        yesterday=read.yesterday[:, : CONTEXT + 1],
        last=read.last,
        unit=read.unit,
        horizon=HORIZON,
    )
    assert longer.inputs().shape == inputs.shape
    assert longer.natural(np.zeros((2, HORIZON, 3), np.float32)).shape == (2, 1, 3)
