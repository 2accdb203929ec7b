"""What a config needs of its machines, before anything starts: memory, disk, series, CPU.

The sizes follow from the config alone and hold for a full fleet of `buffer.max_servers`, each
metric sampled once a step. Constants that were measured say in which unit and how; times hold for
one core of the machine they were measured on, `fleetcast plan --measure` takes them anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from forecast.config import Config
from forecast.least_squares import MOST_WINDOWS, least_stride, reach
from forecast.lineup import members_of, twins_of, versions_of
from forecast.metrics import central_intervals
from forecast.needs import MIB, Item, Plan
from forecast.quantile_network import MOST_EXAMPLES
from forecast.retention import DAYS, WEEKS
from forecast.window_spec import WindowSpec

# MiB a process holds beside its data: PSS (pages shared by processes count once) after 400 slots of
# the demo fleet, 8 servers. Linux, Python 3.11.7, Ray 2.60.0, torch 2.13.0 for CPU.
_REGISTRY, _BUFFER, _LEDGER, _CONTROLLER, _TRAINER = 100, 105, 100, 390, 550
_GATEWAY, _INGEST, _FORECASTER, _BOOTSTRAP = 410, 135, 405, 395
_RAY = 620
"""GCS, raylet, agents, dashboard 370; Serve's controller and one proxy 250."""

# Bytes.
_SAMPLE_BYTES = 24
"""Series, time and value, in memory as in the log."""
_LOG_ROW_BYTES = 29
"""Name, role and zone of a server in a request's head; measured with names of 11 letters."""
_NAME_BYTES = 150
"""One server's state in a snapshot, as JSON."""
_AUDIT_BYTES = 5000
"""Audit records of one update: registered, judged, retired; measured over 11 updates."""
_EVIDENCE_BYTES = 15_000
"""What one decision was made from: three models, a day in 24 blocks, 4 roles, 4 targets."""

_TABLE_ROWS = 5_200
"""Nodes of one variable's table after 1,000 steps on real servers; 2,600 before, at most 81,922."""
_LOADED = 3
"""Versions that a controller or Forecaster keeps loaded, of those that issue the champion."""

_ARTIFACT_HEAD = 100_000
"""Names and shapes of about 670 tensors, and the manifest."""
_FOLD = 4.5
"""Bytes an append takes for a moment, or keeps too long, per byte of raw samples; 8,000 series."""
_JOIN = 5.0
"""The same of scoring a slot, per byte of its joined forecasts in float64; 500 servers."""
_SPREAD_HOURS = 48
_FIT_BYTES = 30
"""While one target is fitted, beside its values."""
_REPLAY_BYTES = 60  # of a window in the replay table, beside values, centers and scales
_RECORDED = 1.3
"""A value of a forecast of record in the ledger: 0.7 to 1.6 by member, 24 demo servers."""
_SQLITE_WRITES = 3.0
"""Bytes the ledger writes for a byte it is given, to its log, then to the file; 200 servers."""

# Seconds of one core, process time on a 2-core cloud machine without a GPU.
_APPEND_S = 11e-6
"""One sample into log and grid; 500 servers, 4 metrics, one request a slot."""
_PARSE_S = 6e-6
"""One row of 4 metrics from JSON."""
_CUT_S = 33e-6
"""One server's window."""
_FIT_S, _EXPERT_S = 75e-9, 42e-9
"""Least squares: one value of the examples, once an hour, and one quantile; 3,000 servers."""
_TAUGHT_S, _NETWORK_S = 0.26e-6, 58e-9
"""Quantile network: one input of one target's example in a fit, one quantile; 3,000 servers."""
_TAUGHT_BYTES = 5
"""While it is fitted, of one input; 3,000 servers, 4 targets."""
_SCORE_S, _PUBLISH_S = 50e-9, 5e-9
"""One quantile of a server, target, step and member against what came; one byte of a snapshot."""
_FORWARD_S = 0.03e-6
_FORWARD_HIDDEN_S = 0.0018e-6
"""One window's features and serving form, per slot and column: a constant, more by hidden size."""
_LEARN_FORWARDS = 18.0
"""A window's training step, in forward passes of the serving form; 15 to 23 measured."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of one core for one window: through the network, and through a training step."""

    forward_s: float
    learn_s: float


