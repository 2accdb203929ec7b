"""Every number the system shows about itself, and its name: one table.

    actors' answers ──► status tree ──► /api/v1/status, the status page
                            │ TABLE
                            ├──► /metrics                  fleetcast_steps_total
                            └──► Ray's metrics exporter    ray_fleetcast_steps_total

Counters live in the actors, so every replica shows the same values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from actors import handles
from actors.federated_metrics import FEDERATED
from actors.health_rows import HEALTH
from forecast.config import Config
from forecast.health import learning_health, widths
from forecast.record import CHAMPION, ENSEMBLE, Snapshot

Kind = Literal["gauge", "counter", "histogram"]

PARTS: Mapping[str, tuple[str, str]] = {
    "buffer": (handles.BUFFER, "numbers"),
    "ledger": (handles.LEDGER, "counts"),
    "trainer": (handles.TRAINER, "progress"),
    "training": (handles.TRAINER, "durations"),
    "controller": (handles.CONTROLLER, "status"),
    "registry": (handles.REGISTRY, "summary"),
    "federated": (handles.AGGREGATOR, "numbers"),
    "home_site": (handles.SITE, "status"),
}
"""The parts of the status tree: which actor's which method answers for each, where it is there."""

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Upper bounds of a histogram's buckets, in seconds; the last bucket has none."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric: where it stands in the status tree, and how it is shown.

    With `label`, the value at `path` is a mapping with one number per value of that label.
    """

    path: str
    name: str
    kind: Kind
    unit: str
    help: str
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A row's value now: a number, or the counts of a histogram's buckets."""

    row: Row
    labels: Mapping[str, str]
    value: float | tuple[int, ...]
    total: float = 0.0
    """Sum of what a histogram observed."""


