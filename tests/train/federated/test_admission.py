"""Who and what is let in; each known defect of other systems is a test here."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.federated.scene import LAYOUT, aggregator, delta, meta, offer
from train.federated.aggregator import Aggregator
from train.federated.settings import AggregatorSettings
from train.federated.update import Verdict

BAD_DELTAS = {
    "nan": (delta(1, np.nan), Verdict.NON_FINITE),
    "infinite": (delta(np.inf), Verdict.NON_FINITE),
    "both infinities": (delta(np.inf, -np.inf), Verdict.NON_FINITE),
    "beyond float32 when squared": (delta(1e30), Verdict.NON_FINITE),
    "one number that would broadcast": (delta(1)[:1], Verdict.MALFORMED),
    "too short": (delta(1)[:3], Verdict.MALFORMED),
    "empty": (delta(1)[:0], Verdict.MALFORMED),
    "two axes": (delta(1).reshape(2, 3), Verdict.MALFORMED),
    "float64": (delta(1).astype(np.float64), Verdict.MALFORMED),
    "int64": (delta(1).astype(np.int64), Verdict.MALFORMED),
    "float16": (delta(1).astype(np.float16), Verdict.MALFORMED),
    "a list": ([1.0] * 6, Verdict.MALFORMED),
    "nothing": (None, Verdict.MALFORMED),
}
BAD_METAS = {
    "negative samples": {"samples": -1},
    "no samples": {"samples": 0},
    "a weight of 1e12": {"samples": 10**12},
    "samples that are not a number": {"samples": math.nan},
    "half a sample": {"samples": 0.5},
    "a boolean": {"samples": True},
    "a negative sequence": {"sequence": -1},
    "a sequence beyond 64 bits": {"sequence": 2**63},
    "no name": {"site": ""},
    "a name that is none": {"site": None},
    "a name without end": {"site": "a" * 257},
    "a role that is no string": {"role": 7},
    "another layout": {"schema_hash": "0" * 64},
    "a hash that is no string": {"schema_hash": None},
    "a version that is no integer": {"base_version": "0"},
}


@pytest.mark.parametrize("name", BAD_DELTAS)
def test_a_bad_delta_is_refused_with_a_reason_and_changes_no_weight(name):
    bad, verdict = BAD_DELTAS[name]
    one = aggregator()
    receipt = one.offer(meta(), bad)
    assert receipt.verdict is verdict
    assert receipt.reason
    assert not one.pools["global"].collected


@pytest.mark.parametrize("name", BAD_METAS)
def test_a_bad_meta_is_refused_with_a_reason_and_never_raises(name):
    one = aggregator()
    receipt = one.offer(meta(**BAD_METAS[name]), delta(1))
    assert receipt.verdict is Verdict.MALFORMED
    assert receipt.reason
    assert not one.pools["global"].collected


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.none() | st.integers() | st.text(max_size=3) | st.floats() | st.booleans()
            for name in ("site", "sequence", "base_version", "schema_hash", "samples", "role")
        },
    )
)
def test_whatever_a_message_holds_the_answer_is_a_verdict(values):
    receipt = aggregator().offer(meta(**values), delta(1))
    assert receipt.verdict in Verdict


def test_only_sites_of_the_federation_are_heard():
    one = Aggregator(LAYOUT, delta(0), settings=AggregatorSettings(), sites=["a"])
    assert offer(one, "a", delta(1)).verdict is Verdict.ACCEPTED
    refused = offer(one, "b", delta(1))
    assert refused.verdict is Verdict.UNAUTHORISED
    assert "'b' is no site" in refused.reason
    assert len(one.admission.sites) == 1


def test_sites_that_are_kept_account_of_are_bounded():
    one = aggregator(updates=99, most_sites=2)
    verdicts = [offer(one, site, delta(1)).verdict for site in "abca"]
    assert verdicts == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.LIMITED, Verdict.DUPLICATE]
    assert offer(one, "d", delta(np.nan)).verdict is Verdict.LIMITED
    assert len(one.admission.sites) == 2


def calm(rounds: int = 3, sites: int = 10, **given) -> Aggregator:
    """After a few rounds in which every delta has the norm 2.449."""
    one = aggregator(updates=sites, start=np.zeros(6, np.float32), **given)
    for _ in range(rounds):
        for place in range(sites):
            assert offer(one, f"s{place}", delta(1)).counted
        assert one.maybe_step(0.0) is not None
    return one


def test_what_is_usual_is_neither_clipped_nor_refused():
    one = calm()
    assert one.shared() == pytest.approx(np.full(6, 3.0), rel=1e-6)
    assert one.admission.clip() == pytest.approx(6**0.5, rel=0.05)
    assert one.admission.clip() >= 6**0.5


def test_a_delta_far_beyond_what_is_usual_is_an_outlier():
    one = calm()
    refused = offer(one, "s0", delta(100))
    assert refused.verdict is Verdict.OUTLIER
    assert "norm 245" in refused.reason


def test_a_delta_somewhat_beyond_is_shortened_to_what_is_usual():
    one = calm()
    before = one.shared()
    assert offer(one, "s0", delta(3)).counted
    one.maybe_step(0.0)
    one.maybe_step(60.0)
    moved = float(np.linalg.norm(one.shared() - before))
    assert moved == pytest.approx(6**0.5, rel=0.05)


def test_thresholds_neither_run_away_nor_fall_to_nothing_when_all_norms_are_equal():
    one = calm(rounds=40)
    assert one.admission.clip() == pytest.approx(6**0.5, rel=0.05)


def test_thresholds_follow_when_all_sites_move_on():
    one = calm()
    for _ in range(8):
        for place in range(10):
            offer(one, f"s{place}", delta(0.1))
        one.maybe_step(0.0)
    assert one.admission.clip() == pytest.approx(0.1 * 6**0.5, rel=0.05)


def test_a_quarter_of_bad_sites_does_not_move_the_thresholds():
    one = aggregator(updates=16, start=np.zeros(6, np.float32))
    for _ in range(6):
        for place in range(16):
            offer(one, f"s{place}", delta(100 if place < 4 else 1))
        one.maybe_step(0.0)
        one.maybe_step(60.0)
    assert one.admission.clip() < 3.2 * 6**0.5
    assert one.admission.longest() < 11 * 6**0.5
    assert set(one.admission.sites.quarantined(one.round)) <= {"s0", "s1", "s2", "s3"}


def test_a_site_that_keeps_sending_bad_updates_is_not_heard_for_longer_and_longer():
    one = aggregator(updates=1)
    heard = []
    for round in range(40):
        offer(one, "good", delta(1))
        verdict = offer(one, "bad", delta(np.nan)).verdict
        if verdict is Verdict.NON_FINITE:
            heard.append(round)
        else:
            assert verdict is Verdict.QUARANTINED
        one.maybe_step(0.0)
    assert heard == [0, 2, 5, 10, 19, 36]


def test_a_repeated_call_with_a_bad_update_is_one_offence():
    one = aggregator(updates=1)
    for _ in range(5):
        assert one.offer(meta("bad"), delta(np.nan)).verdict is Verdict.NON_FINITE
    assert one.admission.sites.until("bad") == 2


def test_what_is_late_is_no_offence():
    one = aggregator(updates=1, most_staleness=0)
    offer(one, "a", delta(1))
    one.maybe_step(0.0)
    assert one.offer(meta("b", 1, base_version=0), delta(1)).verdict is Verdict.STALE
    assert one.offer(meta("b", 2, base_version=1), delta(1)).verdict is Verdict.ACCEPTED


def test_a_quarantine_ends_also_when_no_round_can_be_closed():
    one = aggregator(updates=9, quorum=2)
    one.offer(meta("bad"), delta(np.nan))
    offer(one, "a", delta(1))
    for minute in range(4):
        one.maybe_step(60.0 * minute)
    assert one.offer(meta("bad", 1), delta(1)).verdict is Verdict.ACCEPTED


def test_a_quarantine_ends_also_when_all_sites_are_in_it():
    one = aggregator(updates=9, quorum=2)
    for site in "ab":
        assert one.offer(meta(site), delta(np.nan)).verdict is Verdict.NON_FINITE
    reports = [one.maybe_step(60.0 * minute) for minute in range(4)]
    assert [report and report.outcome for report in reports] == [None, "held", "held", None]
    assert one.offer(meta("a", 1), delta(1)).verdict is Verdict.ACCEPTED
    assert one.maybe_step(1000.0) is None  # the deadline runs from the first update on
    assert one.maybe_step(1059.0) is None
    report = one.maybe_step(1060.0)
    assert report is not None
    assert report.reason == "1 of 2 sites"


def test_a_round_of_outliers_alone_ends_and_what_all_send_becomes_usual():
    one = calm()
    for n in range(10):
        assert offer(one, f"t{n}", delta(100)).verdict is Verdict.OUTLIER
    assert one.maybe_step(1000.0) is None
    report = one.maybe_step(1060.0)
    assert report is not None
    assert (report.outcome, report.updates, report.verdicts) == ("held", 0, {"outlier": 10})
    assert offer(one, "last", delta(100)).counted


def test_where_nothing_is_sent_no_round_ends():
    one = calm()
    for minute in range(9):
        assert one.maybe_step(1e6 + 60.0 * minute) is None


def test_a_site_buys_no_influence_with_the_samples_it_says_it_has():
    one = calm()
    assert one.admission.heaviest() == pytest.approx(10, rel=0.05)
    before = one.shared()
    for place in range(10):
        honest = delta(1) if place else delta(-1)
        assert offer(one, f"s{place}", honest, samples=10**9 if place == 0 else 1).counted
    report = one.maybe_step(0.0)
    assert report is not None
    assert report.samples < 9 + 11
    assert (one.shared() - before)[0] > -0.2
