"""Every number the system shows about itself, and its Prometheus name: one table.

Counters live in the actors, so every replica shows the same values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from forecast.config import Config
from forecast.record import Snapshot

# (path in the status, Prometheus name, kind, help)
TABLE: tuple[tuple[str, str, str, str], ...] = (
    ("buffer.rows", "fleetcast_buffer_rows", "gauge", "Slots times servers that were heard"),
    ("buffer.memory_bytes", "fleetcast_buffer_memory_bytes", "gauge", "Memory of the grid"),
    ("buffer.log_bytes", "fleetcast_buffer_log_bytes", "gauge", "Size of the log on disk"),
    ("buffer.late", "fleetcast_ingest_late_samples_total", "counter", "Samples for closed slots"),
    ("buffer.servers", "fleetcast_servers", "gauge", "Servers that are not retired"),
    ("controller.stepped_slot", "fleetcast_stepped_slot", "gauge", "Last slot stepped through"),
    ("controller.steps", "fleetcast_steps_total", "counter", "Steps since the controller started"),
    ("controller.failures", "fleetcast_step_failures_total", "counter", "Steps done again"),
    ("buffer.closed_slot", "fleetcast_closed_slot", "gauge", "Last slot closed by the event clock"),
    ("registry.champion", "fleetcast_champion_version", "gauge", "Version that answers"),
    ("registry.promoted", "fleetcast_updates_promoted_total", "counter", "Challengers promoted"),
    ("registry.rejected", "fleetcast_updates_rejected_total", "counter", "Challengers refused"),
    ("ledger.scored_slots", "fleetcast_ledger_scored_slots_total", "counter", "Slots scored"),
    ("forecast.age_seconds", "fleetcast_forecast_age_seconds", "gauge", "Wall time since publish"),
    ("forecast.fallback_share", "fleetcast_fallback_ratio", "gauge", "Servers a baseline answers"),
)


def status(config: Config, snapshot: Snapshot | None, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Where the system stands: one tree, null where an actor does not answer."""
    tree: dict[str, Any] = {"fleet": config.fleet, "panel": config.panel.name}
    for role, part in parts.items():
        tree[role] = asdict(part) if is_dataclass(part) and not isinstance(part, type) else part
    tree["step_seconds"] = config.panel.step
    if snapshot is not None:
        moment = datetime.fromtimestamp((snapshot.slot + 1) * snapshot.step_seconds, UTC)
        fallback = sum(member != "champion" for member in snapshot.served)
        tree["forecast"] = {
            "slot": snapshot.slot,
            "as_of": moment.isoformat().replace("+00:00", "Z"),
            "version": snapshot.version,
            "servers": len(snapshot.served),
            "fallback_share": fallback / max(1, len(snapshot.served)),
            "age_seconds": max(0.0, datetime.now(UTC).timestamp() - snapshot.published_at),
        }
    else:
        tree["forecast"] = None
    return tree


def exposition(tree: Mapping[str, Any]) -> str:
    """The status as Prometheus text; what is null is left out."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Table(tree))
    return generate_latest(registry).decode()


class _Table(Collector):
    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._tree = tree

    def collect(self) -> Iterator[Metric]:
        labels = {"fleet": str(self._tree["fleet"]), "panel": str(self._tree["panel"])}
        for path, name, kind, said in TABLE:
            value = _lookup(self._tree, path)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            metric = family(name, said, labels=list(labels))
            metric.add_metric(list(labels.values()), value)
            yield metric


def _lookup(tree: Mapping[str, Any], path: str) -> Any:
    value: Any = tree
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
