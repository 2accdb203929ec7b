"""What each actor is constructed from: the config tree taken apart, once, here."""

from __future__ import annotations

import time
from typing import Any

import ray

from actors.settings import Settings
from forecast.clock import slots_per_day
from forecast.config import Config
from forecast.derived import Limits
from forecast.lineup import versions_beside
from train.breaker import BreakerRules
from train.drift_rules import DriftRules
from train.rollout import RolloutRules

_MIB = 1 << 20


def _owner(config: Config) -> str:
    """Whose the state is, as a lock tells others."""
    return f"fleet {config.fleet}"


def registry(config: Config) -> dict[str, Any]:
    """Constructor arguments of RegistryActor."""
    return {
        "audit_dir": config.panel_dir / "audit",
        "segment_bytes": config.audit.segment_mb * _MIB,
        "evidence_slots": evidence(config)["keep_slots"],
        "owner": _owner(config),
        "storage": config.artifacts_dir,
        "panel": config.panel.name,
        "keep_versions": config.online_learning.keep_model_versions,
        "keep_beside": versions_beside(config),
        "step_seconds": config.panel.step,
        "open_slots": config.panel.horizon_slots,
        "fingerprint": config.panel.schema_of().fingerprint(),
        "now": time.time,
    }


def evidence(config: Config) -> dict[str, Any]:
    """Constructor arguments of the files that decisions are made again from."""
    days = config.audit.reproduce_days
    return {
        "directory": config.panel_dir / "evidence",
        "keep_slots": days * slots_per_day(config.panel.step),
    }


def stream(config: Config) -> dict[str, Any]:
    """Constructor arguments of the plain buffer."""
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
        "deploy_hold_s": config.online_learning.deploy_hold_minutes * 60,
    }


def buffer(config: Config) -> dict[str, Any]:
    """Constructor arguments of BufferActor: of the buffer, and what guards it."""
    return {
        **stream(config),
        "owner": _owner(config),
        "learning_free_bytes": config.limits.learning_free_mb * _MIB,
        "ingest_free_bytes": config.limits.ingest_free_mb * _MIB,
        "replay_windows": _replay(config)[0],
    }


def _replay(config: Config) -> tuple[int, float]:
    """Windows of the replay table and its share of an update; 0 where no strategy draws from it."""
    online = config.online_learning
    used = online.strategy == "replay"
    return (online.replay_buffer_size, online.replay_sample_ratio) if used else (0, 0.0)


def ledger(config: Config) -> dict[str, Any]:
    """Constructor arguments of LedgerActor."""
    return {
        "path": config.panel_dir / "ledger.sqlite",
        "owner": _owner(config),
        "acknowledge": config.buffer.acknowledge,
        "targets": config.panel.targets,
        "levels": config.panel.quantiles,
        "horizon": config.panel.horizon_slots,
        "step_seconds": config.panel.step,
        "retain_slots": max(86400 // config.panel.step, config.panel.horizon_slots),
        "retain_days": config.buffer.history_days,
        "weights": config.ensemble.weights,
        "limits": Limits.of(config.panel.schema_of()),
    }


def trainer(config: Config) -> dict[str, Any]:
    """Constructor arguments of the plain trainer, and of where it trains."""
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
            "moving": online.moving,
            "micro_batch_size": online.micro_batch_size,
            "warm_restart_steps": online.warm_restart_steps,
            "drift_rate_factor": online.drift_learning_rate_factor,
            "ewc_weight": online.ewc_weight,
            "ewc_decay": online.ewc_decay,
            "distillation_weight": online.distillation_weight,
            "threads": online.update_threads or base.threads,
        },
        "device": config.trainer.device,
        "precision": config.trainer.precision,
        "serving": config.serve.precision,
        "uncertainty": online.uncertainty_threshold if online.active_learning else None,
        "workers": _workers(config) if config.trainer.workers else None,
    }


def trainer_actor(config: Config) -> dict[str, Any]:
    """Constructor arguments of TrainerActor: of the trainer, and how its updates give way."""
    return {**trainer(config), "update_nice": config.online_learning.update_nice}


def with_workers(given: dict[str, Any], config: Config) -> dict[str, Any]:
    """The trainer's arguments for a job, which always trains on Ray Train workers."""
    return {**given, "workers": _workers(config)}


