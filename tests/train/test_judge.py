"""The trainer as judge: what it finds out about a challenger for the gate. Real networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from forecast.artifact import Artifact, pack, unpack
from forecast.canonical import sha256
from forecast.errors import ArtifactError
from forecast.model import Model, ModelSpec, build
from forecast.schema import Schema
from tests.train.windows_scene import CONTEXT, HORIZON, LEVELS, METRICS, TARGETS, spec, windows
from train.jobs import UpdateJob
from train.paired import wql
from train.trainer import Trainer

SCHEMA = Schema(panel="servers", step_seconds=300, metrics=METRICS, targets=TARGETS)
HOLDOUT = windows(6 * HORIZON)


USUAL = {
    "learning_rate": 1e-3,
    "epochs": 1,
    "batch_size": 8,
    "gradient_clip": 0.1,
    "threads": 1,
}


def trainer(learner=USUAL) -> Trainer:
    return Trainer(
        schema=SCHEMA,
        context=CONTEXT,
        horizon=HORIZON,
        quantiles=LEVELS,
        network={},
        roles=None,
        base={},
        learner=learner,
    )


def artifact(seed: int = 0, *, moved: float = 0.0, of: ModelSpec | None = None) -> Artifact:
    """An untrained network, its weights moved by a share of themselves."""
    given = of or spec()
    network = build(given, seed=seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1 + moved)
    return pack(
        Model(given, network),
        fingerprint=SCHEMA.fingerprint(),
        lineage={"kind": "update"},
        metrics={},
        probe=HOLDOUT.select(np.arange(2)),
        created_at="2026-01-01T00:00:00+00:00",
    )


def test_all_three_are_scored_on_the_same_windows_as_loaded():
    found = trainer().judge(artifact(1), HOLDOUT, champion=artifact(2), anchor=artifact(3))
    assert set(found.losses.pinball) == {"challenger", "champion", "anchor"}
    assert (found.losses.blocks, found.losses.windows) == (6, 6 * HORIZON)
    alone = trainer().judge(artifact(2), HOLDOUT)
    assert wql(alone.losses, "challenger") == wql(found.losses, "champion")
    assert alone.moved is None


def test_how_far_an_update_moved_is_a_share_of_the_champions_weights():
    old, new = artifact(1), artifact(1, moved=0.1)
    found = trainer().judge(new, HOLDOUT, champion=old, started_from_champion=True)
    assert 0.09 < found.moved <= 0.1 + 1e-6  # buffers do not move
    assert trainer().judge(old, HOLDOUT, champion=old, started_from_champion=True).moved == 0
    assert trainer().judge(new, HOLDOUT, champion=old).moved is None


def test_an_update_whose_weights_have_another_shape_is_a_fault():
    wider = artifact(1, of=replace(spec(), hidden_size=6))
    found = trainer().judge(wider, HOLDOUT, champion=artifact(1), started_from_champion=True)
    assert found.losses is None
    assert "another shape" in found.fault
    assert trainer().judge(wider, HOLDOUT, champion=artifact(1)).fault is None


def damaged(made: Artifact) -> Artifact:
    return replace(made, weights=made.weights[:-4] + b"\xff\xff\xff\xff")


def test_a_challenger_that_does_not_load_is_a_fault():
    found = trainer().judge(damaged(artifact(1)), HOLDOUT, champion=artifact(2))
    assert found.losses is None
    assert "sha256" in found.fault
    nan = damaged(artifact(1))
    told = {**nan.manifest, "sha256": sha256(nan.weights)}  # the last bytes are a NaN now
    again = trainer().judge(replace(nan, manifest=told), HOLDOUT)
    assert again.losses is None


def test_an_anchor_that_does_not_load_is_left_out_and_a_champion_raises(caplog):
    found = trainer().judge(artifact(1), HOLDOUT, champion=artifact(2), anchor=damaged(artifact(3)))
    assert set(found.losses.pinball) == {"challenger", "champion"}
    assert "the anchor is not compared" in caplog.text
    with pytest.raises(ArtifactError):
        trainer().judge(artifact(1), HOLDOUT, champion=damaged(artifact(2)))
    with pytest.raises(ArtifactError):  # also where the challenger began from it
        trainer().judge(
            artifact(1), HOLDOUT, champion=damaged(artifact(2)), started_from_champion=True
        )


def test_an_anchor_without_a_target_of_today_is_not_compared():
    window = replace(spec().window, targets=TARGETS[:1])
    older = artifact(3, of=replace(spec(), window=window))
    assert unpack(older, fingerprint=None).spec.window.targets == TARGETS[:1]
    found = trainer().judge(artifact(1), HOLDOUT, champion=artifact(2), anchor=older)
    assert set(found.losses.pinball) == {"challenger", "champion"}


def test_an_update_of_an_adapter_alone_goes_all_the_way_to_the_gate():
    made = trainer({**USUAL, "moving": "adapter", "drift_rate_factor": 5.0})
    champion = artifact(1)
    result = made.update(UpdateJob("update-9", 9, 3, 1), champion, HOLDOUT)
    assert result.window_losses.shape == (6 * HORIZON,)
    assert result.report["moving"] == result.artifact.manifest["metrics"]["moving"] == "adapter"
    assert "window_losses" not in result.report
    found = made.judge(result.artifact, HOLDOUT, champion=champion, started_from_champion=True)
    assert 0 < found.moved < 0.01
    assert found.losses.pinball.keys() == {"challenger", "champion"}
    job = UpdateJob("update-10", 10, 3, 2, drifted=True)
    second = made.update(job, result.artifact, HOLDOUT)
    assert second.report["learning_rate"] == pytest.approx(5e-3)
    later = made.judge(
        second.artifact, HOLDOUT, champion=result.artifact, started_from_champion=True
    )
    assert found.moved < later.moved < 0.05
