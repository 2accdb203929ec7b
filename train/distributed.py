"""The base model on Ray Train: the same training on one or many workers, which may be killed.

Each worker runs `pretrain` with Lightning's DDP strategy joining their gradients. After every look
the first worker hands its checkpoint to Ray Train; a worker group that lost a process, or that grew
or shrank, goes on from it. Windows travel by reference, so the configuration stays small.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import ray.train
import ray.train.lightning
import ray.train.torch
import safetensors.torch
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group

from forecast.errors import StateError, TrainingError
from forecast.model import Model, ModelSpec, with_weights
from forecast.windows import RawWindows
from train.checkpoint import Checkpoint
from train.pretrain import PretrainReport, Run, pretrain
from train.steps import Precision

log = logging.getLogger("fleetcast.trainer")

_FILE = "checkpoint.safetensors"
_NICE = 10
"""Added to a worker's niceness: it leaves the cores to Serve whenever Serve wants them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many workers train, on what, and where their checkpoints lie."""

    least: int
    most: int | None
    """Elastic up to so many, as there is room; None: always `least`."""
    cpus: float
    """Of each worker."""
    device: Literal["auto", "cpu", "gpu"]
    precision: Precision
    storage: str
    """An absolute path that every node reaches."""
    max_failures: int = 3
    """How often a group that lost a worker starts again."""
    patience_s: float = 120.0
    """How long to wait for room for the first `least` workers."""

    def resources(self) -> dict[str, float]:
        """What one worker asks of the cluster; `auto` looks for free GPUs each time."""
        free = ray.available_resources().get("GPU", 0.0) if self.device == "auto" else 0.0
        gpu = self.device == "gpu" or (free > 0 and free >= self.least)
        return {"CPU": self.cpus, **({"GPU": 1.0} if gpu else {})}


def pretrain_on_workers(
    name: str,
    spec: ModelSpec,
    train: RawWindows,
    validate: RawWindows,
    settings: Mapping[str, Any],
    *,
    workers: Workers,
) -> tuple[Model, PretrainReport]:
    """`pretrain` with these settings on Ray Train workers; blocks until it is through.

    `name` is the run's: asked again after its caller was killed, it goes on from the last
    checkpoint. Raises TrainingError when there is no room for the workers, or when they fail more
    often than `max_failures`.
    """
    if not ray.is_initialized():  # left to itself, Ray would start a cluster of its own here
        raise TrainingError(
            f"{name}: trainer.workers is {workers.least}, but this runs without Ray"
        )
    resources = workers.resources()
    _await_room(name, resources, workers)
    elastic = workers.most is not None and workers.most > workers.least
    # Any: to a type checker Ray Train is still the version before this one.
    scaling: dict[str, Any] = {
        "num_workers": (workers.least, workers.most) if elastic else workers.least,
        "use_gpu": "GPU" in resources,
        "resources_per_worker": resources,
    }
    failures: dict[str, Any] = {
        "max_failures": workers.max_failures,
        "controller_failure_limit": 1,  # room was found just now: it is lost at most once
    }
    around: dict[str, Any] = {
        "name": name,
        "storage_path": workers.storage,
        "failure_config": ray.train.FailureConfig(**failures),
        "checkpoint_config": ray.train.CheckpointConfig(num_to_keep=2),
        "logging_config": ray.train.LoggingConfig(log_level="WARNING"),
    }
    given: dict[str, Any] = {
        "spec": spec.to_json(),
        # References inside a list: the config holds them, not the windows themselves.
        "windows": [ray.put(train), ray.put(validate)],
        "settings": dict(settings),
        "device": "cuda" if "GPU" in resources else "cpu",
        "precision": workers.precision,
    }
    works: Any = train_loop
    trainer: Any = ray.train.torch.TorchTrainer(
        works,
        train_loop_config=given,
        scaling_config=ray.train.ScalingConfig(**scaling),
        run_config=ray.train.RunConfig(**around),
    )
    try:
        made = trainer.fit().return_value
    except (ray.train.TrainingFailedError, RayError) as error:
        raise TrainingError(f"{name}: {error}") from error
    finally:
        # Through or given up: its checkpoints have done their work.
        shutil.rmtree(Path(workers.storage) / name, ignore_errors=True)
    if "failed" in made:
        raise TrainingError(made["failed"])
    network = with_weights(spec, safetensors.torch.load(made["weights"]))
    report = made["report"]
    losses = tuple(report.pop("validation_losses"))
    return Model(spec, network), PretrainReport(validation_losses=losses, **report)


def train_loop(config: dict[str, Any]) -> dict[str, Any] | None:
    """What each worker runs; the first one's answer is the result: weights and report."""
    os.nice(_NICE)
    context = ray.train.get_context()
    train, validate = ray.get(config["windows"])
    run = Run(
        device=config["device"],
        precision=config["precision"],
        on_look=_report,
        resume=_last(),
        rank=context.get_world_rank(),
        workers=context.get_world_size(),
        lightning={
            "strategy": ray.train.lightning.RayDDPStrategy(),
            "plugins": [ray.train.lightning.RayLightningEnvironment()],
            "devices": "auto",
        },
        prepare=ray.train.lightning.prepare_trainer,
    )
    spec = ModelSpec.from_json(config["spec"])
    try:
        model, report = pretrain(spec, train, validate, run=run, **config["settings"])
    except TrainingError as error:
        if run.workers > 1:
            raise  # the others wait for this worker's gradients: the group must end
        return {"failed": str(error)}  # it would fail again in the same way
    if run.rank:
        return None
    # The network shares some of its weights; a file holds each name's own.
    weights = {name: value.clone() for name, value in model.network.state_dict().items()}
    return {"weights": safetensors.torch.save(weights), "report": asdict(report)}


def _await_room(name: str, resources: dict[str, float], workers: Workers) -> None:
    """Until the cluster has, or has been given, room for the least number of workers."""
    group = placement_group([resources] * workers.least)
    try:
        placed = group.wait(workers.patience_s)
    finally:
        remove_placement_group(group)
    if not placed:
        free = {key: round(ray.available_resources().get(key, 0.0), 2) for key in resources}
        raise TrainingError(
            f"{name}: no room for {workers.least} workers of {resources} each within "
            f"{workers.patience_s:.0f} s; free in the whole cluster: {free}"
        )


def _report(checkpoint: Checkpoint) -> None:
    """Hand a look's numbers, and from the first worker the checkpoint, to Ray Train."""
    progress = checkpoint.progress
    numbers = {"step": progress.step, "validation_loss": progress.looks[-1]}
    if ray.train.get_context().get_world_rank():
        ray.train.report(numbers)
        return
    with tempfile.TemporaryDirectory(prefix="fleetcast-") as folder:
        (Path(folder) / _FILE).write_bytes(checkpoint.to_bytes())
        ray.train.report(numbers, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _last() -> Checkpoint | None:
    """The checkpoint to go on from; None at the start, or when it cannot be read."""
    kept = ray.train.get_checkpoint()
    if kept is None:
        return None
    with kept.as_directory() as folder:
        try:
            return Checkpoint.from_bytes((Path(folder) / _FILE).read_bytes())
        except (OSError, StateError) as error:
            log.warning("training starts anew: %s", error)
            return None
