"""Restore: a backup becomes the state of a fleet on a machine that has none.

Every file is compared with the manifest while it is copied, the audit log is verified up to the
head that the manifest names, and only then do the folders get their names: the versions first, the
state last. The restored log says that it was restored, owner locks go on with the next epoch.
"""

from __future__ import annotations

from pathlib import Path

from forecast.audit import AuditLog
from forecast.backup import ARTIFACTS, STATE, Held, Manifest, check, compare, taken
from forecast.errors import AuditError, StateError
from forecast.storage import DISK, TEMPORARY, Disk, leave_epoch, make_folders


def restore(
    folder: Path,
    *,
    state_dir: Path,
    storage: Path | None = None,
    who: str,
    now_s: float,
    disk: Disk = DISK,
) -> Manifest:
    """Put a backup where a config with this `state_dir` and `storage_path` looks for it.

    Raises StateError, before anything is written, when the backup is not whole or something is
    there already; AuditError when its audit log does not verify.
    """
    manifest = check(folder)
    targets = {
        ARTIFACTS: (storage or state_dir / "artifacts") / manifest.panel,
        STATE: state_dir / manifest.panel,
    }
    for target in targets.values():
        if taken(target):
            raise StateError(
                f"{target}: is there already; a restore needs an empty place. What an interrupted "
                "restore has left there may be removed"
            )
    work = {}
    for part, target in targets.items():
        work[part] = target.with_name(f"{TEMPORARY}{target.name}")
        make_folders(target.parent, disk=disk)
        disk.remove(work[part])
        disk.make_folder(work[part])
    for file in manifest.files:
        part, _, place = file.path.partition("/")
        source = folder / file.path
        [copied] = Held({place: source}).copy(work[part], disk=disk)
        compare(source, file, copied)
    _check_audit(work[STATE] / "audit", manifest, who=who, now_s=now_s, disk=disk)
    for place, epoch in manifest.epochs.items():
        leave_epoch(work[STATE] / place, epoch, owner="a backup", disk=disk)
    for part, target in targets.items():
        disk.sync(work[part])
        disk.rename(work[part], target)
        disk.sync(target.parent)
    return manifest


def _check_audit(
    directory: Path, manifest: Manifest, *, who: str, now_s: float, disk: Disk
) -> None:
    """Verify the restored log and write into it that it was restored."""
    log = AuditLog(directory, disk=disk)
    found = log.verify()
    if (found.records, found.head) != (manifest.audit_records, manifest.audit_head):
        raise AuditError(
            f"{directory}: {found.records} records up to {found.head}, the manifest says "
            f"{manifest.audit_records} up to {manifest.audit_head}"
        )
    detail = {
        "fleet": manifest.fleet,
        "taken_at": manifest.taken_at,
        "slot": manifest.slot,
        "audit_head": manifest.audit_head,
    }
    slot = manifest.slot or 0
    log.append(kind="restored", slot=slot, who=who, time_s=now_s, detail=detail)
