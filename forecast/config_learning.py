"""The keys of `[online_learning]`: what is learned, how, when, and what waits for what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from forecast.hours import Hours
from forecast.section import Section


def _hours(text: str) -> str:
    if text != "learned":
        Hours.parse(text)
    return text


class Scheduling(Section):
    """When updates and retrains start, and what they leave to forecasts."""

    update_window: Annotated[str, AfterValidator(_hours)] | None = None
    """Hours in which trainings may start: `22:00-06:00` (UTC), `22:00-06:00 Europe/Berlin`, or
    `learned`, the 8 hours in a row in which the fleet is least busy; unset: at any time."""
    update_nice: int = Field(default=0, ge=0, le=19)
    """How far an update's thread gives way to Serve, as `nice` counts; full trainings do by 10."""
    update_threads: int | None = Field(default=None, ge=1)
    """Torch's threads in an update; unset, as many as `training.threads`."""
    retrain_start: Literal["scratch", "warm"] = "scratch"
    """A retrain begins from nothing, or from the champion's weights at a tenth of the rate."""
    deploy_hold_minutes: int = Field(default=120, ge=0)
    """How long after a deploy a drift alarm of its servers is held."""


class OnlineLearning(Scheduling):
    """How the model keeps learning; names and integers are the user's."""

    enabled: bool = False
    strategy: Literal["periodic", "sliding_window", "replay", "ensemble"] = "sliding_window"
    """`ensemble` learns as `sliding_window`, and accepted versions stay as weighted members."""
    update_frequency_minutes: int = Field(default=60, ge=1)
    min_samples_for_update: int = Field(default=1000, ge=1)
    sliding_window_hours: int = Field(default=168, ge=1)
    replay_buffer_size: int = Field(default=50_000, ge=64)
    replay_sample_ratio: float = Field(default=0.3, gt=0, lt=1)
    """`replay`: windows that its table holds, and the share of an update's that come from it."""
    active_learning: bool = False
    uncertainty_threshold: float = Field(default=0.7, ge=0, lt=1)
    """Learn only from windows that are novel, or wide: from this rank among their server's on."""
    online_learning_rate: float = Field(default=1e-3, gt=0)
    online_epochs: int = Field(default=5, ge=1)
    online_batch_size: int = Field(default=64, ge=1)
    gradient_clip_val: float = Field(default=0.1, gt=0)
    moving: Literal["full", "last_layers", "adapter"] = "full"
    micro_batch_size: int = Field(default=0, ge=0)
    warm_restart_steps: int = Field(default=0, ge=0)
    drift_learning_rate_factor: float = Field(default=1.0, gt=0)
    ewc_weight: float = Field(default=0.0, ge=0)
    ewc_decay: float = Field(default=0.95, gt=0, le=1)
    distillation_weight: float = Field(default=0.0, ge=0)
    """What moves, and what holds it back: see `train.recipes.Recipe`."""
    enable_validation: bool = True
    """Off, only what is broken, moved too far or covers worse is kept out, not what errs more."""
    validation_threshold: float = Field(default=0.05, gt=0, lt=1)
    """How much worse than champion and anchor a challenger may be at its upper bound."""
    max_weight_move: float = Field(default=0.25, gt=0)
    """How far one update may move the weights, as a share of their norm; usual is 0.02."""
    enable_rollback: bool = True
    """What is worse live goes back by itself: a version on its way (`[rollout]`), and learning that
    falls behind its base (`[twin]`). Off: by hand only, once it answers for somebody."""
    keep_model_versions: int = Field(default=5, ge=1)
    windows_per_update: int = Field(default=256, ge=1)
    drift_detection_enabled: bool = True
    drift_detector: Literal["cusum", "window", "adwin", "kswin", "page_hinkley"] = "cusum"
    drift_window_size: int = Field(default=1000, ge=12)
    drift_threshold: float = Field(default=0.15, gt=0)
    drift_false_alarm_slots: int = Field(default=20_000, ge=1000)
    """Wanted mean time between false alarms of a server (`cusum`; the two above: `window`)."""
    drift_fleet_share: float = Field(default=0.5, gt=0, le=1)
    drift_update_share: float = Field(default=0.25, gt=0, le=1)
    """Share of the servers that drift within a day: the fleet drifts; an update starts at once."""
    retrain_interval_hours: int = Field(default=0, ge=0)
    """Event time between full retrains on `lookback_days`; 0: none by itself, but 24 where the
    strategy is `periodic`."""
    lookback_days: int = Field(default=30, ge=1)
    gate_holdout_hours: int = Field(default=24, ge=1)
    update_latency_slots: int = Field(default=1, ge=0)
    when_late: Literal["continue", "wait"] = "continue"
    """An update not ready at its slot: go on and take it when it comes, or wait for it (replay)."""

    @property
    def retrain_hours(self) -> int:
        """Hours between full retrains; 0: none."""
        return self.retrain_interval_hours or (24 if self.strategy == "periodic" else 0)
