"""The controller's committed state: one small file, replaced whole at the end of each step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from forecast.errors import StateError
from forecast.storage import DISK, Disk, write_atomic
from train.breaker import Breaker
from train.rollout import Trial

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Pending:
    """A training on its way: asked at one slot, taking effect at a later one."""

    kind: Literal["base", "update", "retrain", "federated"]
    update_id: str
    asked_slot: int
    effect_slot: int
    parent: int | None
    drift: int | None = None
    """The slot of the drift that asked for it."""
    holdout_hours: int | None = None
    """What the gate holds out, where that is not the usual."""
    global_version: int | None = None
    """Which one of the federation, where it is of that kind."""


@dataclass(frozen=True, slots=True)
class ControllerState:
    """What step(s) needs of step(s-1). A file of before a field came has its default."""

    slot: int | None = None
    last_update_slot: int | None = None
    """When any training was last asked for."""
    pending: Pending | None = None
    last_full_slot: int | None = None
    """When a training from nothing, base or retrain, was last asked for."""
    drift_slot: int | None = None
    """Which packed state of the drift detection belongs to this one."""
    drift_due: int | None = None
    """The slot of a confirmed drift that asks for a training, which was not started yet."""
    drift_since: int | None = None
    """Since when the fleet is another, by its last drift."""
    trial: Trial | None = None
    """What was compared of the version on its way to everyone."""
    twin_slot: int | None = None
    """Which packed state of the gain against the twin belongs to this one."""
    breaker: Breaker = field(default_factory=Breaker)
    seen_revision: int | None = None
    """The registry's, up to which rollbacks, pauses and resumes were taken in."""
    global_version: int | None = None
    """The federation's version that was last taken from the home site."""
    quiet_slot: int | None = None
    """When people were last told that no update was accepted."""


class StateFile:
    """Loads and saves the state at `path`; None keeps it in memory only."""

    def __init__(self, path: Path | None, *, disk: Disk = DISK) -> None:
        self._path = path
        self._disk = disk

    def __str__(self) -> str:
        return "the state in memory" if self._path is None else str(self._path)

    def load(self) -> ControllerState:
        """The last committed state, or a fresh one; raises StateError when it is damaged."""
        if self._path is None or not self._path.exists():
            return ControllerState()
        try:
            tree = json.loads(self._path.read_text(encoding="utf-8"))
            if tree.pop("format") != _FORMAT:
                raise StateError(f"{self._path}: unknown format")
            pending, trial = tree.pop("pending"), tree.pop("trial", None)
            if (breaker := tree.pop("breaker", None)) is not None:
                tree["breaker"] = Breaker(tuple(breaker["failures"]), breaker["opened"])
            return ControllerState(
                pending=None if pending is None else Pending(**pending),
                trial=None if trial is None else Trial.from_json(trial),
                **tree,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(f"{self._path}: damaged: {error}") from error

    def save(self, state: ControllerState) -> None:
        """Replace the file, durably."""
        if self._path is not None:
            tree = {"format": _FORMAT, **asdict(state)}
            write_atomic(self._path, json.dumps(tree, sort_keys=True).encode(), disk=self._disk)

    def part(self, kind: str, slot: int) -> bytes | None:
        """A large part of the state that the small file names; None when it is not there."""
        path = self._part_at(kind, slot)
        return path.read_bytes() if path is not None and path.exists() else None

    def save_part(self, kind: str, slot: int, data: bytes) -> None:
        """Keep a large part beside the file, durably; the state that names it comes after."""
        if (path := self._part_at(kind, slot)) is not None:
            write_atomic(path, data, disk=self._disk)

    def drop_parts(self, kind: str, *, but: int) -> None:
        """Remove the parts that no committed state names any more."""
        kept = self._part_at(kind, but)
        for path in () if kept is None else kept.parent.glob(f"{kind}-*.fcar"):
            if path != kept:
                path.unlink(missing_ok=True)

    def _part_at(self, kind: str, slot: int) -> Path | None:
        return None if self._path is None else self._path.with_name(f"{kind}-{slot}.fcar")
