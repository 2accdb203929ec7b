"""Work that is asked for by hand: a base model from history, without a running fleet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from actors import arguments
from connect.replay import Replay
from forecast.audit import AuditLog
from forecast.config import Config
from forecast.errors import RegistryError
from forecast.registry import Registry
from forecast.schema import validate_rows
from forecast.storage import OwnerLock
from train.buffer import Buffer
from train.gate import decide
from train.trainer import BaseJob, Trainer

_CHUNK_ROWS = 5000


def train_base(
    config: Config, replay: Replay, *, progress: Literal["bar", "none"]
) -> tuple[int | None, dict[str, Any]]:
    """Train on the replay's history and register what the gate accepts.

    Returns the version, None when the gate refused, and the report. Raises StateError while a
    running fleet owns the registry, TrainingError when there is too little history.
    """
    config.panel_dir.mkdir(parents=True, exist_ok=True)
    given = arguments.registry(config)
    folder, owner = given.pop("audit_dir"), given.pop("owner")
    with OwnerLock(config.panel_dir / "owner.lock", owner) as lock:
        registry = Registry(audit=AuditLog(folder), lock=lock, **given)
        return _train(registry, config, replay, progress)


def _train(
    registry: Registry, config: Config, replay: Replay, progress: Literal["bar", "none"]
) -> tuple[int | None, dict[str, Any]]:
    with_history = {**arguments.buffer(config), "directory": None}
    buffer = Buffer(**with_history)
    fill(buffer, config, replay)
    given = arguments.trainer(config)
    given["base"]["progress"] = progress
    trainer = Trainer(**given)
    settings = arguments.settings(config)
    slot = buffer.status().closed_slot
    assert slot is not None, "a replay has a history"
    holdout = buffer.holdout(as_of=slot, hours=settings.holdout_hours, every=settings.horizon)
    champion = registry.state().champion
    known = None if champion is None else registry.load(champion)
    before_holdout = slot - settings.holdout_hours * settings.per_hour
    if known is not None and known.manifest["lineage"]["slot"] > before_holdout:
        raise RegistryError(
            f"version {champion} has learned from slots after {before_holdout}, where the "
            "comparison with it would begin: it could not be fair"
        )
    # With a champion to compare with, nothing of the comparison's windows may be seen before.
    as_of = slot if known is None else before_holdout
    draw = {"as_of": as_of, "seed": settings.seed, "holdout_hours": settings.holdout_hours}
    validation = buffer.holdout(as_of=as_of, hours=settings.holdout_hours, every=settings.horizon)
    windows = buffer.draw(hours=settings.history_hours, count=settings.base_windows, **draw)
    update_id = f"train-{slot}-{int(time.time())}"
    result = trainer.train_base(BaseJob(update_id, slot, settings.seed), windows, validation)
    before, scores = trainer.judge(result.artifact, known, holdout)
    decision = decide(before, scores, validate=settings.validate)
    report = {**decision.report, "reasons": decision.reasons, "training": dict(result.report)}
    version = registry.register(result.artifact, update_id=update_id, slot=slot)
    verdict = registry.promote if decision.promote else registry.reject
    verdict(
        version,
        slot=slot,
        reasons=decision.reasons,
        who="fleetcast train",
        update_id=update_id,
        report=report,
    )
    return version if decision.promote else None, report


def fill(buffer: Buffer, config: Config, replay: Replay) -> None:
    """Put a replay's history into a buffer, in event-time order."""
    schema = config.panel.schema_of()
    slots = replay.source.rows_by_slot(replay.first_slot, replay.start_slot)
    rows: Iterator[Any] = (row for _, rows in slots for row in rows)
    number = 0
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        end_ms = replay.start_slot * schema.step_seconds * 1000
        block, _ = validate_rows(chunk, schema, now_ms=end_ms, max_clock_skew_ms=0)
        buffer.append(f"history-{number}", block)
        number += 1
