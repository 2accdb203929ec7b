from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import safetensors.numpy
import torch

from forecast.artifact import PROBE_TOLERANCE, Artifact, pack, unpack
from forecast.canonical import sha256
from forecast.errors import ArtifactError
from forecast.model import Model, ModelSpec, build
from forecast.windows import WindowSpec, transform
from tests.forecast.artifact_scene import with_arrays
from tests.forecast.window_scene import ROLES, gauge, made, rate

METRICS = (gauge("cpu"), rate("net"))
SPEC = ModelSpec(
    WindowSpec(300, 8, 3, METRICS, ("net", "cpu"), ROLES),
    (0.1, 0.5, 0.9),
    hidden_size=4,
    hidden_continuous_size=2,
)
WEIGHT = "network.output_layer.0.bias"


def raw(count: int = 2, seed: int = 0):
    return made(("cpu", "net"), count=count, gaps=0.1, seed=seed, zones=("UTC", "Europe/Berlin"))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(SPEC, build(SPEC, seed=1))


def packed(model: Model, **change) -> Artifact:
    given = {
        "fingerprint": "schema-a",
        "lineage": {"kind": "base", "parent": None, "seed": np.int64(1)},
        "metrics": {"loss": np.float32(0.5), "worst": float("nan"), "looks": (1.0, 0.5)},
        "probe": raw(),
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    return pack(model, **{**given, **change})


@pytest.fixture(scope="module")
def artifact(model) -> Artifact:
    return packed(model)


def with_manifest(artifact: Artifact, *path: str, value: object) -> Artifact:
    """The artifact with one entry of its manifest changed."""
    manifest = copy.deepcopy(artifact.manifest)
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return Artifact(manifest, artifact.weights)


def test_what_is_unpacked_forecasts_the_same_bits(model, artifact):
    stored = Artifact(json.loads(json.dumps(artifact.manifest, allow_nan=False)), artifact.weights)
    loaded = unpack(stored, fingerprint="schema-a")
    assert loaded.spec == SPEC
    windows = raw(count=9, seed=4)
    np.testing.assert_array_equal(loaded.predict(windows), model.serving().predict(windows))
    scaled = transform(windows, SPEC.window)
    np.testing.assert_allclose(loaded.scaled(scaled), model.scaled(scaled), rtol=0, atol=1e-4)


def test_the_same_model_gives_the_same_bytes(model, artifact):
    assert packed(model) == artifact


def test_any_fingerprint_is_taken_when_none_is_asked_for(artifact):
    assert unpack(artifact, fingerprint=None).spec == SPEC


def test_the_manifest_says_what_is_inside(artifact):
    manifest = artifact.manifest
    assert manifest["sha256"] == sha256(artifact.weights)
    assert manifest["lineage"] == {"kind": "base", "parent": None, "seed": 1}
    assert manifest["metrics"] == {"loss": 0.5, "worst": "nan", "looks": [1.0, 0.5]}
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["probe"]["servers"] == ["web-00", "web-01"]


def test_nothing_but_network_and_probe_is_stored(artifact):
    names = set(safetensors.numpy.load(artifact.weights))
    assert {name.split(".")[0] for name in names} == {"network", "probe"}


def test_a_changed_byte_is_refused(artifact):
    data = bytearray(artifact.weights)
    data[-1] ^= 1
    with pytest.raises(ArtifactError, match="weights have sha256"):
        unpack(Artifact(artifact.manifest, bytes(data)), fingerprint="schema-a")


@pytest.mark.parametrize("size", [0, 7, 4000], ids=["empty", "header", "middle"])
def test_truncated_bytes_are_refused_even_with_a_checksum_that_fits(artifact, size):
    data = artifact.weights[:size]
    with pytest.raises(ArtifactError, match=rf"sha256 .* \({size} bytes\)"):
        unpack(Artifact(artifact.manifest, data), fingerprint="schema-a")
    manifest = {**artifact.manifest, "sha256": sha256(data)}
    with pytest.raises(ArtifactError, match="no safetensors"):
        unpack(Artifact(manifest, data), fingerprint="schema-a")


def test_a_foreign_fingerprint_is_refused(artifact):
    with pytest.raises(ArtifactError, match=r"foreign fingerprint: of schema schema-a.*schema-b"):
        unpack(artifact, fingerprint="schema-b")


@pytest.mark.parametrize("number", [0, 2, None, "1"])
def test_an_unknown_format_is_refused(artifact, number):
    changed = with_manifest(artifact, "format", value=number)
    with pytest.raises(ArtifactError, match=r"format .* is unknown, this reads 1"):
        unpack(changed, fingerprint="schema-a")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(model, artifact, value):
    changed = with_arrays(artifact, lambda arrays: np.put(arrays[WEIGHT], 0, value))
    with pytest.raises(ArtifactError, match=r"not finite, first output_layer\.0\.bias"):
        unpack(changed, fingerprint="schema-a")
    broken = model.copy()
    with torch.no_grad():
        broken.network.weights["output_bias"][0, 0] = value
    with pytest.raises(ArtifactError, match="1 weights are not finite"):
        packed(broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.update({WEIGHT: np.zeros(4, np.float32)}),
            r"bias is float32 \(4,\), .*\(3,\)",
        ),
        (lambda a: a.update({WEIGHT: a[WEIGHT].astype(np.float16)}), "bias is float16"),
        (lambda a: a.pop(WEIGHT), r"1 weights are missing, first output_layer\.0\.bias"),
        (lambda a: a.update({"network.x": np.zeros(1, np.float32)}), "1 weights are of no such"),
        (lambda a: a.pop("probe.values"), "probe: cannot be read.*probe.values"),
        (lambda a: a.update({"probe.daily": a["probe.daily"][1:]}), "probe: cannot be read"),
        (lambda a: a.pop("probe.expected"), "probe: None quantiles are stored"),
        (lambda a: a.update({"probe.expected": a["probe.expected"][:1]}), r"probe: \(1, 3, 2, 3\)"),
    ],
    ids=[
        "shape",
        "type",
        "missing",
        "extra",
        "no probe",
        "probe shape",
        "no answer",
        "short answer",
    ],
)
def test_tensors_that_do_not_fit_are_refused(artifact, change, message):
    with pytest.raises(ArtifactError, match=message):
        unpack(with_arrays(artifact, change), fingerprint="schema-a")


