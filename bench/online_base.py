"""Base models for the bench of online learning: trained once for the same data and settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from actors import arguments
from actors.offline import history_of
from actors.trainer import make_trainer
from bench.whole_stream import filled
from connect.replay import Replay
from forecast.artifact import Artifact
from forecast.canonical import plain
from forecast.config import Config
from forecast.errors import DataError
from forecast.schema import SampleBlock
from forecast.storage import write_atomic
from train.buffer import Buffer
from train.jobs import BaseJob
from train.pretrain import GRADIENT_CLIP


def base_model(config: Config, replay: Replay) -> Artifact:
    """A model trained on the replay's history alone, as a controller would; no gate.

    Raises TrainingError when there is too little history.
    """
    history = history_of(config, replay)
    slot = history.closed_slot
    if slot is None:
        raise DataError("no slot of the history is closed: there is nothing to learn from")
    return base_at(config, history, slot, arguments.settings(config).seed)


def oracle_model(config: Config, replay: Replay, from_slot: int) -> Artifact:
    """LEAKY: the base recipe on the stream from a slot on, labels included, to its end.

    Its manifest says that it was trained before the stream, so that it serves from its start.
    """
    history = filled(config, replay)
    end, settings = history.closed_slot, arguments.settings(config)
    if end is None:
        raise DataError("no slot of the stream is closed: there is nothing to learn from")
    since = (end - from_slot) // settings.per_hour - settings.holdout_hours
    if since < 1:
        raise DataError("the stream ends too early after its first drift to train an oracle")
    told = history_of(config, replay).closed_slot  # where every other base stands
    return base_at(config, history, end, settings.seed, hours=since, told=told)


def cached_base(config: Config, replay: Replay, cache: Path | None) -> tuple[Artifact, bool]:
    """The base model and whether it came from the folder; None keeps nothing.

    A model is found again by a hash of the history's samples and of all that enters the training.
    """
    if cache is None:
        return base_model(config, replay), False
    folder = cache / _digest(config, replay)
    manifest, weights = folder / "manifest.json", folder / "weights.safetensors"
    if manifest.exists() and weights.exists():
        return Artifact(json.loads(manifest.read_text()), weights.read_bytes()), True
    made = base_model(config, replay)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(weights, made.weights)
    write_atomic(manifest, json.dumps(made.manifest).encode())
    return made, False


def base_at(
    config: Config,
    history: Buffer,
    slot: int,
    seed: int,
    *,
    hours: int | None = None,
    told: int | None = None,
) -> Artifact:
    """A model trained on the last `hours` known at a slot; raises TrainingError as `base_model`.

    None: on all that is kept. `told` is the slot that its manifest says instead.
    """
    settings = arguments.settings(config)
    windows = history.draw(
        as_of=slot,
        hours=settings.history_hours if hours is None else hours,
        count=settings.base_windows,
        seed=seed,
        holdout_hours=settings.holdout_hours,
    )
    holdout = history.holdout(as_of=slot, hours=settings.holdout_hours, every=settings.horizon)
    trainer = make_trainer(**{**arguments.trainer(config), "workers": None})
    job = BaseJob(f"base-{slot}", slot if told is None else told, seed)
    return trainer.train_base(job, windows, holdout).artifact


def _digest(config: Config, replay: Replay) -> str:
    given = arguments.trainer(config)
    schema = given.pop("schema")
    settings = arguments.settings(config)
    entering: dict[str, Any] = {
        "trainer": {name: value for name, value in given.items() if name != "learner"},
        "metrics": [repr(metric) for metric in schema.metrics],
        "targets": schema.targets,
        "step": schema.step_seconds,
        "draw": [settings.history_hours, settings.base_windows, settings.holdout_hours],
        "seed": settings.seed,
        "gradient_clip": GRADIENT_CLIP,
    }
    known = hashlib.sha256(json.dumps(plain(entering), sort_keys=True).encode())
    block, _ = replay.samples(replay.first_slot, replay.start_slot, schema=schema)
    known.update(_bytes(block))
    return known.hexdigest()[:32]


def _bytes(block: SampleBlock) -> bytes:
    arrays = (block.server_index, block.metric_index, block.time_ms, block.value)
    names = json.dumps([block.servers, block.metrics]).encode()
    return names + b"".join(array.tobytes() for array in arrays)
