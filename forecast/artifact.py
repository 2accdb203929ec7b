"""Artifacts: a model as one JSON manifest and one safetensors file, and back.

Nothing in an artifact can run code. Each holds a probe, some windows and the quantiles the model
gave for them when it was packed; whoever unpacks it computes them again and compares, so a model
that was damaged, converted or built by another version of a library is found before it serves.

torch is imported only where a network is needed: the registry keeps artifacts without it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from forecast.canonical import plain, sha256
from forecast.errors import ArtifactError
from forecast.windows import RawWindows, transform

if TYPE_CHECKING:
    from forecast.adapter import Adapter
    from forecast.fast.serving import Precision
    from forecast.model import Model, ModelSpec

log = logging.getLogger("fleetcast.artifact")

FORMAT = 1
"""Goes up when a manifest or the names of the tensors change their meaning."""

PROBE_TOLERANCE = 1e-4
"""Largest difference of a probe's quantile, in units of its window's scale."""

_SERVING_TOLERANCE = {"float32": PROBE_TOLERANCE, "int8": 0.1}
"""Of the serving forms; what bytes cost is in the manifest, this is for a form that went wrong."""

_NETWORK = "network."
_ADAPTER = "adapter."
_PROBE = "probe."
_EXPECTED = "probe.expected"
_LIBRARIES = ("torch", "pytorch-forecasting", "lightning", "numpy", "safetensors")
_PROBE_ARRAYS = ("origin", "values", "daily", "weekly", "spread")
_PROBE_NAMES = ("servers", "roles", "timezones", "metrics")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored model: what it is, and its weights and probe as safetensors bytes.

    Manifest keys: format, fingerprint (of the schema), model (`ModelSpec.to_json`), adapter (null
    or absent without one, else the features it reads), probe (names of its windows), lineage,
    metrics, serving (what its forms cost; may be absent), known (what was usual in its training;
    with active learning), sha256 (of `weights`), created_at, versions (of libraries).
    """

    manifest: dict[str, Any]
    weights: bytes


def pack(
    model: Model,
    *,
    fingerprint: str,
    lineage: Mapping[str, Any],
    metrics: Mapping[str, Any],
    probe: RawWindows,
    created_at: str,
    serving: Mapping[str, Any] | None = None,
    known: Mapping[str, Any] | None = None,
) -> Artifact:
    """The model as an artifact; the same model and arguments give the same bytes.

    `probe` holds a few windows, `created_at` an ISO 8601 time, `serving` what the serving forms
    cost (`forecast.serving_cost.costs`), `known` what updates of it go by. Raises ArtifactError
    when a weight or a quantile of the probe is not finite: such a model cannot serve.
    """
    from forecast.adapter import FEATURES
    from forecast.model import Model

    if not len(probe):
        raise ArtifactError("an artifact needs at least one window as its probe")
    weights = {name: tensor.numpy(force=True) for name, tensor in model.weights().items()}
    _refuse_not_finite(weights)
    # Of the exact form: what is loaded later, in whatever form, is held against it.
    expected = _answer(Model(model.spec, model.network, adapter=model.adapter), probe)
    if not np.isfinite(expected).all():
        raise ArtifactError("probe: the model's own quantiles are not finite")
    arrays = {
        name if name.startswith(_ADAPTER) else _NETWORK + name: array
        for name, array in weights.items()
    }
    arrays |= {_PROBE + name: getattr(probe, name) for name in _PROBE_ARRAYS}
    stored = {**arrays, _EXPECTED: expected}
    data = safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in stored.items()})
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "model": model.spec.to_json(),
        "adapter": None if model.adapter is None else {"features": list(FEATURES)},
        "probe": {name: list(getattr(probe, name)) for name in _PROBE_NAMES},
        "lineage": lineage,
        "metrics": metrics,
        "serving": serving,
        "sha256": sha256(data),
        "created_at": created_at,
        "versions": {library: version(library) for library in _LIBRARIES},
        **({} if known is None else {"known": known}),
    }
    return Artifact(manifest=plain(manifest), weights=data)


def unpack(
    artifact: Artifact, *, fingerprint: str | None, precision: Precision | None = "float32"
) -> Model:
    """The model of an artifact in its serving form, proved by its probe, which also warms it up.

    Where the serving form is too far from the exact one, the exact form serves, and a warning says
    so; without a `precision` it is the exact form that is asked for. `fingerprint` is the schema's
    it must be of; None takes any. Raises ArtifactError naming what is wrong: an unknown format,
    another schema, a damaged or missing part, a tensor of the wrong shape, a weight that is not
    finite, or a probe whose quantiles come out different.
    """
    manifest = artifact.manifest
    if manifest.get("format") != FORMAT:
        raise ArtifactError(f"format {manifest.get('format')!r} is unknown, this reads {FORMAT}")
    found = manifest.get("fingerprint")
    if fingerprint is not None and found != fingerprint:
        raise ArtifactError(f"foreign fingerprint: of schema {found}, this fleet's {fingerprint}")
    if (digest := sha256(artifact.weights)) != manifest.get("sha256"):
        raise ArtifactError(
            f"weights have sha256 {digest} ({len(artifact.weights)} bytes), "
            f"the manifest says {manifest.get('sha256')}"
        )
    try:
        arrays: Arrays = safetensors.numpy.load(artifact.weights)
    except SafetensorError as error:
        raise ArtifactError(f"weights are no safetensors: {error}") from error
    model = _build(_spec(manifest), arrays)
    model.adapter = _adapter(model, manifest.get("adapter"), arrays)
    probe = _probe(manifest, model.spec, arrays)
    expected = _prove(model, probe, arrays.get(_EXPECTED))
    return model if precision is None else _served(model, probe, expected, precision)


