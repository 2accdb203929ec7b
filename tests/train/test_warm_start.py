"""A retrain from the champion's weights: which champions it can begin from, and what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from forecast.artifact import Artifact, pack, unpack
from forecast.model import Model, build
from forecast.schema import Schema
from tests.train.windows_scene import CONTEXT, HORIZON, LEVELS, METRICS, TARGETS, spec, windows
from train.jobs import BaseJob
from train.trainer import Trainer

SCHEMA = Schema(panel="servers", step_seconds=300, metrics=METRICS, targets=TARGETS)
JOB = BaseJob("retrain-9", 9, 7, "retrain", 3)


BASE = {"epochs": 1, "batch_size": 64, "patience": 5, "max_steps": 1, "threads": 1}


def trainer() -> Trainer:
    """One step at a rate at which nothing is learned: what comes out is what it began from."""
    return Trainer(
        schema=SCHEMA,
        context=CONTEXT,
        horizon=HORIZON,
        quantiles=LEVELS,
        network={"hidden_size": 4, "hidden_continuous_size": 2},
        roles=None,
        base={**BASE, "learning_rate": 1e-6},
        learner={
            "learning_rate": 1e-3,
            "epochs": 1,
            "batch_size": 8,
            "gradient_clip": 0.1,
            "threads": 1,
        },
    )


def champion(of=None, *, adapted=False) -> Artifact:
    given = of or spec()
    model = Model(given, build(given, seed=1))
    if adapted:
        model.adapter = model.fresh_adapter()
        torch.nn.init.constant_(model.adapter.weight, 0.1)
    return pack(
        model,
        fingerprint=SCHEMA.fingerprint(),
        lineage={"kind": "base"},
        metrics={},
        probe=windows(2),
        created_at="2026-01-01T00:00:00+00:00",
    )


def distance(one: Artifact, other: Artifact) -> float:
    states = [
        unpack(each, fingerprint=None, precision=None).network.state_dict() for each in (one, other)
    ]
    return max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0])


def test_a_warm_retrain_begins_from_the_champion_keeps_its_roles_and_goes_slowly():
    roles = ("", "db", "web")
    known = champion(replace(spec(), window=replace(spec().window, roles=roles)))
    made = trainer().train_base(JOB, windows(), windows(16, first=10_060), known).artifact
    assert distance(made, known) < 1e-5
    assert made.manifest["lineage"]["start"] == "warm"
    assert made.manifest["metrics"]["learning_rate"] == pytest.approx(1e-7)
    assert unpack(made, fingerprint=None, precision=None).spec.window.roles == roles


def test_from_a_champion_with_an_adapter_its_network_alone_goes_on_and_the_lineage_says_so():
    known = champion(adapted=True)
    made = trainer().train_base(JOB, windows(), windows(16, first=10_060), known).artifact
    assert distance(made, known) < 1e-5
    assert made.manifest["lineage"]["start"] == "warm, without the adapter"
    assert unpack(made, fingerprint=None, precision=None).adapter is None


def test_from_a_champion_of_another_network_it_begins_from_nothing():
    known = champion(replace(spec(), hidden_size=8))
    made = trainer().train_base(JOB, windows(), windows(16, first=10_060), known).artifact
    assert made.manifest["lineage"]["start"] == "scratch"
    assert made.manifest["metrics"]["learning_rate"] == 1e-6


@pytest.mark.parametrize(
    "of",
    [
        replace(spec(), quantiles=(0.2, 0.5, 0.8)),
        replace(spec(), window=replace(spec().window, roles=("", "db"))),
        replace(spec(), window=replace(spec().window, metrics=METRICS[:1], targets=TARGETS[:1])),
    ],
    ids=["other levels", "without a role of today", "without a column of today"],
)
def test_a_champion_that_does_not_fit_todays_fleet_is_no_start(of):
    assert trainer()._warm(champion(of), spec()) is None
    assert trainer()._warm(champion(), spec()) is not None


def test_without_a_start_nothing_is_said_of_one():
    assert trainer()._warm(None, spec()) is None