# fmt: off
TABLE: tuple[Row, ...] = tuple(Row(*row) for row in (
    *FEDERATED,
    ("buffer.rows", "fleetcast_buffer_rows", "gauge", "rows", "Slots times servers heard"),
    ("buffer.memory_bytes", "fleetcast_buffer_memory_bytes", "gauge", "bytes", "Size of the grid"),
    ("buffer.log_bytes", "fleetcast_buffer_log_bytes", "gauge", "bytes", "Size of the log on disk"),
    ("buffer.free_bytes", "fleetcast_disk_free_bytes", "gauge", "bytes", "Free where the log is"),
    ("buffer.may_learn", "fleetcast_may_learn", "gauge", "yes or no", "1 while updates may start"),
    ("buffer.servers", "fleetcast_servers", "gauge", "servers", "Servers that are not retired"),
    ("buffer.closed_slot", "fleetcast_closed_slot", "gauge", "slots", "Last slot that is closed"),
    ("buffer.late", "fleetcast_ingest_late_samples_total", "counter", "samples",
     "Samples that came for a closed slot"),
    ("buffer.accepted", "fleetcast_ingest_accepted_samples_total", "counter", "samples",
     "Samples kept since the buffer started"),
    ("buffer.rejected", "fleetcast_ingest_rejected_samples_total", "counter", "samples",
     "Samples the buffer refused: too old, or of one server too many"),
    ("buffer.appends", "fleetcast_ingest_requests_total", "counter", "requests",
     "Requests appended since the buffer started"),
    ("controller.stepped_slot", "fleetcast_stepped_slot", "gauge", "slots", "Last slot stepped"),
    ("controller.steps", "fleetcast_steps_total", "counter", "steps", "Steps since its start"),
    ("controller.outside_windows", "fleetcast_out_of_table_windows_total", "counter", "windows",
     "Windows that the exact form answered: an input beyond the serving form's tables"),
    ("controller.failures", "fleetcast_step_failures_total", "counter", "steps",
     "Steps that failed and were done again"),
    ("controller.step_duration", "fleetcast_step_duration_seconds", "histogram", "seconds",
     "Wall time of a step, with its wait for a training where it waits"),
    ("controller.waited_seconds", "fleetcast_wait_seconds_total", "counter", "seconds",
     "Wall time the controller waited for a slot to close"),
    ("controller.started_at", "fleetcast_controller_start_time_seconds", "gauge", "seconds",
     "When the controller's process started, since 1970"),
    ("controller.restarts", "fleetcast_actor_restarts_total", "counter", "restarts",
     "Restarts of the other actors that the controller has seen", "role"),
    ("controller.breaker.open", "fleetcast_breaker_open", "gauge", "yes or no",
     "1 while the circuit breaker is open or half open: no update starts, or one as a probe"),
    ("controller.gain.ratio", "fleetcast_learning_gain_ratio", "gauge", "ratio",
     "How far the champion's WQL lies below the frozen twin's; role all: the fleet", "role"),
    ("controller.gain.lower", "fleetcast_learning_gain_lower_ratio", "gauge", "ratio",
     "Lower bound of the gain, one-sided, at 95 %", "role"),
    ("controller.gain.upper", "fleetcast_learning_gain_upper_ratio", "gauge", "ratio",
     "Upper bound of the gain, one-sided, at 95 %", "role"),
    ("controller.twin_restores", "fleetcast_twin_restores_total", "counter", "restores",
     "Times the anchor was restored because the champion was worse than the twin"),
    ("controller.notices.sent", "fleetcast_notifications_sent_total", "counter", "notices",
     "Notices that the webhook took, since the controller started"),
    ("controller.notices.failed", "fleetcast_notifications_failed_total", "counter", "notices",
     "Notices that nobody took, since the controller started"),
    ("training.base", "fleetcast_base_training_duration_seconds", "histogram", "seconds",
     "Wall time of the training of a base model"),
    ("training.retrain", "fleetcast_retrain_duration_seconds", "histogram", "seconds",
     "Wall time of the training of a full retrain"),
    ("training.update", "fleetcast_update_duration_seconds", "histogram", "seconds",
     "Wall time of the training of an update"),
    ("training.skipped", "fleetcast_updates_skipped_total", "counter", "updates",
     "Updates with too little that is uncertain or novel, since the trainer started"),
    ("training.windows_saved", "fleetcast_windows_saved_total", "counter", "windows",
     "Windows that active learning left out of updates, since the trainer started"),
    ("registry.champion", "fleetcast_champion_version", "gauge", "version", "Version that answers"),
    ("registry.challenger", "fleetcast_challenger_version", "gauge", "version",
     "Version on its way to everyone, or in somebody's own table"),
    ("registry.accepted", "fleetcast_updates_accepted_total", "counter", "updates",
     "Challengers that the gate let begin a rollout"),
    ("registry.promoted", "fleetcast_updates_promoted_total", "counter", "updates",
     "Challengers promoted"),
    ("registry.rejected", "fleetcast_updates_rejected_total", "counter", "updates",
     "Challengers refused"),
    ("registry.promotion_paused", "fleetcast_promotion_paused", "gauge", "yes or no",
     "1 while promotion is paused, by a person or after a rollback"),
    ("registry.last_update.promoted", "fleetcast_last_update_promoted", "gauge", "yes or no",
     "1 when the last verdict was to promote or to roll out, 0 when to refuse"),
    ("registry.last_update.slot", "fleetcast_last_update_slot", "gauge", "slots",
     "Slot of the last verdict"),
    ("ledger.scored_slots", "fleetcast_ledger_scored_slots_total", "counter", "slots",
     "Slots scored"),
    ("ledger.kept_blocks", "fleetcast_ledger_rows", "gauge", "rows", "Blocks of record kept"),
    ("ledger.bytes", "fleetcast_ledger_bytes", "gauge", "bytes", "Size of the ledger on disk"),
    ("ledger.wql", "fleetcast_wql_ratio", "gauge", "ratio",
     "Weighted quantile loss since the begin of yesterday, all targets and steps", "member"),
    ("forecast.age_seconds", "fleetcast_forecast_age_seconds", "gauge", "seconds",
     "Wall time since the forecasts were published"),
    ("forecast.fallback_share", "fleetcast_fallback_ratio", "gauge", "ratio",
     "Share of the servers that a baseline answers for"),
    *HEALTH,
))
# fmt: on


