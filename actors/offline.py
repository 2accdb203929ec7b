"""A model from history by hand: trained, judged by the same gate, registered.

What a job on a cluster and `fleetcast train`, which needs no cluster, have in common. They differ
in who holds the registry and the windows, and in where the training runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from actors import arguments
from actors.settings import Settings
from actors.trainer import make_trainer
from connect.replay import Replay
from forecast.artifact import Artifact
from forecast.audit import AuditLog
from forecast.config import Config
from forecast.errors import ArtifactError, DataError, RegistryError
from forecast.evidence_files import EvidenceFiles
from forecast.registry import Registry
from forecast.storage import OwnerLock
from forecast.verdicts import Judged
from forecast.windows import RawWindows
from train.buffer import Buffer, BufferStatus
from train.evidence import decided_from, pack
from train.gate import decide
from train.jobs import BaseJob
from train.trainer import Trainer

log = logging.getLogger("fleetcast.offline")

_CHUNK_SLOTS = 96


class History(Protocol):
    """Where windows come from: a buffer, or the actor around one."""

    def status(self) -> BufferStatus:
        """The clock; see `Buffer.status`."""

    def draw(
        self, *, as_of: int, hours: int, count: int, seed: int, holdout_hours: int, known_at: int
    ) -> RawWindows:
        """Training windows; see `Buffer.draw`."""

    def holdout(self, *, as_of: int, hours: int, every: int, known_at: int) -> RawWindows:
        """Later windows; see `Buffer.holdout`."""


class Keep(Protocol):
    """Where evidence goes; see `EvidenceFiles.keep`."""

    def __call__(self, data: bytes, *, slot: int) -> str: ...


def train_base(
    config: Config, replay: Replay, *, progress: Literal["bar", "none"]
) -> tuple[int | None, dict[str, Any]]:
    """Train on the replay's history, in this process, and register what the gate accepts.

    Returns the version, None when the gate refused, and the report. Raises StateError while a
    running fleet owns the registry, TrainingError when there is too little history.
    """
    config.panel_dir.mkdir(parents=True, exist_ok=True)
    given = arguments.registry(config)
    del given["evidence_slots"]
    folder, owner = given.pop("audit_dir"), given.pop("owner")
    with OwnerLock(config.panel_dir / "owner.lock", owner) as lock:
        audit = AuditLog(folder, segment_bytes=given.pop("segment_bytes"))
        registry = Registry(audit=audit, lock=lock, **given)
        here = {**arguments.trainer(config), "workers": None, "bar": progress == "bar"}
        settings, trainer = arguments.settings(config), make_trainer(**here)
        history = history_of(config, replay)
        version, verdict, report = train_and_judge(
            registry,
            history,
            trainer,
            settings,
            kind="base",
            who="fleetcast train",
            keep=EvidenceFiles(**arguments.evidence(config)).keep,
        )
        return None if verdict == "rejected" else version, {**report, "verdict": verdict}


def train_and_judge(
    registry: Any,
    history: History,
    trainer: Trainer,
    settings: Settings,
    *,
    kind: Literal["base", "retrain"],
    who: str,
    keep: Keep,
) -> tuple[int, Judged, dict[str, Any]]:
    """A model from nothing on what the history knows, against the champion where there is one.

    Returns its version, the verdict and the report; `keep` takes what the gate decided from. What
    passes goes the way that the settings say, as one of the fleet's own does. A `base` learns from
    the whole history, a `retrain` from its last `lookback_hours`, beginning as they say. Raises
    RegistryError when the champion, the one before the training or the one after it, and the model
    cannot be compared on windows that neither has seen, TrainingError when there is too little
    history.
    """
    slot = _closed(history)
    champion, known = _champion(registry)
    before_holdout = settings.before_holdout(slot)
    _refuse_seen(f"version {champion}", known, before_holdout)
    # With a champion to compare with, nothing of the comparison's windows may be seen before.
    as_of = slot if known is None else before_holdout
    hours = settings.history_hours if kind == "base" else settings.lookback_hours
    span = {"hours": settings.holdout_hours, "every": settings.horizon}
    # By hand, events count that were told up to now: those that the next step goes by.
    told = slot + 1
    validation = history.holdout(as_of=as_of, known_at=told, **span)
    windows = history.draw(
        as_of=as_of,
        hours=hours,
        count=settings.base_windows,
        seed=settings.seed,
        holdout_hours=settings.holdout_hours,
        known_at=told,
    )
    update_id = f"{'train' if kind == 'base' else kind}-{slot}-{int(time.time())}"
    parent = champion if kind == "retrain" else None
    job = BaseJob(update_id, slot, settings.seed, kind, parent)
    warm = kind == "retrain" and settings.retrain_start == "warm"
    result = trainer.train_base(job, windows, validation, known if warm else None)
    # A running fleet went on meanwhile: what serves now, on what is closed now.
    (champion, known), closed = _champion(registry), _closed(history)
    if known is not None:
        before_holdout = settings.before_holdout(closed)
        _refuse_seen(f"version {champion}", known, before_holdout)
        _refuse_seen("the new model", result.artifact, before_holdout)
    holdout = history.holdout(as_of=closed, known_at=closed + 1, **span)
    anchor = None if champion is None else registry.state().anchor
    evidence = trainer.judge(
        result.artifact,
        holdout,
        champion=known,
        anchor=None if anchor == champion else _readable(registry, anchor),
    )
    rules, seed = settings.rules(), settings.seed + closed
    held = registry.state().held
    asked: dict[str, Any] = {"champion": champion, "anchor": anchor, "seed": seed}
    decision = decide(evidence, rules, **asked).held(held)
    report = {
        **decision.report,
        "decided_from": decided_from(keep(pack(evidence), slot=closed), rules, **asked, held=held),
        "kind": kind,
        "reasons": decision.reasons,
        "training": dict(result.report),
        "asked_slot": slot,
        "effect_slot": closed,
        "parent": parent,
    }
    version = registry.register(result.artifact, update_id=update_id, slot=closed)
    way = settings.way(report["champion"], fast=False) if decision.promote else None
    said: Judged = "rejected"
    if decision.promote:
        said = "promoted" if way is None else "accepted"
    verdicts = {
        "promoted": registry.promote,
        "accepted": registry.accept,
        "rejected": registry.reject,
    }
    verdicts[said](
        version,
        slot=closed,
        reasons=decision.reasons,
        who=who,
        update_id=update_id,
        report=report,
        anchor=decision.anchor_of(champion=champion, challenger=version),
        **(way or {}),
    )
    return version, said, report


def _closed(history: History) -> int:
    slot = history.status().closed_slot
    if slot is None:
        raise DataError("no slot is closed yet: there is no history to learn from")
    return slot


def _champion(registry: Any) -> tuple[int | None, Artifact | None]:
    """The version that serves, and its files."""
    champion = registry.state().champion
    return champion, None if champion is None else registry.load(champion)


def _readable(registry: Any, version: int | None) -> Artifact | None:
    """The files of the anchor; None where they are damaged: it is then not compared with."""
    if version is None:
        return None
    try:
        artifact: Artifact = registry.load(version)
    except ArtifactError as error:
        log.warning("version %d cannot be compared with: %s", version, error)
        return None
    return artifact


def _refuse_seen(name: str, artifact: Artifact | None, before: int) -> None:
    """Raise RegistryError when a model has learned from slots after `before`."""
    if artifact is not None and _seen_to(artifact.manifest.get("lineage", {})) > before:
        raise RegistryError(
            f"{name} has learned from slots after {before}, where the comparison with the other "
            "one would begin: it could not be fair"
        )


def _seen_to(lineage: Mapping[str, Any]) -> int:
    """The last slot a version was trained or chosen on."""
    trained = int(lineage.get("trained_to_slot", -1))
    if lineage.get("kind") == "update":
        return trained
    # A base of before this was kept was chosen on windows up to the slot it was asked for.
    return max(trained, int(lineage.get("validated_to_slot", lineage.get("slot", -1))))


def history_of(config: Config, replay: Replay) -> Buffer:
    """A buffer in memory with the replay's history."""
    buffer = Buffer(**{**arguments.stream(config), "directory": None})
    fill(buffer, config, replay)
    return buffer


def fill(buffer: Buffer, config: Config, replay: Replay) -> None:
    """Put a replay's history into a buffer, in event-time order."""
    schema = config.panel.schema_of()
    for slot in range(replay.first_slot, replay.start_slot, _CHUNK_SLOTS):
        upto = min(slot + _CHUNK_SLOTS, replay.start_slot)
        block, _ = replay.samples(slot, upto, schema=schema)
        buffer.append(f"history-{slot}", block)
