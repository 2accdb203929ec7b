"""What a federation learned, as a model of the home fleet: an artifact that its gate can judge."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from forecast.artifact import Artifact, pack
from forecast.serving_cost import costs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from forecast.model import Model
    from forecast.schema import Schema
    from forecast.windows import RawWindows

_PROBE_WINDOWS = 2


def artifact_of(
    model: Model,
    windows: RawWindows,
    *,
    schema: Schema,
    slot: int,
    since: int,
    seed: int,
    origin: Mapping[str, Any],
) -> Artifact:
    """A site's form of a global version; the same arguments give the same bytes.

    `windows` are some that the site learned from by `slot`; it has learned since the slot `since`.
    `origin` says which version of which site it is, and which round and sites made it. Raises
    ArtifactError for a model that cannot serve.
    """
    lineage = {
        "kind": "federated",
        "parent": None,
        "slot": slot,
        "seed": seed,
        "trained_from_slot": max(0, since),
        "trained_to_slot": int(windows.origin.max()) + windows.horizon,
        # Candidates, and what is the site's own, were compared on windows up to here.
        "validated_to_slot": slot,
        "windows": len(windows),
        "federated": dict(origin),
    }
    moment = datetime.fromtimestamp(slot * schema.step_seconds, UTC)
    return pack(
        model,
        fingerprint=schema.fingerprint(),
        lineage=lineage,
        metrics={},
        serving=costs(model, windows),
        probe=windows.select(np.arange(min(_PROBE_WINDOWS, len(windows)))),
        created_at=moment.isoformat(),
    )