class Durations:
    """How long something took, as counts by bucket."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def to_json(self) -> dict[str, Any]:
        """Counts by bucket, the bounds of `BOUNDS`, and the sum in seconds."""
        return {"counts": list(self._counts), "sum": self._sum}


def status(config: Config, snapshot: Snapshot | None, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Where the system stands: one tree, null where an actor does not answer."""
    head = {
        "fleet": config.fleet,
        "panel": config.panel.name,
        "step_seconds": config.panel.step,
    }
    return tree_of(head, {**parts, "forecast": published(snapshot)})


def tree_of(head: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """The status tree: `head` with fleet and panel, the parts as plain values, and `health`."""
    tree = dict(head)
    for name, part in parts.items():
        tree[name] = asdict(part) if is_dataclass(part) and not isinstance(part, type) else part
    tree["health"] = learning_health(tree)
    if isinstance(tree.get("registry"), Mapping):  # what health was worked out from, no more
        tree["registry"] = {key: one for key, one in tree["registry"].items() if key != "history"}
    return tree


def published(snapshot: Snapshot | None) -> dict[str, Any] | None:
    """What is said of the forecasts that are published; None before the first."""
    if snapshot is None:
        return None
    moment = datetime.fromtimestamp((snapshot.slot + 1) * snapshot.step_seconds, UTC)
    fallback = sum(member not in (CHAMPION, ENSEMBLE) for member in snapshot.served)
    return {
        "slot": snapshot.slot,
        "as_of": moment.isoformat().replace("+00:00", "Z"),
        "version": snapshot.version,
        "servers": len(snapshot.served),
        "fallback_share": fallback / max(1, len(snapshot.served)),
        "age_seconds": max(0.0, datetime.now(UTC).timestamp() - snapshot.published_at),
        "interval_width": widths(snapshot),
    }


def samples(tree: Mapping[str, Any]) -> Iterator[Sample]:
    """Every value of the table that the tree holds; what is null or absent is left out."""
    own = {"fleet": str(tree["fleet"]), "panel": str(tree["panel"])}
    for row in TABLE:
        found = _lookup(tree, row.path)
        if row.kind == "histogram":
            if isinstance(found, Mapping):
                yield Sample(row, own, tuple(found["counts"]), float(found["sum"]))
        elif row.label is None:
            if isinstance(found, int | float):
                yield Sample(row, own, float(found))
        elif isinstance(found, Mapping):
            for key, value in found.items():
                if isinstance(value, int | float):
                    yield Sample(row, {**own, row.label: str(key)}, float(value))


def exposition(tree: Mapping[str, Any]) -> str:
    """The status as Prometheus text; what is null is left out."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Table(tree))
    return generate_latest(registry).decode()


class _Table(Collector):
    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._tree = tree

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for sample in samples(self._tree):
            row, values = sample.row, list(sample.labels.values())
            family = families.get(row.name) or _family(row, list(sample.labels))
            families[row.name] = family
            if isinstance(family, HistogramMetricFamily) and isinstance(sample.value, tuple):
                names = [*map(str, BOUNDS), "+Inf"]
                buckets = list(zip(names, accumulate(sample.value), strict=True))
                family.add_metric(values, buckets, sum_value=sample.total)
            elif isinstance(family, CounterMetricFamily | GaugeMetricFamily):
                assert isinstance(sample.value, float)
                family.add_metric(values, sample.value)
        yield from families.values()


def _family(row: Row, labels: list[str]) -> Metric:
    families = {
        "gauge": GaugeMetricFamily,
        "counter": CounterMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    family: Metric = families[row.kind](row.name, row.help, labels=labels)
    return family


def _lookup(tree: Mapping[str, Any], path: str) -> Any:
    value: Any = tree
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
