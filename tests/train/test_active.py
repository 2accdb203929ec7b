"""Active learning: which windows are worth an update, and when there is nothing new."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from forecast.artifact import pack
from forecast.errors import NothingNew
from forecast.schema import Schema
from tests.train import windows_scene as scene
from train import active
from train.jobs import UpdateJob
from train.trainer import Trainer

N = 200


@pytest.fixture(scope="module")
def schema():
    return Schema("servers", 300, scene.METRICS, scene.TARGETS)


def windows(seed=0, first=10_000):
    """Two servers, of which the second is always less sure."""
    raw = scene.windows(N, seed=seed, first=first)
    return replace(raw, servers=("web-01", "web-02") * (N // 2))


def forecast(raw, width):
    """Quantiles with intervals of this width [N], ten times as wide for the second server."""
    width = np.asarray(width) * np.where(np.array(raw.servers) == "web-02", 10.0, 1.0)
    levels = np.array([-0.5, 0.0, 0.5])
    made = width[:, None, None, None] * levels * np.ones((len(raw), raw.horizon, 2, 1))
    return (0.5 + made).astype(np.float32)


def usual_widths(seed):
    return np.random.default_rng(seed).lognormal(0, 0.3, N)


@pytest.fixture(scope="module")
def known(schema):
    raw = windows()
    made = active.Known.of(raw, forecast(raw, usual_widths(0)), schema)
    again = active.Known.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made
    return made


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_in_usual_times_so_many_are_chosen_of_each_server(schema, known, threshold):
    raw = windows(seed=1)
    given = forecast(raw, usual_widths(1))
    choice = active.choose(raw, given, schema, threshold=threshold, known=known)
    assert choice.uncertain / N == pytest.approx(1 - threshold, abs=0.1)
    assert choice.novel <= 0.08 * N
    told = choice.report()
    assert (told["given"], told["chosen"]) == (N, len(choice.rows))
    assert told["saved_share"] == pytest.approx(1 - len(choice.rows) / N, abs=1e-4)
    servers = np.array(raw.servers)[choice.rows]
    assert 0.3 < (servers == "web-02").mean() < 0.7  # its wide intervals are usual for it


def test_what_is_uncertain_is_chosen(schema, known):
    raw, width = windows(seed=2), usual_widths(2).clip(0.5, 1.0)
    width[10:90] = 4.0
    choice = active.choose(raw, forecast(raw, width), schema, threshold=0.9, known=known)
    assert set(range(10, 90)) <= set(choice.rows.tolist())
    assert len(choice.rows) < 90


def test_what_was_never_seen_is_chosen_however_sure_the_champion_is(schema, known):
    raw = windows(seed=3)
    values = raw.values.copy()
    values[50:90, : raw.context, 0] += np.linspace(0, 3, raw.context)  # steeper than ever
    values[90:120, 2:11] = np.nan  # gaps
    raw = replace(raw, values=values)
    sure = forecast(raw, np.full(N, 0.1))
    choice = active.choose(raw, sure, schema, threshold=0.7, known=known)
    assert set(range(50, 120)) <= set(choice.rows.tolist())
    assert choice.uncertain == 0


def test_with_nothing_new_there_is_no_update(schema, known):
    raw = windows(seed=4)
    with pytest.raises(NothingNew, match=r"of 200 windows .* needs 30"):
        active.choose(raw, forecast(raw, np.full(N, 0.2)), schema, threshold=0.7, known=known)


def test_a_champion_of_before_is_ranked_against_the_windows_themselves(schema):
    raw = windows(seed=5)
    given = forecast(raw, 0.01 * usual_widths(5))
    choice = active.choose(raw, given, schema, threshold=0.7, known=None)
    assert len(choice.rows) / N == pytest.approx(0.3, abs=0.06)
    losses = choice.spread(np.arange(len(choice.rows), dtype=np.float32))
    assert losses[choice.rows].tolist() == list(range(len(choice.rows)))
    assert np.isnan(losses).sum() == N - len(choice.rows)


def trainer(schema, uncertainty):
    learner = {
        "learning_rate": 1e-3,
        "epochs": 1,
        "batch_size": 16,
        "gradient_clip": 0.1,
        "threads": 1,
    }
    return Trainer(
        schema=schema,
        context=scene.CONTEXT,
        horizon=scene.HORIZON,
        quantiles=scene.LEVELS,
        network={"hidden_size": 4, "hidden_continuous_size": 2},
        roles=("web",),
        base={},
        learner=learner,
        uncertainty=uncertainty,
    )


def test_an_update_learns_from_the_chosen_and_reports_the_saving(schema):
    champion = pack(
        scene.model(),
        fingerprint=schema.fingerprint(),
        lineage={},
        metrics={},
        probe=scene.windows(2),
        created_at="2026-01-01T00:00:00+00:00",
    )
    job, raw = UpdateJob("update-1", 10_300, 7, 1), windows()
    plain = trainer(schema, None).update(job, champion, raw)
    chosen = trainer(schema, 0.7).update(job, champion, raw)
    assert plain.report["windows"] == N
    assert "known" not in plain.artifact.manifest
    told = chosen.report["active"]
    assert chosen.report["windows"] == told["chosen"] < 0.45 * N
    assert np.isfinite(plain.window_losses).all()
    assert np.isfinite(chosen.window_losses).sum() == told["chosen"]
    learned = np.isfinite(chosen.window_losses)
    assert np.allclose(chosen.window_losses[learned], plain.window_losses[learned], rtol=1e-3)
    assert chosen.report["steps"] < 0.5 * plain.report["steps"]
    assert chosen.artifact.manifest["lineage"]["windows"] == told["chosen"]
    # What was usual travels with the version, and the next update goes by it: repeats are not new.
    calm = replace(raw, values=np.tile(raw.values[:1], (N, 1, 1)))
    calm = replace(calm, daily=calm.values, weekly=calm.values)
    known = active.Known.from_json(chosen.artifact.manifest["known"])
    assert set(known.servers) == {"web-01", "web-02"}
    narrow = {**chosen.artifact.manifest, "known": {**known.to_json(), "far": 1e9}}
    narrow["known"]["widths"] = [width + 5 for width in known.widths]
    with pytest.raises(NothingNew):
        trainer(schema, 0.7).update(job, replace(chosen.artifact, manifest=narrow), calm)
