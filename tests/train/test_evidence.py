"""A decision is made again from what is on record, to the same bits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.canonical import canonical, plain, sha256
from forecast.errors import StateError
from tests.train.losses_scene import losses
from train.evidence import decided_from, evidence_of, pack, reproduce, unpack
from train.gate import Evidence, Rules, decide

RULES = Rules(validate=True, threshold=0.05, weight_move=0.25)


def on_record(evidence: Evidence, *, champion=7, anchor=5, seed=11):
    """Kind and detail of the record of a verdict, as they come back from the log."""
    versions = {"champion": champion, "anchor": anchor}
    decision = decide(evidence, RULES, **versions, seed=seed)
    said = decided_from(sha256(pack(evidence)), RULES, **versions, seed=seed)
    report = {**decision.report, "kind": "update", "decided_from": said}
    detail = {"update_id": "update-9", "reasons": decision.reasons, "report": report}
    return "promote" if decision.promote else "reject", json.loads(canonical(plain(detail)))


@settings(max_examples=12, deadline=None)
@given(
    better=st.floats(-0.3, 0.3),
    noise=st.floats(0, 0.5),
    blocks=st.integers(1, 30),
    moved=st.none() | st.sampled_from([0.0, 0.02, 0.4, math.inf]),
    seed=st.integers(0, 5),
)
def test_any_decision_is_reproduced_bit_by_bit(better, noise, blocks, moved, seed):
    worse = {"challenger": better, "champion": 0.0, "anchor": 0.01}
    found = losses(worse, noise=noise, blocks=blocks, seed=seed)
    evidence = Evidence(losses=found, moved=moved)
    kind, detail = on_record(evidence, seed=seed)
    again = reproduce(kind, detail, pack(evidence))
    assert again.differs == ()
    assert again.promote == (kind == "promote")
    assert list(again.reasons) == detail["reasons"]


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(losses=None, fault="its weights are not finite"),
        Evidence(losses=losses({"challenger": 0.0}), moved=math.nan),
        Evidence(losses=losses({"champion": 0.0})),
    ],
)
def test_what_was_refused_before_any_comparison_is_reproduced_too(evidence):
    kind, detail = on_record(evidence)
    assert kind == "reject"
    assert reproduce(kind, detail, pack(evidence)).differs == ()


def test_evidence_comes_back_as_it_was():
    found = Evidence(losses=losses({"challenger": 0.1, "champion": 0.0}, noise=0.1), moved=1 / 3)
    back = unpack(pack(found))
    assert back.moved == found.moved
    assert (back.losses.roles, back.losses.nominal) == (found.losses.roles, found.losses.nominal)
    for name in ("pinball", "inside"):
        for model, sums in getattr(found.losses, name).items():
            assert np.array_equal(getattr(back.losses, name)[model], sums)
    assert pack(back) == pack(found)


def test_a_record_that_says_something_else_is_told_where():
    evidence = Evidence(losses=losses({"challenger": -0.02, "champion": 0.0}, noise=0.05))
    kind, detail = on_record(evidence)
    assert kind == "promote"
    assert reproduce("reject", detail, pack(evidence)).differs == ("promote",)
    changed = {**detail, "report": {**detail["report"], "upper_bound": 0.5}}
    assert reproduce(kind, changed, pack(evidence)).differs == ("upper_bound",)


def test_other_evidence_gives_another_decision():
    worse = Evidence(losses=losses({"challenger": 0.2, "champion": 0.0}, noise=0.05))
    kind, detail = on_record(
        Evidence(losses=losses({"challenger": -0.2, "champion": 0.0}, noise=0.05))
    )
    again = reproduce(kind, detail, pack(worse))
    assert not again.promote
    assert {"promote", "reasons", "relative_change"} <= set(again.differs)


def test_a_record_without_evidence_says_so():
    with pytest.raises(StateError, match="update-3: its record names no evidence"):
        evidence_of({"update_id": "update-3", "report": {}})


def test_a_days_evidence_of_the_reference_setting_is_small():
    names = {"challenger": 0.0, "champion": 0.0, "anchor": 0.0}
    assert len(pack(Evidence(losses=losses(names, noise=0.1, blocks=24)))) < 20_000