def _served(
    model: Model, probe: RawWindows, expected: NDArray[np.float32], precision: Precision
) -> Model:
    """The serving form, unless the probe says that it is another function."""
    began = time.monotonic()
    served = model.serving(precision=precision)
    took = time.monotonic() - began
    difference = float(np.abs(_answer(served, probe) - expected).max())
    size, steep = served.table_bytes, served.steep
    told = {"precision": precision, "seconds": took, "bytes": size, "steep": steep}
    text = "tables of %d bytes built in %.3f s, %d curves too steep for one"
    log.info(text, size, took, steep, extra=told)
    if difference <= _SERVING_TOLERANCE[precision]:
        return served
    then = "the exact form" if precision == "float32" else "float32"
    log.warning("in %s it is %.3g of the scale off: %s serves", precision, difference, then)
    return model if precision == "float32" else _served(model, probe, expected, "float32")


def _spec(manifest: Mapping[str, Any]) -> ModelSpec:
    """The model's specification; raises ArtifactError when the manifest holds none."""
    from forecast.model import ModelSpec

    try:
        return ModelSpec.from_json(manifest["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"manifest: no usable model specification: {error!r}") from error


def _build(spec: ModelSpec, arrays: Arrays) -> Model:
    """The network with the stored weights; raises ArtifactError where they do not fit it."""
    import torch

    from forecast.fast.exact import FastTFT
    from forecast.model import Model, shape_of

    stored = {
        name.removeprefix(_NETWORK): array
        for name, array in arrays.items()
        if name.startswith(_NETWORK)
    }
    network = FastTFT(shape_of(spec))
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if absent := sorted(set(wanted) - set(stored)):
        raise ArtifactError(f"{len(absent)} weights are missing, first {absent[0]}")
    if extra := sorted(set(stored) - set(wanted)):
        raise ArtifactError(f"{len(extra)} weights are of no such network, first {extra[0]}")
    for name, shape in wanted.items():
        array = stored[name]
        if array.shape != shape or array.dtype != np.float32:
            raise ArtifactError(
                f"weight {name} is {array.dtype} {array.shape}, the network needs float32 {shape}"
            )
    _refuse_not_finite(stored)
    try:
        network.load_state_dict({name: torch.from_numpy(array) for name, array in stored.items()})
    except ValueError as error:
        raise ArtifactError(f"weights: {error}") from error
    return Model(spec, network)


def _adapter(model: Model, said: object, arrays: Arrays) -> Adapter | None:
    """The stored adapter; raises ArtifactError where it and the manifest do not agree."""
    import torch

    from forecast.adapter import FEATURES

    name = f"{_ADAPTER}weight"
    stored = [each for each in arrays if each.startswith(_ADAPTER)]
    if said is None and not stored:
        return None
    if said != {"features": list(FEATURES)} or stored != [name]:
        raise ArtifactError(f"adapter: the manifest says {said!r}, stored are {stored}")
    adapter, array = model.fresh_adapter(), arrays[name]
    if array.shape != tuple(adapter.weight.shape) or array.dtype != np.float32:
        shape = tuple(adapter.weight.shape)
        raise ArtifactError(f"{name} is {array.dtype} {array.shape}, need float32 {shape}")
    _refuse_not_finite({name: array})
    adapter.load_state_dict({"weight": torch.from_numpy(array)})
    return adapter


def _refuse_not_finite(weights: Arrays) -> None:
    broken = sorted(name for name, array in weights.items() if not np.isfinite(array).all())
    if broken:
        raise ArtifactError(f"{len(broken)} weights are not finite, first {broken[0]}")


def _probe(manifest: Mapping[str, Any], spec: ModelSpec, arrays: Arrays) -> RawWindows:
    """The stored windows; raises ArtifactError when they are missing or do not fit each other."""
    try:
        parts: dict[str, Any] = {name: tuple(manifest["probe"][name]) for name in _PROBE_NAMES}
        parts |= {name: arrays[_PROBE + name] for name in _PROBE_ARRAYS}
        return RawWindows(
            **parts,
            context=spec.window.context,
            horizon=spec.window.horizon,
            step_seconds=spec.window.step_seconds,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"probe: cannot be read: {error!r}") from error


def _prove(
    model: Model, probe: RawWindows, expected: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Compare what the model gives for the probe with what it gave when it was packed."""
    try:
        found = _answer(model, probe)
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"probe: cannot be computed: {error!r}") from error
    if expected is None or expected.shape != found.shape:
        shape = None if expected is None else expected.shape
        raise ArtifactError(f"probe: {shape} quantiles are stored, the model gives {found.shape}")
    differences = np.abs(found - expected)
    if not (differences <= PROBE_TOLERANCE).all():  # also when one of them is NaN
        raise ArtifactError(
            f"probe differs: quantiles are up to {differences.max():.3g} of the scale off, "
            f"allowed are {PROBE_TOLERANCE}"
        )
    return expected


def _answer(model: Model, probe: RawWindows) -> NDArray[np.float32]:
    """Quantiles [N, H, T, Q] in units of each window's scale, where a tolerance has a meaning."""
    return model.scaled(transform(probe, model.spec.window))
