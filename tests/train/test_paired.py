"""Comparing models on the same windows: sums by block and role, and how sure a change is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.metrics import coverage as coverage_of
from forecast.metrics import wql as wql_of
from forecast.windows import RawWindows
from tests.train.losses_scene import losses
from tests.train.windows_scene import CONTEXT, HORIZON, LEVELS, TARGETS, windows, without_labels
from train.paired import compare, covered, measure, resamples, wql


def fleet(servers: int = 4, blocks: int = 12) -> RawWindows:
    """Windows of servers of two roles, one origin a horizon, each server with its own values."""
    parts = []
    for number in range(servers):
        raw = windows(blocks * HORIZON, seed=number).select(np.arange(0, blocks * HORIZON, HORIZON))
        count = len(raw)
        role, name = ("web", "db")[number % 2], f"vm-{number}"
        parts.append(replace(raw, servers=(name,) * count, roles=(role,) * count))
    return RawWindows.concat(parts)


def labels(raw):
    return raw.values[:, CONTEXT:]


def around(raw, spread, seed=0):
    """Forecasts [N, H, T, Q] around the labels: as wide as `spread`, and off by a noise."""
    noise = np.random.default_rng(seed).normal(0, spread, labels(raw).shape)
    middle = labels(raw) * (1 + noise.astype(np.float32))
    return middle[..., None] * (1 + np.array((-spread, 0, spread), np.float32))


def both(raw):
    """Two models' forecasts, the second with twice the error."""
    return {"one": around(raw, 0.1, seed=1), "two": around(raw, 0.2, seed=2)}


def measured(raw, forecasts=None):
    return measure(raw, TARGETS, LEVELS, forecasts or both(raw))


def test_sums_give_the_wql_and_the_coverage_of_all_windows():
    raw = fleet()
    found = measured(raw)
    for name, forecast in both(raw).items():
        mean, per_target = wql(found, name)
        by_hand = [wql_of(labels(raw)[..., t], forecast[:, :, t], LEVELS) for t in range(2)]
        assert list(per_target.values()) == pytest.approx(by_hand)
        assert mean == pytest.approx(np.mean(by_hand))
        inside = next(iter(coverage_of(labels(raw), forecast, LEVELS).values()))
        assert covered(found, name) == pytest.approx(inside)
    assert (found.blocks, found.roles, found.windows) == (12, ("db", "web"), 48)
    assert found.n == 48 * HORIZON * 2
    assert found.nominal == pytest.approx(0.8)


def test_all_servers_of_a_stretch_of_a_horizon_are_one_block():
    dense = windows(4 * HORIZON)  # an origin in every slot
    found = measure(dense, TARGETS, LEVELS, {})
    assert found.cells_BRT.shape == (4, 1, 2)
    assert (found.cells_BRT == HORIZON * HORIZON).all()
    assert measured(fleet(servers=5, blocks=7)).blocks == 7


def test_a_label_that_is_a_gap_is_left_out():
    raw = fleet()
    forecasts = both(raw)
    raw.values[3, CONTEXT + 1, 0] = np.nan
    forecasts["one"][3, 1, 0] = 1e6
    found = measured(raw, forecasts)
    assert found.n == 48 * HORIZON * 2 - 1
    assert wql(found, "one")[0] < 1


def test_a_target_that_is_always_zero_does_not_enter_the_mean():
    raw = fleet()
    forecasts = both(raw)
    raw.values[:, CONTEXT:, 0] = 0
    found = measured(raw, forecasts)
    mean, per_target = wql(found, "one")
    assert per_target["cpu_usage_ratio"] is None
    assert mean == per_target["network_kb_per_s"]
    assert np.isfinite(compare(found, "two", "one", seed=1).change)


def test_without_a_label_or_without_a_window_there_is_nothing_to_compare():
    empty = measured(without_labels(fleet()), both(fleet()))
    assert (wql(empty, "one")[0], covered(empty, "one"), empty.n) == (None, None, 0)
    assert compare(empty, "one", "two", seed=1) is None
    nothing = fleet().select(np.zeros(0, np.int64))
    assert compare(measured(nothing, both(nothing)), "one", "two", seed=1) is None


def test_a_model_with_one_forecast_that_is_not_finite_has_no_losses():
    raw = fleet()
    forecasts = both(raw)
    forecasts["two"][0, 0, 0, 0] = np.inf
    assert {*measured(raw, forecasts).pinball} == {"one"}


def test_forecasts_of_another_shape_are_refused_with_both_shapes():
    raw = fleet(1, 4)
    with pytest.raises(ValueError, match=r"\(4, 3, 2, 2\).*\(4, 3, 2, 3\)"):
        measured(raw, {"one": around(raw, 0.1)[..., :2]})