class Sizes:
    """Bytes and counts of one config's data structures."""

    def __init__(self, config: Config) -> None:
        panel, online = config.panel, config.online_learning
        schema = panel.schema_of()
        self.servers, self.metrics = config.buffer.max_servers, len(panel.metrics)
        self.targets, self.levels = len(panel.targets), len(panel.quantiles)
        self.context, self.horizon = panel.context_slots, panel.horizon_slots
        self.day = 86400 // panel.step
        window = WindowSpec(panel.step, self.context, self.horizon, schema.metrics, schema.targets)
        kept = config.buffer.history_days * self.day
        each = reach(self.day, kept, self.context) // least_stride(self.day)
        examples = min(self.servers * each, MOST_WINDOWS)
        self.learned = examples * (self.context + 2 * self.horizon)
        """Values of one target that least squares is fitted on."""
        network = config.ensemble.network_hours > 0
        inputs = self.context + self.horizon + 24 + self.targets * (self.context // 6 + 8)
        taught = min(examples * self.targets, MOST_EXAMPLES) if network else 0
        self.taught = taught * inputs
        """Inputs of all examples that the quantile network is fitted on, of all targets."""
        self.columns = len(window.reals)
        self.read_columns = len(window.known_reals) + len(window.unknown_reals)
        self.length = self.context + self.horizon

        ring = (config.buffer.history_days + 1) * self.day
        self.grid = self.servers * ring * (4 * self.metrics + 2) + 8 * ring
        """The buffer's grid."""
        self.grid_stored = self.servers * ring * (4 * self.metrics + 8) + 8 * ring
        """The same in its snapshot, where slots stand whole."""
        kept_slots = -(-config.clock.out_of_order // panel.step)
        self.raw = self.servers * self.metrics * kept_slots * _SAMPLE_BYTES
        self.window = 4 * self.metrics * (3 * self.length + 1) + _NAME_BYTES
        """One window as it is cut: its values, those a day and a week before."""
        self.features = 4 * (self.length * self.columns + self.horizon * self.targets)
        """One window as the network reads it."""
        self.replayed = online.replay_buffer_size if online.strategy == "replay" else 0
        self.replay = self.replayed * (6 * self.metrics * (self.length + 2) + _REPLAY_BYTES)
        values = self.servers * self.horizon * self.targets * self.levels
        self.block, self.recorded = 4 * values, _RECORDED * values
        """One member's forecasts of record at one slot, in memory and in the ledger."""
        self.versions, self.members = versions_of(config), members_of(config)
        """How many issue forecasts of record, at most."""
        self.twins = twins_of(config)
        width = 5 + len(central_intervals(panel.quantiles))
        self.sums = 8 * self.servers * self.targets * self.horizon * width
        """One member's sums of one day, by server."""
        self.report = 8 * self.members * self.servers * self.targets
        self.snapshot = self.servers * self.window + self.members * self.block
        self.holdout = self.servers * (online.gate_holdout_hours * 3600 // panel.horizon + 1)
        """Windows a gate compares on."""
        self.log_slot = self.servers * (self.metrics * _SAMPLE_BYTES + _LOG_ROW_BYTES)
        """Log bytes of one slot of the fleet."""
        hidden, model = config.model.hidden_size, config.model
        # Least squares over 72 networks: within 15 %.
        weights = (49 + 17 * model.lstm_layers) * hidden**2
        weights += 86 * (self.columns + len(window.known_reals)) * model.hidden_continuous_size
        self.artifact = 4 * weights + _ARTIFACT_HEAD + 2 * self.window
        a_row = hidden + 8 if config.serve.precision == "int8" else 4 * hidden
        variables = self.columns + len(window.known_reals)
        self.tables = variables * _TABLE_ROWS * a_row
        """The serving form of a version that is loaded."""
        updating = online.enabled and online.strategy != "periodic"
        self.updates = 1440 / online.update_frequency_minutes if updating else 0.0
        """Updates a day, at most, but for those that a drift asks for."""
        retraining = online.enabled and online.retrain_hours
        self.retrains = 24 / online.retrain_hours if retraining else 0.0


def plan(config: Config, *, series: Mapping[str, int], rates: Rates | None = None) -> Plan:
    """The needs of a config.

    `series` says how many metric series it shows, by where; without `rates` the constants hold.
    """
    sizes = Sizes(config)
    items = [*_memory(config, sizes), *_disk(config, sizes)]
    items += [Item("metric_series", what, count, "Prometheus") for what, count in series.items()]
    items += _cpu(config, sizes, rates or _rates(config, sizes))
    return Plan(tuple(items), config.limits.model_dump())


def _memory(config: Config, sizes: Sizes) -> Iterator[Item]:
    serve, keeping = config.serve, _state_node(config)
    gateways, replicas = serve.gateway_replicas, serve.forecaster_replicas
    windows = config.training.windows + sizes.holdout
    learned = windows * sizes.features
    loaded = _LOADED + sizes.versions - 1 + bool(sizes.twins)
    joined = 8 * sizes.members * sizes.block // 4  # one step of each open block, in float64
    spread = _SPREAD_HOURS * sizes.servers * (4 * sizes.metrics + 1)
    parts: list[tuple[str, float, float, str]] = [
        # what, MiB of processes, bytes of data, where
        ("Ray and Serve", _RAY, 0, "head"),
        ("bootstrap", _BOOTSTRAP, 0, "any node"),
        ("registry", _REGISTRY, 2 * sizes.artifact, keeping),
        ("buffer", _BUFFER, spread, keeping),
        ("buffer grid", 0, sizes.grid, keeping),
        # It reads its snapshot whole; growing takes no more.
        ("buffer grid at a start", 0, sizes.grid_stored, keeping),
        ("buffer least squares", 0, sizes.learned * (4 * sizes.targets + _FIT_BYTES), keeping),
        ("buffer quantile network", 0, sizes.taught * _TAUGHT_BYTES, keeping),
        ("buffer raw samples", 0, sizes.raw * (1 + _FOLD), keeping),
        ("replay table, also at a start", 0, 2 * sizes.replay, keeping),
        # Blocks until they mature, the open day's sums with those of the slot, the snapshot packed.
        ("ledger", _LEDGER, 2 * sizes.snapshot + 2 * sizes.members * sizes.sums, keeping),
        ("ledger open forecasts", 0, sizes.horizon * sizes.members * sizes.block, keeping),
        ("ledger scoring", 0, joined * _JOIN, keeping),
        ("controller", _CONTROLLER, 2 * sizes.snapshot + loaded * sizes.tables, keeping),
        ("trainer", _TRAINER * (1 + config.trainer.workers), learned, "any node"),
        ("gateways", _GATEWAY * gateways, 2 * gateways * sizes.snapshot, "any node"),
        ("ingest", _INGEST, 0, "any node"),
        # So much for each gateway and for the buffer before more is refused.
        ("rows on their way in", serve.max_ingest_mb_in_flight * (gateways + 1), 0, "any node"),
        ("forecasters", _FORECASTER * replicas, _LOADED * sizes.tables * replicas, "any node"),
        ("windows in shared memory", 0, windows * sizes.window + 2 * sizes.snapshot, keeping),
    ]
    for what, mib, data, where in parts:
        yield Item("memory_mb", what, mib + data / MIB, where)


def _disk(config: Config, sizes: Sizes) -> Iterator[Item]:
    """Bytes written a day, and bytes kept at most."""
    online, every = config.online_learning, config.buffer.snapshot_every_mb * MIB
    log = sizes.log_slot * sizes.day
    blocks, reports = sizes.members * sizes.recorded, sizes.report
    retained, sums = max(sizes.day, sizes.horizon), sizes.members * sizes.sums
    windows = sizes.servers * sizes.window  # a snapshot's blocks are there already
    a_day = _SQLITE_WRITES * sizes.day
    # Aliased ones too, and those of days and weeks.
    versions = 3 + DAYS + WEEKS + max(online.keep_model_versions, sizes.versions)
    trainings = sizes.updates + sizes.retrains
    audit, evidence = trainings * _AUDIT_BYTES, trainings * _EVIDENCE_BYTES
    taken = 1 / 35 + online.windows_per_update * sizes.updates / max(1, sizes.replayed)
    parts: list[tuple[str, float, float]] = [
        ("buffer log", log, every),
        # While a snapshot is written the one before it is still there.
        ("buffer snapshots", log / every * sizes.grid_stored, 2 * sizes.grid_stored),
        # Windows of updates, and a 35th of it as the steady sample: in the log, then the snapshot.
        ("replay table", 2 * taken * sizes.replay, 3 * sizes.replay),
        ("ledger forecasts", blocks * a_day, blocks * retained),
        ("ledger reports", reports * a_day, reports * retained),
        ("ledger sums", sums * a_day, sums * config.buffer.history_days),
        ("ledger snapshot", windows * a_day, 2 * windows),
        ("versions", trainings * sizes.artifact, versions * sizes.artifact),
        ("audit log", audit, 365 * audit),  # it is never cut: a year of it
        ("decision evidence", evidence, config.audit.reproduce_days * evidence),
    ]
    for what, written, kept in parts:
        where = "storage_path" if what == "versions" and config.storage_path else "state_dir"
        yield Item("disk_mb_per_day", what, written / MIB, where)
        yield Item("disk_mb", what, kept / MIB, where)


def _cpu(config: Config, sizes: Sizes, rates: Rates) -> Iterator[Item]:
    online, keeping = config.online_learning, _state_node(config)
    servers, samples = sizes.servers, sizes.servers * sizes.metrics
    cells = sizes.members * sizes.block // 4  # one step of each open block
    fitted = sizes.learned * sizes.targets * _FIT_S * min(1.0, config.panel.step / 3600)
    lessons = online.online_epochs * online.windows_per_update * rates.learn_s
    judged = 3 * sizes.holdout * rates.forward_s
    retrain = config.training.max_steps * config.training.batch_size * rates.learn_s
    parts = [
        ("parse rows", servers * _PARSE_S, "any node"),
        ("keep samples", samples * _APPEND_S, keeping),
        ("score", cells * _SCORE_S, keeping),
        ("forecast of record", servers * (_CUT_S + sizes.versions * rates.forward_s), keeping),
        ("twin", sizes.twins * (_CUT_S + rates.forward_s), keeping),
        ("least squares", fitted + sizes.block // 4 * _EXPERT_S, keeping),
        ("quantile network", _network_s(config, sizes), keeping),
        ("publish", (2 + config.serve.gateway_replicas) * sizes.snapshot * _PUBLISH_S, keeping),
        ("updates", (lessons + judged) * sizes.updates / sizes.day, "trainer"),
        ("retrains", retrain * sizes.retrains / sizes.day, "trainer"),
    ]
    for what, amount, where in parts:
        yield Item("cpu_seconds_per_step", what, amount, where)


def _network_s(config: Config, sizes: Sizes) -> float:
    """Seconds a step, a fit spread over the hours to the next one."""
    if not sizes.taught:
        return 0.0
    fitted = sizes.taught * _TAUGHT_S * config.panel.step / (3600 * config.ensemble.network_hours)
    return fitted + sizes.block // 4 * _NETWORK_S


def _rates(config: Config, sizes: Sizes) -> Rates:
    forward = _FORWARD_S + _FORWARD_HIDDEN_S * config.model.hidden_size
    forward *= sizes.length * sizes.read_columns
    return Rates(forward, _LEARN_FORWARDS * forward)


def _state_node(config: Config) -> str:
    """Where the actors that own `state_dir` run, in words."""
    if isinstance(config.state_node, str):
        return "head" if config.state_node == "head" else "any node"
    return ", ".join(f"{name}={value}" for name, value in sorted(config.state_node.items()))
