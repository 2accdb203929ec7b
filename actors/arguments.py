"""What each actor is constructed from: the config tree taken apart, once, here."""

from __future__ import annotations

import time
from typing import Any

from actors.settings import Settings
from forecast.config import Config

_MIB = 1 << 20


def registry(config: Config) -> dict[str, Any]:
    """Constructor arguments of RegistryActor."""
    return {
        "audit_dir": config.panel_dir / "audit",
        "owner": f"fleet {config.fleet}",
        "storage": config.artifacts_dir,
        "panel": config.panel.name,
        "keep_versions": config.online_learning.keep_model_versions,
        "fingerprint": config.panel.schema_of().fingerprint(),
        "now": time.time,
    }


def buffer(config: Config) -> dict[str, Any]:
    """Constructor arguments of BufferActor."""
    return {
        "directory": config.panel_dir / "buffer",
        "schema": config.panel.schema_of(),
        "history_days": config.buffer.history_days,
        "context": config.panel.context_slots,
        "horizon": config.panel.horizon_slots,
        "max_servers": config.buffer.max_servers,
        "allowed_lateness_s": config.clock.allowed_lateness,
        "out_of_order_s": config.clock.out_of_order,
        "acknowledge": config.buffer.acknowledge,
        "snapshot_every_bytes": config.buffer.snapshot_every_mb * _MIB,
    }


def ledger(config: Config) -> dict[str, Any]:
    """Constructor arguments of LedgerActor."""
    return {
        "path": config.panel_dir / "ledger.sqlite",
        "targets": config.panel.targets,
        "levels": config.panel.quantiles,
        "horizon": config.panel.horizon_slots,
        "step_seconds": config.panel.step,
        "retain_slots": max(86400 // config.panel.step, config.panel.horizon_slots),
        "retain_days": config.buffer.history_days,
    }


def trainer(config: Config) -> dict[str, Any]:
    """Constructor arguments of TrainerActor."""
    base, online = config.training, config.online_learning
    return {
        "schema": config.panel.schema_of(),
        "context": config.panel.context_slots,
        "horizon": config.panel.horizon_slots,
        "quantiles": config.panel.quantiles,
        "network": config.model.model_dump(exclude={"roles"}),
        "roles": config.model.roles,
        "base": {
            "epochs": base.epochs,
            "batch_size": base.batch_size,
            "learning_rate": base.learning_rate,
            "patience": base.patience,
            "max_steps": base.max_steps,
            "threads": base.threads,
        },
        "learner": {
            "learning_rate": online.online_learning_rate,
            "epochs": online.online_epochs,
            "batch_size": online.online_batch_size,
            "gradient_clip": online.gradient_clip_val,
            "threads": base.threads,
        },
    }


def settings(config: Config) -> Settings:
    """What the controller decides by."""
    online, slots_per_hour = config.online_learning, 3600 / config.panel.step
    return Settings(
        fleet=config.fleet,
        schema=config.panel.schema_of(),
        levels=config.panel.quantiles,
        context=config.panel.context_slots,
        horizon=config.panel.horizon_slots,
        learning=online.enabled,
        bootstrap=round(config.training.bootstrap_hours * slots_per_hour),
        base_windows=config.training.windows,
        update_every=max(1, online.update_frequency_minutes * 60 // config.panel.step),
        min_samples=online.min_samples_for_update,
        window_hours=online.sliding_window_hours,
        windows_per_update=online.windows_per_update,
        holdout_hours=online.gate_holdout_hours,
        history_hours=config.buffer.history_days * 24,
        validate=online.enable_validation,
        latency=online.update_latency_slots,
        when_late=online.when_late,
        seed=config.training.seed,
    )


def controller(config: Config) -> dict[str, Any]:
    """Constructor arguments of ControllerActor, but for the handles."""
    return {"settings": settings(config), "state_path": config.panel_dir / "state.json"}
