"""The bench of federated learning: its arithmetic, and a small federation under attack."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.federated_attacks import ATTACKS, worst
from bench.federated_rounds import PlainMean, Product, rate_of
from bench.federated_scores import by_site, day_sums, gain, mean_wql, pooled, site_wql
from tests.train.windows_scene import CONTEXT, HORIZON, LEVELS, TARGETS, windows
from train.federated.aggregator import Aggregator
from train.federated.partition import Layout, Scope
from train.federated.settings import AggregatorSettings
from train.federated.update import UpdateMeta
from train.federated.verdict import SiteScore, VerdictRules

DAYS = 6
LAYOUT = Layout.of({"w": np.zeros(3, np.float32)}, rules=[("*", Scope.GLOBAL)])


def sums(losses, sizes=1.0) -> np.ndarray:
    """Sums [S, D, 1, 2] of a loss for each site, alike on all days."""
    loss = np.broadcast_to(np.array(losses, float)[:, None, None], (len(losses), DAYS, 1))
    return np.stack([loss, np.full_like(loss, sizes)], axis=-1)


def meta(site: str, samples: int = 1, **given) -> UpdateMeta:
    plain = {"sequence": 0, "base_version": 0, "schema_hash": LAYOUT.schema_hash}
    return UpdateMeta(site=site, samples=samples, **{**plain, **given})


def test_a_sites_wql_is_twice_its_loss_over_its_size_and_sites_count_alike():
    np.testing.assert_allclose(site_wql(sums([0.1, 0.3])), [0.2, 0.6])
    assert mean_wql(sums([0.1, 0.3])) == pytest.approx(0.4)


def test_a_site_of_which_nothing_came_has_no_say():
    one = sums([0.1, 0.3])
    one[1] = 0
    assert mean_wql(one) == pytest.approx(0.2)
    assert len(by_site(one, one, seed=1)) == 1


def test_the_gain_is_a_share_of_the_other_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    other = sums([0.2, 0.4]) * rng.uniform(0.5, 1.5, (2, DAYS, 1, 1))
    other[..., 1] = 1
    one = other.copy()
    one[..., 0] *= 0.9
    found = gain(one, other, seed=1)
    assert found.gain == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1)  # paired: what is hard for both cancels out
    assert found.told("g") == {"g": found.gain, "g_low": found.low, "g_high": found.high}


def test_days_are_told_apart_by_origin_and_gaps_count_nothing():
    raw = windows(2 * 288)
    first = int(raw.origin[0])
    y = raw.values[:, CONTEXT:].copy()
    raw.values[5, CONTEXT, 0] = np.nan
    found = day_sums(
        raw, np.repeat((y + 1)[..., None], 3, -1), TARGETS, LEVELS, first=first, days=2
    )
    # Every quantile lies one above the label: a pinball loss of 1 - level, on the mean .5.
    want = 0.5 * HORIZON * 288
    np.testing.assert_allclose(found[:, 1, 0], want, rtol=1e-4)
    np.testing.assert_allclose(found[:, 0, 0], [want - 0.5, want], rtol=1e-4)
    np.testing.assert_allclose(found[1, 0, 1], np.abs(y[288:, :, 0]).sum(), rtol=1e-4)


def test_seeds_are_pooled_by_adding_their_sums():
    runs = [{"ours": sums([0.1])}, {"ours": sums([0.3])}]
    assert mean_wql(pooled(runs)["ours"]) == pytest.approx(0.4)


def test_the_plain_mean_is_weighed_by_samples_and_looks_at_nothing():
    one = PlainMean(np.zeros(3, np.float32))
    one.offer(meta("a", 1), np.ones(3, np.float32))
    one.offer(meta("b", 3), np.full(3, 5, np.float32))
    one.end()
    assert one.begin().vector.tolist() == [4, 4, 4]
    one.offer(meta("a"), np.full(3, np.nan, np.float32))
    one.end()
    assert np.isnan(one.begin().vector).all()


def test_a_candidate_that_sites_score_as_worse_is_dropped():
    settings = AggregatorSettings(updates=2, quorum=2, gated=True)
    for change, moved in ((0.03, 0.0), (-0.03, 1.0)):
        centre = Aggregator(LAYOUT, np.zeros(3, np.float32), settings=settings)

        def judge(given, change=change):
            told = {"lower": change, "upper": change, "blocks": 8, "samples": 9}
            return [
                SiteScore(site=name, version=given.version, change=change, **told) for name in "ab"
            ]

        one = Product(centre, judge, VerdictRules(quorum=2))
        for name in "ab":
            one.offer(meta(name), np.ones(3, np.float32))
        one.end()
        assert one.begin().vector.tolist() == [moved] * 3


def test_a_round_with_too_few_updates_ends_at_its_deadline():
    settings = AggregatorSettings(updates=3, quorum=1)
    one = Product(Aggregator(LAYOUT, np.zeros(3, np.float32), settings=settings), None, RULES)
    one.offer(meta("a"), np.ones(3, np.float32))
    one.end()
    assert one.begin().vector.tolist() == [1, 1, 1]


RULES = VerdictRules(quorum=1)


def test_the_rate_ends_low():
    rates = [rate_of(turn, 8) for turn in range(8)]
    assert max(rates) <= 1.02
    assert 0 < rates[-1] < 0.1


def test_the_worst_attack_is_told_against_the_same_rule_without_one():
    table = {"default": dict.fromkeys(ATTACKS, 0.5)}
    table["default"] |= {"none": 0.4, "nan": math.nan, "constant": 0.6}
    rise, broken = worst(table, "default")
    assert rise == pytest.approx(0.5)
    assert broken == 1
