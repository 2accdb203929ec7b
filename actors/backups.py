"""A backup of a running fleet: held at one moment between two steps, copied while it goes on.

controller ─ between two steps ─► its own files held
                                  registry, buffer, aggregator: files held, copying begins
                                  ledger: copied by SQLite, before the next step
           ─ steps go on ───────► the copies end ─► audit verified ─► manifest, name
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from forecast import backup
from forecast.audit import verify
from forecast.backup import STATE, CopiedFile, Held, Manifest
from forecast.errors import StateError
from forecast.storage import DISK

log = logging.getLogger("fleetcast.backup")

_AGGREGATOR = ("federated", "federated-rounds")
"""The aggregator's folders; while none runs nobody changes them."""
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
    aggregator: Any = None,
    fleet: str,
    panel: str,
    now: Callable[[], float],
) -> dict[str, Any]:
    """Write a backup of the fleet into `folder`; what it holds.

    `turn` is held by whoever steps: while it is ours no step runs, and all actors stand at the slot
    that `stepped` says. A federation's `aggregator`, where one runs, goes on: its files are held
    between two of its writes. Raises StateError when something is there already, or a part fails.
    """
    copying = {"owner.lock": registry, "buffer/owner.lock": buffer}
    if aggregator is not None:
        copying["federated.lock"] = aggregator
    work = await asyncio.to_thread(backup.begin, folder)
    try:
        async with turn:
            slot = stepped()
            held = Held(_own(panel_dir, leave=_AGGREGATOR if aggregator is not None else ()))
            try:
                for begun in [one.begin_copy.remote(work) for one in copying.values()]:
                    await begun
                of_ledger = await ledger.copy_to.remote(work / STATE)
            except BaseException:
                held.close()
                raise
        files = await asyncio.to_thread(held.copy, work)
        ends = {place: one.end_copy.remote() for place, one in copying.items()}
        parts = {"ledger.sqlite.lock": of_ledger}
        for place, ended in ends.items():
            parts[place] = await ended
        audit = await asyncio.to_thread(verify, work / STATE / "audit")
        manifest = Manifest(
            fleet=fleet,
            panel=panel,
            slot=slot,
            taken_at=now(),
            audit_records=audit.records,
            audit_head=audit.head,
            epochs={place: epoch for place, (_, epoch) in parts.items()},
            files=tuple(sorted(sum((one for one, _ in parts.values()), files), key=_place)),
        )
        await asyncio.to_thread(backup.finish, work, folder, manifest)
    except BaseException as error:
        await _abandon(work, *copying.values())
        if isinstance(error, OSError):
            raise StateError(f"{folder}: the backup failed: {error}") from error
        raise
    told = backup.told(folder, manifest)
    log.info("a backup is in %s", folder, extra=told)
    return told


def _place(file: CopiedFile) -> str:
    return file.path


async def _abandon(work: Path, *actors: Any) -> None:
    """Wait for copies that were begun, then remove what there is; it cannot be used."""
    for ending in [one.end_copy.remote() for one in actors]:
        with contextlib.suppress(Exception):  # what failed is told by whoever calls this
            await ending
    with contextlib.suppress(OSError):
        await asyncio.to_thread(DISK.remove, work)


def _own(panel_dir: Path, *, leave: Collection[str]) -> dict[str, Path]:
    """The controller's own files."""
    of_ledger = {path.name for path in panel_dir.glob("ledger.sqlite*")}
    return backup.files_below(panel_dir, STATE, leave={*_OTHERS, *of_ledger, *leave})
