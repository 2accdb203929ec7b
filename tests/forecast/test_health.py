"""Learning health: what is counted of a day, and what the forecasts that answer are worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecast.accuracy import AccuracyReport, HorizonScores, MemberAccuracy, TargetScores
from forecast.health import counted, lately, learning_health, widths
from forecast.record import ForecastBlock, Snapshot
from forecast.verdicts import UpdateRecord
from tests.forecast.record_scene import snapshot

STEP = 3600


def verdict(slot: int, said: str, change: float | None = None, **scores: float) -> UpdateRecord:
    report = {} if change is None else {"relative_change": change}
    return UpdateRecord(
        sequence=slot,
        time_s=0.0,
        slot=slot,
        verdict=said,
        update_id=f"update-{slot}",
        version=slot,
        parent=1,
        who="gate",
        reasons=(),
        report={**report, **{name: {"wql": wql} for name, wql in scores.items()}},
        lineage={},
    )


def said(updates, *, rollbacks=(), drifts: int = 0) -> dict:
    counts = {
        name: sum(one.verdict == name for one in updates) for name in ("promoted", "rejected")
    }
    accepted = next((one.slot for one in updates if one.verdict != "rejected"), None)
    return counted(updates, counts=counts, accepted=accepted, rollbacks=rollbacks, drifts=drifts)


def tree(slot: int | None, *updates: UpdateRecord, rollbacks=(), step: int = STEP) -> dict:
    registry = said(updates, rollbacks=rollbacks)
    return {
        "step_seconds": step,
        "controller": {"stepped_slot": slot, "learning": True},
        "registry": registry,
    }


def test_a_day_of_learning_is_counted_in_event_time():
    told = learning_health(
        tree(
            100,
            verdict(99, "promoted", -0.06),
            verdict(80, "rejected", 0.5),
            verdict(77, "promoted", -0.02),
            verdict(76, "promoted", -0.9),  # a day and no slot less
            rollbacks=(3, 76, 90),
        )
    )
    assert told == {
        "step_seconds": STEP,
        "learning": True,
        "since_accepted_seconds": STEP,
        "last_day": {"accepted": 2, "rejected": 1},
        "gain": pytest.approx(0.04),
        "rollbacks": 1,
    }


def test_a_longer_step_makes_a_day_of_fewer_slots():
    told = learning_health(tree(100, verdict(98, "promoted"), verdict(90, "promoted"), step=28800))
    assert told["last_day"]["accepted"] == 1
    assert told["gain"] is None  # the gate compared nothing
    assert told["since_accepted_seconds"] == 2 * 28800


@pytest.mark.parametrize("missing", ["registry", "controller"])
def test_what_an_actor_does_not_say_is_not_made_up(missing):
    told = learning_health({**tree(100, verdict(99, "promoted")), missing: None})
    assert told["step_seconds"] == STEP
    assert not {"since_accepted_seconds", "last_day", "gain", "rollbacks"} & told.keys()


def test_before_the_first_version_nothing_was_accepted():
    told = learning_health(tree(100))
    assert "since_accepted_seconds" not in told
    assert told["last_day"] == {"accepted": 0, "rejected": 0}


def test_the_last_verdict_tells_its_validation_losses_and_what_it_gained():
    told = said(
        [verdict(9, "rejected", 0.1, challenger=0.33, champion=0.3), verdict(7, "promoted", -0.1)],
        rollbacks=(8,),
        drifts=2,
    )
    assert told["last_update"] == {
        "update_id": "update-9",
        "slot": 9,
        "promoted": False,
        "gain": -0.1,
        "validation_loss": {"challenger": 0.33, "champion": 0.3},
    }
    assert (told["promoted"], told["rejected"], told["rollbacks"], told["drifts"]) == (1, 1, 1, 2)
    assert told["last_accepted_slot"] == 7


def scores(member: str, wql: float | None, coverage: dict) -> MemberAccuracy:
    target = TargetScores(n=4, mae=2.0, rmse=3.0, wql=wql, coverage=coverage)
    gone = TargetScores(n=0, mae=None, rmse=None, wql=None, coverage={})
    pooled = HorizonScores(None, 4, 2.0, 3.0, wql, coverage, {"cpu": target, "disk": gone})
    return MemberAccuracy(member, pooled, ())


def report(*members: MemberAccuracy) -> AccuracyReport:
    return AccuracyReport(0, 9, None, None, members, ())


def test_errors_and_coverage_are_told_of_who_answers():
    told = lately(
        report(
            scores("ensemble", 0.2, {"0.8": 0.7, "0.4": 0.5}),
            scores("champion", 0.3, {"0.8": 0.1}),
            scores("copy_last", None, {}),
        )
    )
    assert told["wql"] == {"ensemble": 0.2, "champion": 0.3}
    assert told["mae"] == {"cpu": 2.0}
    assert told["rmse"] == {"cpu": 3.0}
    assert told["coverage"] == {"0.8": 0.7, "0.4": 0.5}
    assert told["coverage_gap"] == pytest.approx(-0.1)


def test_where_no_version_answers_only_the_baselines_losses_are_told():
    assert lately(report(scores("copy_last", 0.4, {"0.8": 0.8}))) == {"wql": {"copy_last": 0.4}}


def block(member: str, values_SHTQ) -> ForecastBlock:
    values = np.asarray(values_SHTQ, np.float32)
    servers = tuple(f"s{at}" for at in range(len(values)))
    return ForecastBlock(7, member, 1, servers, ("cpu", "disk"), (0.1, 0.5, 0.9), values)


def test_the_width_is_that_of_the_widest_interval_over_servers_and_steps():
    nan = np.nan
    values = [
        [[[1, 2, 3], [0, 0, 0]], [[1, 2, 5], [nan, nan, nan]]],
        [[[2, 2, 2], [0, 5, 8]], [[nan, nan, nan], [nan, nan, nan]]],
    ]
    found = widths(
        with_blocks(block("champion", np.zeros((2, 2, 2, 3))), block("ensemble", values))
    )
    assert found == {"cpu": 2.0, "disk": 4.0}
    assert widths(with_blocks(block("copy_last", values))) == {}


def with_blocks(*blocks: ForecastBlock) -> Snapshot:
    return replace(snapshot(), blocks=blocks)