def test_resamples_take_as_many_blocks_as_there_are_and_runs_of_them():
    times = resamples(24, seed=5, count=300)
    assert times.shape == (301, 24)
    assert (times[0] == 1).all()
    assert (times.sum(axis=1) == 24).all()
    assert abs(times[1:].mean() - 1) < 1e-12
    # Neighbours come together: three in a row share two of three draws.
    beside = np.corrcoef(times[1:, 7], times[1:, 8])[0, 1]
    apart = np.corrcoef(times[1:, 7], times[1:, 13])[0, 1]
    assert beside > 0.4 > 0.2 > abs(apart)
    assert np.array_equal(times, resamples(24, seed=5, count=300))
    assert not np.array_equal(times, resamples(24, seed=6, count=300))


def test_a_change_that_is_the_same_in_every_block_is_sure():
    found = compare(losses({"one": 0.03, "two": 0.0}), "one", "two", seed=1)
    assert (found.change, found.lower, found.upper) == pytest.approx((0.03, 0.03, 0.03))


def test_what_is_hard_for_both_cancels_out():
    """Unpaired, the hours differ by half; paired, the change is known to a percent."""
    given = losses({"one": 0.03, "two": 0.0}, noise=0.02)
    found = compare(given, "one", "two", seed=1)
    assert 0.01 < found.lower < found.change < found.upper < 0.05
    assert given.pinball["two"].std() / given.pinball["two"].mean() > 0.3


def test_an_upper_bound_is_one_for_most_samples():
    """Of 300 independent samples about 95 %; that blocks are few makes it a little less."""
    held = 0
    for turn in range(300):
        given = losses({"one": 0.0, "two": 0.0}, noise=0.1, seed=turn)
        held += compare(given, "one", "two", seed=turn).upper >= 0
    assert 0.88 < held / 300 < 0.98


@settings(max_examples=20, deadline=None)
@given(copies=st.integers(2, 5))
def test_every_server_k_times_over_says_no_more(copies):
    """They move together: copies are no evidence. Unpaired by time they would narrow the bounds."""
    raw = fleet()
    again = RawWindows.concat(
        [replace(raw, servers=tuple(f"{name}-{k}" for name in raw.servers)) for k in range(copies)]
    )
    many = {name: np.concatenate([q] * copies) for name, q in both(raw).items()}
    once = compare(measured(raw), "one", "two", seed=3)
    found = compare(measured(again, many), "one", "two", seed=3)
    assert (found.change, found.lower, found.upper) == pytest.approx(
        (once.change, once.lower, once.upper), rel=1e-9
    )
    assert found.miss_lower == pytest.approx(once.miss_lower)
    assert [role.lower for role in found.roles] == pytest.approx([r.lower for r in once.roles])


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(60)))
def test_the_order_of_windows_and_servers_changes_no_bit(order):
    raw = fleet(servers=15, blocks=4)
    rows = np.array(order)
    mixed = {name: q[rows] for name, q in both(raw).items()}
    once, found = measured(raw), measured(raw.select(rows), mixed)
    assert found.pinball["one"].tobytes() == once.pinball["one"].tobytes()
    assert compare(found, "one", "two", seed=3) == compare(once, "one", "two", seed=3)


@settings(max_examples=20, deadline=None)
@given(power=st.integers(-12, 12), target=st.integers(0, 1))
def test_the_unit_of_a_target_does_not_matter(power, target):
    raw = fleet()
    scale = np.ones(2, np.float32)
    scale[target] = 2.0**power
    other = replace(raw, values=raw.values * scale)
    forecasts = {name: q * scale[:, None] for name, q in both(raw).items()}
    once = compare(measured(raw), "one", "two", seed=3)
    found = compare(measured(other, forecasts), "one", "two", seed=3)
    assert found.change == pytest.approx(once.change)
    assert (found.lower, found.upper) == pytest.approx((once.lower, once.upper))


def test_each_role_has_its_share_and_its_change():
    raw = fleet(servers=3)  # web, db, web
    found = compare(measured(raw), "one", "two", seed=3)
    assert [(role.role, role.share) for role in found.roles] == [
        ("db", pytest.approx(1 / 3)),
        ("web", pytest.approx(2 / 3)),
    ]
    alone = np.array([role == "web" for role in raw.roles])
    forecasts = {name: q[alone] for name, q in both(raw).items()}
    web = compare(measured(raw.select(alone), forecasts), "one", "two", seed=3)
    assert found.roles[1].change == pytest.approx(web.change)


def test_the_more_roles_the_surer_it_must_be_that_one_is_worse():
    """Each is another chance to be unlucky: with two, each has half of the 5 %."""
    given = losses({"one": 0.03, "two": 0.0}, noise=0.1)
    alike = {name: np.repeat(sums[:, :1], 2, axis=1) for name, sums in given.pinball.items()}
    found = compare(replace(given, pinball=alike), "one", "two", seed=1)
    for role in found.roles:
        assert role.change == pytest.approx(found.change)
        assert role.lower < found.lower - 1e-4


def test_against_a_model_without_loss_any_loss_is_infinitely_worse():
    given = losses({"one": 0.0, "two": -1.0})
    assert compare(given, "one", "two", seed=1).change == np.inf
    assert compare(given, "two", "two", seed=1).change == 0