def test_another_answer_to_the_probe_is_refused(artifact):
    def moved(by):
        return lambda arrays: np.add(arrays[WEIGHT], by, out=arrays[WEIGHT])

    unpack(with_arrays(artifact, moved(PROBE_TOLERANCE / 2)), fingerprint="schema-a")
    with pytest.raises(ArtifactError, match=r"probe differs: .* 0\.0002 of the scale"):
        unpack(with_arrays(artifact, moved(PROBE_TOLERANCE * 2)), fingerprint="schema-a")


def test_a_probe_answer_that_is_not_a_number_is_refused(artifact):
    changed = with_arrays(artifact, lambda arrays: arrays["probe.expected"].fill(np.nan))
    with pytest.raises(ArtifactError, match="probe differs"):
        unpack(changed, fingerprint="schema-a")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model",), None, "no usable model specification"),
        (("model", "window", "targets"), ["gone"], "no usable model specification"),
        (("model", "hidden"), 3, "no usable model specification"),
        (("model", "hidden_size"), 5, "the network needs float32"),
        (("model", "window", "metrics"), [], "no usable model specification"),
        (("probe", "timezones"), ["UTC", "Mars/Base"], "probe: cannot be computed.*Mars/Base"),
        (("probe",), {}, "probe: cannot be read"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(artifact, path, value, message):
    with pytest.raises(ArtifactError, match=message):
        unpack(with_manifest(artifact, *path, value=value), fingerprint="schema-a")


def test_an_artifact_needs_a_probe(model):
    with pytest.raises(ArtifactError, match="at least one window"):
        packed(model, probe=raw(count=0))
