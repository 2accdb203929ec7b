"""Artifacts that were tampered with, to test what finds it."""

from __future__ import annotations

import safetensors.numpy

from forecast.artifact import Artifact
from forecast.canonical import sha256


def with_arrays(artifact: Artifact, change) -> Artifact:
    """The artifact with other tensors and a checksum that fits them."""
    arrays = {name: a.copy() for name, a in safetensors.numpy.load(artifact.weights).items()}
    change(arrays)
    data = safetensors.numpy.save(arrays)
    return Artifact({**artifact.manifest, "sha256": sha256(data)}, data)
