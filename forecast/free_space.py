"""Free space below the state: learning stops first, then ingest; forecasts keep the rest."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from forecast.errors import Busy

log = logging.getLogger("fleetcast.disk")

_RETRY_AFTER_S = 30
_MIB = 1 << 20


class _Usage(Protocol):
    @property
    def free(self) -> int: ...


class FreeSpace:
    """The reserve of one file system, looked at whenever it is asked for.

    `path` is a folder that exists. Below `learning_bytes` of free space no training should start,
    below `ingest_bytes` nothing more is taken in. Where nobody can tell how much there is, ingest
    goes on, for a write says so itself, and learning waits.

    >>> from collections import namedtuple
    >>> def probe(path: Path) -> _Usage:
    ...     return namedtuple("Usage", "free")(300 * _MIB)
    >>> space = FreeSpace(
    ...     Path("."), learning_bytes=1024 * _MIB, ingest_bytes=256 * _MIB, probe=probe
    ... )
    >>> space.check_ingest()
    >>> space.may_learn()
    False
    """

    def __init__(
        self,
        path: Path,
        *,
        learning_bytes: int,
        ingest_bytes: int,
        probe: Callable[[Path], _Usage] = shutil.disk_usage,
    ) -> None:
        self._path = path
        self._learning, self._ingest = learning_bytes, ingest_bytes
        self._probe = probe
        self._refusing = False

    def free_bytes(self) -> int | None:
        """What is free for a process without privileges; None where nobody can tell."""
        try:
            return self._probe(self._path).free
        except OSError:
            return None

    def may_learn(self) -> bool:
        """Whether there is space enough for training to start."""
        free = self.free_bytes()
        return free is not None and free >= self._learning

    def check_ingest(self) -> None:
        """Raise Busy when what is free must be left to the forecasts; said once in the log."""
        free = self.free_bytes()
        refuse = free is not None and free < self._ingest
        if refuse and not self._refusing:
            log.error(
                "ingest is refused: free space %d MiB below %s", (free or 0) >> 20, self._path
            )
        elif self._refusing and not refuse:
            log.warning("ingest goes on: there is free space again below %s", self._path)
        self._refusing = refuse
        if refuse:
            raise Busy(
                f"too little free space: {(free or 0) / _MIB:.0f} MiB, rows are taken from "
                f"{self._ingest / _MIB:.0f} MiB on",
                retry_after_s=_RETRY_AFTER_S,
            )
