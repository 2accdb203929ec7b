"""The rows of telemetry about learning health: is it right, is it sure, does learning help.

Beside these, the table has how long updates took, how many were promoted and refused, each
member's WQL, who answers and how old that is.
"""

from __future__ import annotations

from typing import Any

# fmt: off
HEALTH: tuple[tuple[Any, ...], ...] = (
    ("training.cpu_seconds", "fleetcast_training_cpu_seconds_total", "counter", "seconds",
     "CPU time of trainings since the trainer started", "kind"),
    ("training.memory_bytes", "fleetcast_trainer_memory_bytes", "gauge", "bytes",
     "Resident memory of the trainer's process now"),
    ("training.peak_bytes", "fleetcast_trainer_peak_memory_bytes", "gauge", "bytes",
     "Most resident memory of the trainer's process since its start"),
    ("training.gpu_bytes", "fleetcast_training_gpu_memory_bytes", "gauge", "bytes",
     "Most GPU memory of the last training; 0 on a CPU"),
    ("registry.last_update.gain", "fleetcast_last_update_gain_ratio", "gauge", "ratio",
     "WQL that the last challenger took off the champion's on held-out windows"),
    ("registry.last_update.validation_loss", "fleetcast_validation_loss_ratio", "gauge", "ratio",
     "WQL on the held-out windows of the last verdict, of the challenger and the champion",
     "model"),
    ("registry.rollbacks", "fleetcast_rollbacks_total", "counter", "rollbacks",
     "Rollbacks on record"),
    ("registry.drifts", "fleetcast_drifts_total", "counter", "drifts",
     "Confirmed drifts on record"),
    ("health.step_seconds", "fleetcast_step_seconds", "gauge", "seconds", "Length of a slot"),
    ("health.learning", "fleetcast_learning_enabled", "gauge", "yes or no",
     "1 where the config lets the model learn"),
    ("health.since_accepted_seconds", "fleetcast_since_accepted_seconds", "gauge", "seconds",
     "Event time since the gate last accepted a version"),
    ("health.last_day", "fleetcast_updates_last_day", "gauge", "updates",
     "Verdicts in the last 24 hours of event time", "verdict"),
    ("health.gain", "fleetcast_update_gain_ratio", "gauge", "ratio",
     "WQL that the accepted updates of the last 24 hours took off on held-out windows, their mean"),
    ("health.rollbacks", "fleetcast_rollbacks_last_day", "gauge", "rollbacks",
     "Rollbacks in the last 24 hours of event time"),
    ("controller.drift_level", "fleetcast_drift_level_ratio", "gauge", "ratio",
     "How near the servers are to a drift alarm (1), their mean: of the errors, of the features' "
     "level and spread", "channel"),
    ("controller.drift_watching", "fleetcast_drift_watched_servers", "gauge", "servers",
     "Servers that are past the warm-up of drift detection"),
    ("ledger.mae", "fleetcast_mean_absolute_error", "gauge", "of the target",
     "Of the median that answers, since the begin of yesterday, all steps", "target"),
    ("ledger.rmse", "fleetcast_root_mean_square_error", "gauge", "of the target",
     "Of the median that answers, since the begin of yesterday, all steps", "target"),
    ("ledger.coverage", "fleetcast_coverage_ratio", "gauge", "ratio",
     "Share of actuals inside each central interval that answers, since the begin of yesterday",
     "interval"),
    ("ledger.coverage_gap", "fleetcast_coverage_gap_ratio", "gauge", "ratio",
     "That share less the nominal one, of the widest interval"),
    ("forecast.interval_width", "fleetcast_interval_width", "gauge", "of the target",
     "Width of the widest interval that answers, mean over servers and steps", "target"),
)
# fmt: on
"""Path, name, kind, unit, help, and a label where there is one: see `actors.telemetry.Row`."""
