"""A small registry to test with: tiny artifacts, a quick disk, a clock that stands still."""

from __future__ import annotations

from pathlib import Path

from forecast.artifact import Artifact
from forecast.audit import AuditLog
from forecast.canonical import sha256
from forecast.registry import Registry
from forecast.storage import Disk, OwnerLock
from tests.forecast.crash_disk import QuickDisk

FINGERPRINT = "f" * 64
PANEL = "servers"


def artifact(
    update_id: str, *, kind: str = "update", parent: int | None = None, fingerprint=FINGERPRINT
) -> Artifact:
    """An artifact whose weights are its update's name."""
    weights = f"weights of {update_id}".encode()
    return Artifact(
        manifest={
            "format": 1,
            "fingerprint": fingerprint,
            "sha256": sha256(weights),
            "created_at": "2026-01-01T00:00:00Z",
            "lineage": {"kind": kind, "parent": parent, "update_id": update_id},
            "metrics": {"wql": 0.25},
        },
        weights=weights,
    )


def open_registry(
    root: Path,
    *,
    keep: int = 2,
    keep_beside: int = 0,
    fingerprint: str = FINGERPRINT,
    disk: Disk | None = None,
    lock: OwnerLock | None = None,
) -> Registry:
    """The registry in `root`, as its actor opens it at every start."""
    disk = disk or QuickDisk()
    return Registry(
        storage=root / "artifacts",
        audit=AuditLog(root / "audit", disk=disk),
        panel=PANEL,
        keep_versions=keep,
        keep_beside=keep_beside,
        fingerprint=fingerprint,
        now=lambda: 1_700_000_000.0,
        lock=lock,
        disk=disk,
    )


def add(registry: Registry, update_id: str, *, slot: int, promote: bool = True, kind="update"):
    """Register an update and, unless told otherwise, promote it; gives its version."""
    parent = registry.state().champion
    version = registry.register(
        artifact(update_id, kind=kind, parent=parent), update_id=update_id, slot=slot
    )
    if promote:
        registry.promote(version, slot=slot, reasons=("better",), who="gate", update_id=update_id)
    return version


def folders(root: Path) -> list[int]:
    """Versions whose folder is there."""
    names = [path.name for path in (root / "artifacts" / PANEL).iterdir() if path.is_dir()]
    return sorted(int(name) for name in names)