def _workers(config: Config) -> dict[str, Any]:
    """Fields of `train.distributed.Workers`, plain so that they travel and compare."""
    asked = config.trainer
    return {
        "least": max(1, asked.workers),
        "most": asked.max_workers,
        "cpus": asked.cpus_per_worker,
        "device": asked.device,
        "precision": asked.precision,
        "storage": str((config.panel_dir / "train").resolve()),
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
        online=online.strategy != "periodic",
        update_window=online.update_window,
        retrain_every=round(online.retrain_hours * slots_per_hour),
        retrain_start=online.retrain_start,
        lookback_hours=online.lookback_days * 24,
        min_samples=online.min_samples_for_update,
        window_hours=online.sliding_window_hours,
        windows_per_update=online.windows_per_update,
        replay_ratio=_replay(config)[1],
        holdout_hours=online.gate_holdout_hours,
        history_hours=config.buffer.history_days * 24,
        validate=online.enable_validation,
        validation_threshold=online.validation_threshold,
        max_weight_move=online.max_weight_move,
        latency=online.update_latency_slots,
        when_late=online.when_late,
        seed=config.training.seed,
        beside=versions_beside(config),
        network_every=-(-config.ensemble.network_hours * 3600 // config.panel.step),
        precision=config.serve.precision,
        twin_share=config.twin.share if config.twin.enabled else 0.0,
        # Without an automatic way back the twin only tells.
        twin_hours=config.twin.hours if config.online_learning.enable_rollback else 0,
        breaker=breaker_rules(config) if config.breaker.enabled else None,
        drift=drift_rules(config) if online.drift_detection_enabled else None,
        rollout=rollout_rules(config) if config.rollout.enabled else None,
    )


def rollout_rules(config: Config) -> RolloutRules:
    """How an accepted version goes to everyone."""
    asked, step = config.rollout, config.panel.step
    lengths = {
        name: -(-getattr(asked, name) // step)
        for name in ("shadow", "canary", "fast_shadow", "fast_canary")
    }
    return RolloutRules(
        **lengths,
        canary_share=asked.canary_share,
        horizon=config.panel.horizon_slots,
        threshold=config.online_learning.validation_threshold,
        automatic=config.online_learning.enable_rollback,
    )


def drift_rules(config: Config) -> DriftRules:
    """What drift is told by: blocks of a horizon, and of an hour at least."""
    online, schema = config.online_learning, config.panel.schema_of()
    return DriftRules(
        detector=online.drift_detector,
        targets=schema.targets,
        resolutions=tuple(schema.metric(name).resolution for name in schema.targets),
        step_seconds=config.panel.step,
        block=max(config.panel.horizon_slots, 3600 // config.panel.step),
        window=online.drift_window_size,
        threshold=online.drift_threshold,
        false_alarm_slots=online.drift_false_alarm_slots,
        fleet_share=online.drift_fleet_share,
        update_share=online.drift_update_share,
        seed=config.training.seed,
    )


def breaker_rules(config: Config) -> BreakerRules:
    """When learning stops after failures."""
    per_hour = max(1, 3600 // config.panel.step)
    return BreakerRules(
        failures=config.breaker.failures,
        window=config.breaker.window_hours * per_hour,
        cooldown=config.breaker.cooldown_hours * per_hour,
    )


def controller(config: Config) -> dict[str, Any]:
    """Constructor arguments of ControllerActor, but for the handles."""
    return {
        "settings": settings(config),
        "state_path": config.panel_dir / "state.json",
        "webhook": webhook(config),
        "federated": config.federated.enabled,
        "home": config.federated.home.site is not None,
    }


def webhook(config: Config) -> dict[str, Any] | None:
    """Constructor arguments of the webhook; None where there is none."""
    notify = config.notify
    if notify.webhook_url is None:
        return None
    url = notify.webhook_url.get_secret_value()
    return {"url": url, "timeout_s": notify.timeout_seconds, "tries": notify.tries}


def trainer_resources(config: Config) -> dict[str, float]:
    """What the trainer asks of the cluster; `auto` takes a GPU only where there is one now."""
    device = config.trainer.device
    wanted = device == "gpu" or (device == "auto" and ray.cluster_resources().get("GPU", 0) >= 1)
    return {"num_cpus": 1.0, "num_gpus": 1.0 if wanted else 0.0}
