"""The output adapter: fresh it is nothing, and what it has learned goes wherever the model goes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from forecast.adapter import FEATURES
from forecast.artifact import Artifact, pack, unpack
from forecast.errors import ArtifactError
from forecast.model import Model
from forecast.serving_cost import costs
from forecast.windows import transform
from tests.forecast.artifact_scene import with_arrays
from tests.train.windows_scene import LEVELS, TARGETS, model, spec, windows

RAW = windows(9)


def adapted(seed: int = 0, size: float = 0.3) -> Model:
    """A model whose adapter has moved."""
    made = model()
    made.adapter = made.fresh_adapter()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made.adapter.weight.normal_(0, size)
    return made


def packed(some: Model) -> Artifact:
    artifact = pack(
        some,
        fingerprint="a",
        lineage={},
        metrics={},
        probe=windows(2),
        created_at="2026-01-01T00:00:00+00:00",
    )
    return Artifact(json.loads(json.dumps(artifact.manifest)), artifact.weights)


@pytest.mark.parametrize("form", ["exact", "float32", "int8"])
def test_a_fresh_one_changes_no_bit(form):
    plain, fresh = model(), model()
    fresh.adapter = fresh.fresh_adapter()
    if form != "exact":
        plain, fresh = plain.serving(precision=form), fresh.serving(precision=form)
    found = transform(RAW, spec().window)
    assert fresh.scaled(found).tobytes() == plain.scaled(found).tobytes()


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_keep_their_order_whatever_was_learned(seed):
    adapter = adapted(seed, size=3.0).adapter
    found = transform(RAW, spec().window)
    rising = np.sort(np.random.default_rng(seed).normal(0, 5, (9, 3, 2, 3)), -1)
    inputs = (torch.from_numpy(found.encoder_cont), torch.from_numpy(found.decoder_cont))
    with torch.no_grad():
        moved = adapter(*inputs, torch.from_numpy(rising.astype(np.float32))).numpy()
    assert np.isfinite(moved).all()
    assert (np.diff(moved) >= -1e-5).all()
    assert (np.diff(adapted(seed, size=3.0).predict(RAW)) >= 0).all()


def test_it_can_put_the_value_of_a_day_ago_in_the_place_of_the_median():
    made, found = model(), transform(RAW, spec().window)
    made.adapter = made.fresh_adapter()
    with torch.no_grad():
        made.adapter.weight[..., 0, FEATURES.index("median")] = -1.0
        made.adapter.weight[..., 0, FEATURES.index("day")] = 1.0
    column = spec().window.reals.index(f"lagd_{TARGETS[1]}")
    got = made.scaled(found)[:, :, 1, LEVELS.index(0.5)]
    np.testing.assert_allclose(got, found.decoder_cont[..., column], atol=1e-5)


def test_the_width_grows_about_the_median():
    made, found = model(), transform(RAW, spec().window)
    before = made.scaled(found)
    made.adapter = made.fresh_adapter()
    with torch.no_grad():
        made.adapter.weight[..., 1, FEATURES.index("one")] = 2 * np.arctanh(np.log(2) / 2)
    after = made.scaled(found)
    np.testing.assert_array_equal(after[..., 1], before[..., 1])
    np.testing.assert_allclose(np.diff(after), 2 * np.diff(before), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", [None, "float32", "int8"])
def test_it_is_stored_with_the_model_and_serves_in_every_form(precision):
    made = adapted()
    artifact = packed(made)
    assert artifact.manifest["adapter"] == {"features": list(FEATURES)}
    loaded = unpack(artifact, fingerprint="a", precision=precision)
    assert torch.equal(loaded.adapter.weight, made.adapter.weight)
    found = transform(RAW, spec().window)
    tolerance = {None: 0.0, "float32": 1e-4, "int8": 0.05}[precision]
    np.testing.assert_allclose(loaded.scaled(found), made.scaled(found), rtol=0, atol=tolerance)
    assert np.abs(loaded.scaled(found) - model().scaled(found)).max() > 0.1
    np.testing.assert_array_equal(loaded.copy().predict(RAW), made.predict(RAW))
    assert costs(made, RAW)["float32"]["max_error"] < 1e-4


def test_a_copys_adapter_is_its_own():
    made = adapted()
    other = made.copy()
    with torch.no_grad():
        other.adapter.weight.add_(1.0)
    assert not torch.equal(other.adapter.weight, made.adapter.weight)


def test_an_artifact_from_before_adapters_loads_as_it_did():
    artifact = packed(model())
    manifest = {name: value for name, value in artifact.manifest.items() if name != "adapter"}
    loaded = unpack(Artifact(manifest, artifact.weights), fingerprint="a", precision=None)
    assert loaded.adapter is None
    np.testing.assert_array_equal(loaded.predict(RAW), model().predict(RAW))


def moved_on(arrays):
    arrays["adapter.weight"] += 0.5


def cut_short(arrays):
    arrays["adapter.weight"] = arrays["adapter.weight"][:2]


def broken(arrays):
    arrays["adapter.weight"][0] = np.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (moved_on, "probe differs"),
        (cut_short, "need float32"),
        (broken, "not finite"),
        (lambda arrays: arrays.pop("adapter.weight"), "the manifest says"),
        (lambda arrays: arrays.update({"adapter.bias": np.zeros(3, np.float32)}), "stored are"),
    ],
)
def test_an_adapter_that_is_not_as_it_was_packed_is_refused(change, said):
    with pytest.raises(ArtifactError, match=said):
        unpack(with_arrays(packed(adapted()), change), fingerprint="a")


def test_an_adapter_that_reads_other_features_is_refused():
    artifact = packed(adapted())
    for said in (None, {"features": ["one", "moon"]}):
        other = Artifact({**artifact.manifest, "adapter": said}, artifact.weights)
        with pytest.raises(ArtifactError, match="adapter: the manifest says"):
            unpack(other, fingerprint="a")
