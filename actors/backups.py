"""A backup of a running fleet: held at one moment between two steps, copied while it goes on.

controller ─ between two steps ─► its own files held
                                  registry, buffer: files held, copying begins
                                  ledger: copied by SQLite, before the next step
           ─ steps go on ───────► the copies end ─► audit verified ─► manifest, name
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forecast import backup
from forecast.audit import verify
from forecast.backup import STATE, Held, Manifest

log = logging.getLogger("fleetcast.backup")

_OTHERS = ("audit", "evidence", "buffer", "train", "ledger.sqlite")
"""What of a panel's folder is not the controller's: other actors copy it, or nobody needs it."""


async def take(
    folder: Path,
    *,
    turn: asyncio.Lock,
    panel_dir: Path,
    stepped: Callable[[], int | None],
    registry: Any,
    buffer: Any,
    ledger: Any,
    fleet: str,
    panel: str,
    now: Callable[[], float],
) -> dict[str, Any]:
    """Write a backup of the fleet into `folder`; what it holds.

    `turn` is held by whoever steps: while it is ours no step runs, and all actors stand at the slot
    that `stepped` says. Raises StateError when something is there already, or a part fails.
    """
    work = await asyncio.to_thread(backup.begin, folder)
    async with turn:
        slot = stepped()
        held = Held(_own(panel_dir))
        try:
            for begun in [one.begin_copy.remote(work) for one in (registry, buffer)]:
                await begun
            of_ledger = await ledger.copy_to.remote(work / STATE)
        except BaseException:
            held.close()
            raise
    files = await asyncio.to_thread(held.copy, work)
    of_registry, of_buffer = registry.end_copy.remote(), buffer.end_copy.remote()
    parts = {
        "ledger.sqlite.lock": of_ledger,
        "owner.lock": await of_registry,
        "buffer/owner.lock": await of_buffer,
    }
    for copied, _ in parts.values():
        files += copied
    audit = await asyncio.to_thread(verify, work / STATE / "audit")
    manifest = Manifest(
        fleet=fleet,
        panel=panel,
        slot=slot,
        taken_at=now(),
        audit_records=audit.records,
        audit_head=audit.head,
        epochs={place: epoch for place, (_, epoch) in parts.items()},
        files=tuple(sorted(files, key=lambda file: file.path)),
    )
    await asyncio.to_thread(backup.finish, work, folder, manifest)
    told = backup.told(folder, manifest)
    log.info("a backup is in %s", folder, extra=told)
    return told


def _own(panel_dir: Path) -> dict[str, Path]:
    """The controller's own files."""
    leave = {path.name for path in panel_dir.glob("ledger.sqlite*")}
    return backup.files_below(panel_dir, STATE, leave={*_OTHERS, *leave})
