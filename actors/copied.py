"""The part of an actor that owns files: a backup holds them at one moment and copies them after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from forecast.backup import CopiedFile, Held
from forecast.errors import StateError
from forecast.storage import OwnerLock


class Copied:
    """`begin_copy` returns once the files are held, `end_copy` once they are copied."""

    _lock: OwnerLock
    _files: Callable[[], Mapping[str, Path]]
    """Every file that a restore needs, by its place in the backup, as of now."""
    _fixed_files: Callable[[], Mapping[str, Path]] | None = None
    """The same of those that never change and need not be held; see `Held`."""
    _copying: asyncio.Task[list[CopiedFile]] | None = None

    async def begin_copy(self, folder: Path) -> None:
        """Hold the files as they stand now, and start to copy them below a folder."""
        self._lock.check()
        if self._copying is not None:  # of a backup that was given up: it ends by itself
            await asyncio.wait([self._copying])
        held = self._hold()
        self._copying = asyncio.create_task(asyncio.to_thread(held.copy, folder))

    async def end_copy(self) -> tuple[list[CopiedFile], int]:
        """What was copied, and the epoch of the lock.

        Raises StateError when no copy was begun, as after a restart, or it failed.
        """
        copying, self._copying = self._copying, None
        if copying is None:
            raise StateError("no copy was begun here: the actor was restarted meanwhile")
        try:
            return await copying, self._lock.epoch
        except OSError as error:
            raise StateError(f"the copy failed: {error}") from error

    def _hold(self) -> Held:
        fixed = self._fixed_files
        return Held(self._files(), None if fixed is None else fixed())
