"""The gate: scores in natural units, and who may pass."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.windows_scene import CONTEXT, LEVELS, TARGETS, windows, without_labels
from train.gate import Scores, decide, score


def scores(wql: float | None, *, n: int = 100, finite: bool = True) -> Scores:
    per_target = (("cpu_usage_ratio", wql),)
    return Scores(wql, per_target, coverage=0.8, nominal=0.8, n=n, finite=finite)


def labels(raw):
    return raw.values[:, CONTEXT:]


def around(raw, offsets):
    """Forecasts [N, H, T, Q]: the labels plus one offset per level."""
    return labels(raw)[..., None] + np.asarray(offsets, np.float32)


def test_a_perfect_forecast_scores_zero_and_covers_everything():
    raw = windows(8)
    found = score(around(raw, (0, 0, 0)), raw, TARGETS, LEVELS)
    assert (found.wql, found.coverage, found.n, found.finite) == (0.0, 1.0, 8 * 3 * 2, True)
    assert found.nominal == pytest.approx(0.8)


def test_wql_is_pooled_per_target_and_then_averaged_over_targets():
    raw = windows(8)
    found = score(around(raw, (-0.2, -0.2, -0.2)), raw, TARGETS, LEVELS)
    by_hand = [
        2 * np.mean(LEVELS) * 0.2 / np.abs(labels(raw)[..., place]).mean() for place in range(2)
    ]
    assert [value for _, value in found.per_target] == pytest.approx(by_hand, rel=1e-4)
    assert found.wql == pytest.approx(np.mean(by_hand), rel=1e-4)


def test_a_label_that_is_a_gap_is_left_out():
    raw = windows(8)
    forecast = around(raw, (-0.1, 0, 0.1))
    raw.values[3, CONTEXT + 1, 0] = np.nan
    forecast[3, 1, 0] = 1e6
    assert score(forecast, raw, TARGETS, LEVELS).n == 8 * 3 * 2 - 1
    assert score(forecast, raw, TARGETS, LEVELS).wql < 1


def test_a_target_that_is_always_zero_has_no_wql_and_does_not_enter_the_mean():
    raw = windows(8)
    raw.values[:, CONTEXT:, 0] = 0
    found = score(around(raw, (-0.1, 0, 0.1)), raw, TARGETS, LEVELS)
    assert dict(found.per_target)["cpu_usage_ratio"] is None
    assert found.wql == dict(found.per_target)["network_kb_per_s"]


def test_without_labels_there_is_no_score():
    raw = windows(4)
    found = score(around(raw, (0, 0, 0)), without_labels(raw), TARGETS, LEVELS)
    assert (found.wql, found.coverage, found.n, found.finite) == (None, None, 0, True)


def test_one_forecast_that_is_not_finite_is_enough_for_no_score():
    raw = windows(4)
    forecast = around(raw, (0, 0, 0))
    forecast[0, 0, 0, 0] = np.inf
    found = score(forecast, raw, TARGETS, LEVELS)
    assert (found.wql, found.finite) == (None, False)


def test_forecasts_of_another_shape_are_refused_with_both_shapes():
    raw = windows(4)
    with pytest.raises(ValueError, match=r"\(4, 3, 2, 2\).*\(4, 3, 2, 3\)"):
        score(around(raw, (0, 0)), raw, TARGETS, LEVELS)


def test_the_better_and_the_equal_challenger_pass_the_worse_does_not():
    assert decide(scores(0.2), scores(0.19), validate=True).promote
    assert decide(scores(0.2), scores(0.2), validate=True).promote
    refused = decide(scores(0.2), scores(0.21), validate=True)
    assert not refused.promote
    assert refused.report["relative_change"] == pytest.approx(0.05)
    assert "0.21" in refused.reasons[0]


def test_the_first_model_needs_only_to_be_finite():
    assert decide(None, scores(9.0), validate=True).promote
    assert decide(None, scores(None, n=0), validate=True).promote
    assert not decide(None, scores(None, finite=False), validate=True).promote


def test_validation_off_drops_only_the_comparison_and_says_so():
    worse = decide(scores(0.2), scores(0.9), validate=False)
    assert worse.promote
    assert "validation is off" in worse.reasons[0]
    assert worse.report["validated"] is False
    assert not decide(scores(0.2), scores(None, finite=False), validate=False).promote
    broken = decide(scores(0.2), scores(0.1), validate=False, weights_finite=False)
    assert not broken.promote


def test_a_champion_that_is_not_finite_gives_way():
    assert decide(scores(None, finite=False), scores(0.9), validate=True).promote


def test_nothing_is_promoted_over_a_champion_without_held_out_labels():
    refused = decide(scores(None, n=0), scores(None, n=0), validate=True)
    assert not refused.promote
    assert "no held-out label" in refused.reasons[0]


def test_scores_of_different_labels_are_not_compared():
    with pytest.raises(ValueError, match="champion 100, challenger 99"):
        decide(scores(0.2), scores(0.1, n=99), validate=True)


@given(
    champion=st.none() | st.floats(0, 10),
    challenger=st.none() | st.floats(0, 10),
    finite=st.tuples(st.booleans(), st.booleans()),
    validate=st.booleans(),
    weights_finite=st.booleans(),
)
def test_every_decision_has_a_reason_and_a_report_that_is_json(
    champion, challenger, finite, validate, weights_finite
):
    decision = decide(
        scores(champion, finite=finite[0]),
        scores(challenger, finite=finite[1]),
        validate=validate,
        weights_finite=weights_finite,
    )
    assert decision.reasons
    json.dumps(decision.report, allow_nan=False)
    assert not decision.promote or (finite[1] and weights_finite)


def test_the_report_names_the_targets():
    report = decide(None, replace(scores(0.3), coverage=None), validate=True).report
    assert report["challenger"]["per_target"] == {"cpu_usage_ratio": 0.3}
    assert report["champion"] is None
