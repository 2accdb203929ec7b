"""The one config tree: frozen, from TOML, unknown keys are errors.

Only the edges read it (`cli`, `serve_app.build`, `actors/topology.py`); plain classes get
explicit arguments. Durations are written `30s`, `5m`, `6h`, `14d`; the keys of
`[online_learning]` keep the user's names and integers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from forecast.config_federated import FederatedConfig
from forecast.config_learning import OnlineLearning
from forecast.config_rollout import RolloutConfig
from forecast.config_safety import BreakerConfig, NotifyConfig, TwinConfig
from forecast.config_state import AuditConfig, BackupConfig
from forecast.durations import Duration
from forecast.durations import seconds as seconds
from forecast.schema import Metric, Schema
from forecast.section import Section


class MetricConfig(Section):
    """One metric column; see `forecast.schema.Metric`."""

    name: str = Field(min_length=1)
    unit: str = ""
    kind: Literal["gauge", "counter"] = "gauge"
    lower: float | None = None
    upper: float | None = None
    slot_rule: Literal["mean", "max", "last", "rate"] | None = None
    resolution: float = Field(default=1e-3, gt=0)
    transform: Literal["identity", "log1p"] = "identity"
    aliases: tuple[str, ...] = ()

    def metric(self) -> Metric:
        """The plain metric; a counter fills its slots by rate unless said otherwise."""
        rule = self.slot_rule or ("rate" if self.kind == "counter" else "mean")
        fields = self.model_dump(exclude={"slot_rule"})
        return Metric(**fields, slot_rule=rule)


class Panel(Section):
    """One family of models: what is measured, how often, and what is forecast."""

    name: str = Field(default="servers", pattern=r"^[a-z0-9][a-z0-9-]*$")
    step: Duration = 300
    context: Duration = 6 * 3600
    horizon: Duration = 3600
    quantiles: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    server_labels: tuple[str, ...] = ("server",)
    targets: tuple[str, ...] = Field(min_length=1)
    metrics: tuple[MetricConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Panel:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) < len(names):
            raise ValueError("two metrics have the same name")
        if missing := [target for target in self.targets if target not in names]:
            raise ValueError(f"targets {missing} are no metrics; there are {names}")
        if self.step < 1 or self.context % self.step or self.horizon % self.step:
            raise ValueError("context and horizon must be whole multiples of step")
        if 86400 % self.step:
            raise ValueError("step must divide a day")
        if list(self.quantiles) != sorted(set(self.quantiles)) or 0.5 not in self.quantiles:
            raise ValueError("quantiles must rise and contain 0.5")
        if not 0 < self.quantiles[0] <= self.quantiles[-1] < 1:
            raise ValueError("quantiles must lie between 0 and 1")
        if self.context < 2 * self.step or self.horizon < self.step:
            raise ValueError("context needs two steps, horizon one")
        return self

    @property
    def context_slots(self) -> int:
        """Encoder length in slots."""
        return self.context // self.step

    @property
    def horizon_slots(self) -> int:
        """Decoder length in slots."""
        return self.horizon // self.step

    def schema_of(self) -> Schema:
        """The plain schema of this panel."""
        return Schema(
            panel=self.name,
            step_seconds=self.step,
            metrics=tuple(metric.metric() for metric in self.metrics),
            targets=self.targets,
            server_labels=self.server_labels,
        )


class ClockConfig(Section):
    """Event time: when a slot closes and which samples are too early."""

    allowed_lateness: Duration = 300
    max_clock_skew: Duration = 600
    out_of_order: Duration = 7200


class BufferConfig(Section):
    """What is kept of the stream, and what an acknowledgement means."""

    history_days: int = Field(default=35, ge=1)
    max_servers: int = Field(default=1000, ge=1)
    acknowledge: Literal["write", "fsync"] = "write"
    snapshot_every_mb: int = Field(default=64, ge=1)


class ModelConfig(Section):
    """Hyper-parameters of the TFT; another value needs a new base model."""

    hidden_size: int = Field(default=16, ge=2)
    attention_heads: int = Field(default=1, ge=1)
    lstm_layers: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    hidden_continuous_size: int = Field(default=8, ge=1)
    roles: tuple[str, ...] | None = None
    """Category table of the static role; unset, the roles seen when the base is trained."""


class TrainingConfig(Section):
    """The base model: when the first one is trained, and how."""

    bootstrap_hours: int = Field(default=72, ge=1)
    windows: int = Field(default=8192, ge=64)
    max_steps: int = Field(default=400, ge=1)
    epochs: int = Field(default=50, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0)
    patience: int = Field(default=5, ge=1)
    seed: int = 7
    threads: int = Field(default=2, ge=1)


class TrainerConfig(Section):
    """Where training runs. On one machine nothing needs to be said."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`gpu` always asks the cluster for one; `auto` looks, at each start, whether there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward and backward pass on a GPU; weights and losses stay float32."""
    workers: int = Field(default=0, ge=0)
    """Ray Train workers of a base training or retrain; 0: in the trainer actor's own process."""
    max_workers: int | None = Field(default=None, ge=1)
    """Elastic: as many workers as there is room for, between `workers` and this."""
    cpus_per_worker: float = Field(default=1.0, gt=0)


