"""The numbers of a federation: rows of the telemetry table, labelled by verdict or outcome."""

from __future__ import annotations

from typing import Literal

_Kind = Literal["gauge", "counter"]
_Row = tuple[str, str, _Kind, str, str] | tuple[str, str, _Kind, str, str, str]

# fmt: off
FEDERATED: tuple[_Row, ...] = (
    ("federated.version", "fleetcast_federated_version", "gauge", "version",
     "Last accepted global version"),
    ("federated.updates", "fleetcast_federated_open_updates", "gauge", "updates",
     "Updates accepted in the open round"),
    ("federated.rounds", "fleetcast_federated_rounds_total", "counter", "rounds",
     "Rounds by what became of them: stepped, held; and of steps: accepted, rejected", "outcome"),
    ("federated.verdicts", "fleetcast_federated_updates_total", "counter", "updates",
     "Updates from sites by verdict", "verdict"),
    ("federated.participants", "fleetcast_federated_participants", "gauge", "sites",
     "Sites in the last round"),
    ("federated.median_norm", "fleetcast_federated_median_norm", "gauge", "norm",
     "Median length of the last round's deltas"),
    ("federated.step_norm", "fleetcast_federated_step_norm", "gauge", "norm",
     "Length of the last step, after its cap"),
    ("federated.staleness", "fleetcast_federated_staleness", "gauge", "versions",
     "The most versions that an update of the last round lay back"),
    ("federated.quarantined", "fleetcast_federated_quarantined", "gauge", "sites",
     "Sites that are not heard now"),
)
# fmt: on
