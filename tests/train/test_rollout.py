"""Live pairs of challenger and champion: who goes on, who is back, and what is chance."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from forecast.rollout import Flight
from train.rollout import ERROR, Group, RolloutRules, Trial, decide

HORIZON = 4
RULES = RolloutRules(
    shadow=24,
    canary=12,
    fast_shadow=12,
    fast_canary=4,
    canary_share=0.05,
    horizon=HORIZON,
    threshold=0.05,
)
ROLES = ("web",) * 8 + ("db",) * 2
FLIGHT = Flight(version=5, stage="shadow", began=100, since=100)


def losses(slots, *, worse=0.0, roles=None, noise=0.02, seed=0, first=101):
    """(slot, challenger's, champion's) losses [S, T] of a challenger that is worse by so much."""
    rng = np.random.default_rng(seed)
    by_role = np.array([(roles or {}).get(role, worse) for role in ROLES])
    for slot in range(first, first + slots):
        usual = rng.gamma(20, 0.05, (len(ROLES), 2)) * [1.0, 50.0]
        ratio = 1 + by_role[:, None] + rng.normal(0, noise) + rng.normal(0, noise, usual.shape)
        yield slot, (usual * ratio).astype(np.float32), usual.astype(np.float32)


def tried(stream, flight=FLIGHT, rules=RULES):
    """(trial, verdict, slot) after the first slot at which something is decided, or the last."""
    trial = Trial.fresh(flight)
    for slot, mine, theirs in stream:
        trial = trial.added(slot, mine, theirs, ROLES, HORIZON)
        verdict = decide(trial, flight, rules, slot=slot)
        if verdict.move != "hold":
            break
    return trial, verdict, slot


def test_a_version_that_is_no_worse_goes_on_when_its_stage_is_over():
    for stage, length, move in (("shadow", 24, "advance"), ("canary", 12, "promote")):
        flight = replace(FLIGHT, stage=stage)
        _, verdict, slot = tried(losses(40), flight)
        assert (verdict.move, slot) == (move, 100 + length)
        assert "blocks of live forecasts" in verdict.reasons[0]


def test_after_a_drift_it_goes_the_fast_lane():
    _, verdict, slot = tried(losses(40), replace(FLIGHT, fast=True))
    assert (verdict.move, slot) == ("advance", 112)


def test_one_that_is_far_worse_is_back_long_before_its_stages_end():
    _, verdict, slot = tried(losses(40, worse=1.0))
    assert (verdict.move, slot) == ("back", 100 + HORIZON + 3 - 1)
    assert verdict.reasons[0].startswith("of late it loses +")


def test_one_that_is_worse_for_sure_is_back_before_its_stages_end():
    rules = replace(RULES, shadow=400)
    _, verdict, slot = tried(losses(400, worse=0.2), rules=rules)
    assert verdict.move == "back"
    assert slot < 160
    assert "at least, allowed are +5.00%" in verdict.reasons[0]


def test_a_small_but_sure_loss_waits_for_the_stages_end_and_is_back_then():
    rules = replace(RULES, shadow=200)
    trial, verdict, slot = tried(losses(240, worse=0.03, noise=0.005), rules=rules)
    assert (verdict.move, slot) == ("back", 300)
    assert 0 < trial.every.lower() < trial.every.change < RULES.threshold


def test_a_role_that_is_ruined_speaks_against_a_version_that_is_better_on_the_whole():
    roles = {"web": -0.2, "db": 1.5}
    _, verdict, slot = tried(losses(40, roles=roles, noise=0.01))
    assert (verdict.move, slot) == ("back", 100 + 2 * HORIZON - 1)
    assert "role 'db' is ruined" in " ".join(verdict.reasons)


def test_a_role_that_is_sacrificed_for_sure_speaks_against_it_too():
    rules = replace(RULES, shadow=400)
    roles = {"web": -0.1, "db": 0.35}
    _, verdict, _ = tried(losses(400, roles=roles, noise=0.01), rules=rules)
    assert verdict.move == "back"
    assert "role 'db' is sacrificed" in " ".join(verdict.reasons)


def test_series_that_only_the_champion_answers_for_are_no_ties():
    trial = Trial.fresh(FLIGHT)
    for slot, mine, theirs in losses(8):
        mine[3, 1] = np.nan
        trial = trial.added(slot, mine, theirs, ROLES, HORIZON)
        verdict = decide(trial, FLIGHT, RULES, slot=slot)
        if slot < 100 + HORIZON:
            assert (trial.every.slots, verdict.move) == (0, "hold")  # its first steps came later
    assert verdict.move == "back"
    assert "issued nothing for 1 series" in verdict.reasons[0]


def test_gaps_say_nothing_and_without_a_block_a_stage_does_not_end():
    trial = Trial.fresh(FLIGHT)
    for slot, mine, _ in losses(60):
        gap = np.full_like(mine, np.nan)
        trial = trial.added(slot, gap, gap, ROLES, HORIZON)
    assert trial.every == Group()
    assert decide(trial, FLIGHT, RULES, slot=slot).move == "hold"


def test_the_same_slot_again_changes_nothing_and_the_state_file_holds_it_all():
    trial, _, _ = tried(losses(13), rules=replace(RULES, shadow=999))
    [(slot, mine, theirs)] = losses(1, first=113)
    assert trial.added(slot, mine, theirs, ROLES, HORIZON) == trial
    again = Trial.from_json(json.loads(json.dumps(asdict(trial))))
    assert again == trial
    stream = [*losses(20, first=114, seed=3)]
    for slot, mine, theirs in stream:
        trial, again = (one.added(slot, mine, theirs, ROLES, HORIZON) for one in (trial, again))
    assert again == trial
    json.dumps(trial.to_json(), allow_nan=False)


def test_somebodys_own_table_is_never_moved():
    own = replace(FLIGHT, stage="operator")
    _, verdict, _ = tried(losses(60, worse=3.0), own)
    assert verdict.move == "hold"


def test_the_scale_of_a_target_has_no_say():
    """Both targets count alike, though one is fifty times as large."""
    trial = Trial.fresh(FLIGHT)
    for slot, _, theirs in losses(12):
        mine = theirs * np.array([1.2, 1.0], np.float32)
        trial = trial.added(slot, mine, theirs, ROLES, HORIZON)
    assert trial.every.change == pytest.approx(0.1, rel=1e-5)


def test_the_bound_tightens_with_blocks_and_needs_two():
    one = Group(blocks=1, mean=0.3)
    assert one.lower() == -math.inf
    bounds = [Group(blocks=n, mean=0.1, spread=n * 0.02**2).lower() for n in (2, 4, 8, 16, 64)]
    assert bounds == sorted(bounds)
    assert 0.08 < bounds[-1] < 0.1
    assert Group(blocks=8, mean=0.1, spread=0.01).lower(0.01) < Group(
        blocks=8, mean=0.1, spread=0.01
    ).lower(0.05)


def test_looking_after_every_block_calls_an_equal_version_worse_no_more_often_than_promised():
    """Also where blocks resemble their neighbours, as those of a live stream do."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(400):
        group, state = Group(), 0.0
        for _ in range(60):
            state = 0.25 * state + rng.normal(0, 0.04)
            blocks = group.blocks + 1
            mean = group.mean + (state - group.mean) / blocks
            spread = group.spread + (state - group.mean) * (state - mean)
            group = replace(group, blocks=blocks, mean=mean, spread=spread)
            if group.lower() > 0:
                wrong += 1
                break
    assert wrong / 400 <= ERROR