class EnsembleConfig(Section):
    """Who answers: all members, weighed."""

    weights: Literal["learned", "uniform", "recency"] = "learned"
    """`learned`: by what each was worth lately, per server, target, steps ahead and part of the
    distribution. `uniform`: all alike. `recency`: versions only, 0.5, 0.3 and 0.2 from the newest.
    """

    versions: int = Field(default=3, ge=1)
    """With the strategy `ensemble`: accepted versions before the champion that stay members, beside
    the base."""

    network_hours: int = Field(default=24, ge=0, le=168)
    """How often the member `quantile_network` is fitted anew; 0: there is none."""


class ServeConfig(Section):
    """The HTTP side."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, lt=65536)
    allow_anonymous_loopback: bool = False
    tokens_file: Path | None = None
    max_body_mb: int = Field(default=16, ge=1)
    max_ingest_mb_in_flight: int = Field(default=64, ge=1)
    """Rows on their way in at once, for each gateway and for the buffer; more get a 503."""
    gateway_replicas: int = Field(default=1, ge=1)
    forecaster_replicas: int = Field(default=1, ge=1)
    forecaster_max_batch: int = Field(default=256, ge=1)
    """Windows that a Forecaster computes at once, of however many requests."""
    max_ongoing_requests: int = Field(default=256, ge=1)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    precision: Literal["float32", "int8"] = "float32"
    """Of the serving form on a CPU. `int8` keeps its tables in bytes: about a third of the memory,
    and faster from a hidden size of about 64; each version's manifest says what that costs."""
    forecaster_gpus: float = Field(default=0.0, ge=0)
    """Share of a GPU that each Forecaster replica asks for; 0: it computes on the CPU."""


class LimitsConfig(Section):
    """What a start may need at most (unset: no limit), and the disk that must stay free."""

    memory_mb: int | None = Field(default=None, ge=1)
    disk_mb_per_day: int | None = Field(default=None, ge=1)
    metric_series: int | None = Field(default=None, ge=1)
    cpu_seconds_per_step: float | None = Field(default=None, gt=0)
    learning_free_mb: int = Field(default=1024, ge=0)
    """With less free space below `state_dir` no training starts."""
    ingest_free_mb: int = Field(default=256, ge=0)
    """With less, ingest is refused (503). Forecasts always go on."""


class Config(Section):
    """One fleet's whole configuration."""

    fleet: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9-]*$")
    state_dir: Path
    storage_path: Path | None = None
    state_node: Literal["head", "any"] | dict[str, str] = "head"
    """Where the actors that own `state_dir` run: on the head, on the nodes with these Ray labels,
    or, for a `state_dir` that every node mounts, on any node."""
    panel: Panel
    clock: ClockConfig = ClockConfig()
    buffer: BufferConfig = BufferConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    trainer: TrainerConfig = TrainerConfig()
    online_learning: OnlineLearning = OnlineLearning()
    ensemble: EnsembleConfig = EnsembleConfig()
    rollout: RolloutConfig = RolloutConfig()
    twin: TwinConfig = TwinConfig()
    breaker: BreakerConfig = BreakerConfig()
    notify: NotifyConfig = NotifyConfig()
    serve: ServeConfig = ServeConfig()
    limits: LimitsConfig = LimitsConfig()
    audit: AuditConfig = AuditConfig()
    backup: BackupConfig = BackupConfig()
    federated: FederatedConfig = FederatedConfig()

    @model_validator(mode="after")
    def _history_holds_the_windows(self) -> Config:
        learning, day = self.online_learning, 24
        need = learning.sliding_window_hours + learning.gate_holdout_hours
        if need > self.buffer.history_days * day:
            raise ValueError(
                f"online_learning.sliding_window_hours + gate_holdout_hours = {need} h, but "
                f"buffer.history_days keeps {self.buffer.history_days * day} h"
            )
        if learning.gate_holdout_hours * 3600 < 3 * self.panel.horizon:
            raise ValueError(
                f"online_learning.gate_holdout_hours = {learning.gate_holdout_hours} is shorter "
                f"than three times panel.horizon = {self.panel.horizon} s: too little is held out "
                "to compare on"
            )
        if self.training.bootstrap_hours > self.buffer.history_days * day:
            raise ValueError("training.bootstrap_hours is longer than buffer.history_days")
        if learning.retrain_hours and learning.lookback_days > self.buffer.history_days:
            raise ValueError("online_learning.lookback_days is longer than buffer.history_days")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Config:
        if (self.serve.tls_certificate is None) != (self.serve.tls_key is None):
            raise ValueError("serve.tls_certificate and serve.tls_key go together")
        most = self.trainer.max_workers
        if most is not None and most < max(1, self.trainer.workers):
            raise ValueError("trainer.max_workers is less than trainer.workers")
        return self

    @property
    def artifacts_dir(self) -> Path:
        """Where artifacts live: `storage_path`, or a folder in `state_dir`."""
        return self.storage_path or self.state_dir / "artifacts"

    @property
    def backups_dir(self) -> Path:
        """Below which backups are written: `backup.directory`, or a folder in `state_dir`."""
        return self.backup.directory or self.state_dir / "backups"

    @property
    def panel_dir(self) -> Path:
        """Where this panel's log, ledger, audit and checkpoints live."""
        return self.state_dir / self.panel.name
