from __future__ import annotations

import json

import numpy as np
import pytest

from forecast.artifact import Artifact, pack, unpack
from forecast.fast.serving import ServingTFT
from forecast.model import Model, ModelSpec, build
from forecast.serving_cost import costs
from forecast.window_spec import WindowSpec
from forecast.windows import transform
from tests.forecast.window_scene import ROLES, gauge, made, rate

METRICS = (gauge("cpu", lower=0.0, upper=8.0), rate("net"))
NAMES = ("cpu", "net")
SPEC = ModelSpec(
    WindowSpec(300, 8, 3, METRICS, NAMES, ROLES), (0.1, 0.5, 0.9), hidden_continuous_size=8
)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(SPEC, build(SPEC, seed=4))


@pytest.fixture(scope="module")
def artifact(model) -> Artifact:
    raw = made(NAMES, count=40, gaps=0.1)
    return pack(
        model,
        fingerprint="schema-a",
        lineage={"kind": "base"},
        metrics={},
        serving=costs(model, raw),
        probe=raw.select(range(2)),
        created_at="2026-01-01T00:00:00+00:00",
    )


def test_the_manifest_says_what_each_precision_costs(artifact):
    found = json.loads(json.dumps(artifact.manifest["serving"], allow_nan=False))
    exact, full, small = found["exact_pinball"], found["float32"], found["int8"]
    assert full["steep"] == 0
    assert full["max_error"] <= 1e-4
    assert full["pinball"] == pytest.approx(exact, rel=2e-4)
    assert 1e-4 < small["max_error"] <= 0.1
    assert small["pinball"] == pytest.approx(exact, rel=0.02)
    assert small["table_bytes"] < full["table_bytes"] / 2


def test_a_version_is_loaded_in_the_precision_that_is_asked_for(model, artifact):
    windows = transform(made(NAMES, count=9, seed=3), SPEC.window)
    wanted = model.scaled(windows)
    full = unpack(artifact, fingerprint=None)
    small = unpack(artifact, fingerprint=None, precision="int8")
    assert isinstance(small.engine, ServingTFT)
    assert isinstance(full.engine, ServingTFT)
    assert small.engine.table_bytes < full.engine.table_bytes / 2
    assert np.abs(full.scaled(windows) - wanted).max() <= 1e-4
    assert 1e-4 < np.abs(small.scaled(windows) - wanted).max() <= 0.1


def test_without_a_precision_it_is_the_exact_form(model, artifact):
    exact = unpack(artifact, fingerprint=None, precision=None)
    windows = transform(made(NAMES, count=9, seed=3), SPEC.window)
    assert exact.engine is None
    np.testing.assert_array_equal(exact.scaled(windows), model.scaled(windows))


def test_a_copy_of_a_served_model_learns_from_the_exact_weights(model, artifact):
    small = unpack(artifact, fingerprint=None, precision="int8")
    windows = transform(made(NAMES, count=9, seed=3), SPEC.window)
    np.testing.assert_array_equal(small.copy().scaled(windows), model.scaled(windows))


def test_a_serving_form_that_went_wrong_gives_way_to_the_exact_one(
    model, artifact, monkeypatch, caplog
):
    honest = ServingTFT.__call__
    monkeypatch.setattr(ServingTFT, "__call__", lambda form, *given: honest(form, *given) + 0.01)
    loaded = unpack(artifact, fingerprint=None)
    windows = transform(made(NAMES, count=9, seed=3), SPEC.window)
    np.testing.assert_array_equal(loaded.scaled(windows), model.scaled(windows))
    assert "the exact form serves" in caplog.text


def test_bytes_that_cost_too_much_give_way_to_float32(artifact, monkeypatch, caplog):
    honest = ServingTFT.__call__

    monkeypatch.setattr(
        ServingTFT, "__call__", lambda form, *given: honest(form, *given) + 0.2 * form.small
    )
    loaded = unpack(artifact, fingerprint=None, precision="int8")
    full = unpack(artifact, fingerprint=None)
    assert isinstance(loaded.engine, ServingTFT)
    assert loaded.engine.table_bytes == full.engine.table_bytes
    assert "in int8 it is 0.2" in caplog.text


def test_a_network_with_curves_too_steep_for_tables_serves_as_fast_as_they_let_it():
    steep = ModelSpec(SPEC.window, SPEC.quantiles, hidden_size=4, hidden_continuous_size=2)
    model = Model(steep, build(steep, seed=3))
    raw = made(NAMES, count=9)
    stored = pack(
        model,
        fingerprint="schema-a",
        lineage={"kind": "base"},
        metrics={},
        serving=costs(model, raw),
        probe=raw.select(range(2)),
        created_at="2026-01-01T00:00:00+00:00",
    )
    loaded = unpack(stored, fingerprint=None)
    assert isinstance(loaded.engine, ServingTFT)
    assert loaded.engine.steep > 0
    told = stored.manifest["serving"]["float32"]
    assert told["steep"] == loaded.engine.steep
    assert told["max_error"] <= 1e-4


def test_windows_beyond_the_tables_are_counted(model):
    served = model.serving()
    windows = transform(made(NAMES, count=5), SPEC.window)
    windows.encoder_cont[2, 3, -1] = 50.0
    found = served.scaled(windows)
    assert served.outside == 1
    np.testing.assert_allclose(found, model.scaled(windows), rtol=0, atol=1e-4)
