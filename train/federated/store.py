"""An aggregator's state on disk: a head that is replaced whole, and the pieces it names.

head              replaced by a rename: after a crash the old state or the new one
settled-12, ...   written before the head that names them, removed after the one that does not
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from forecast.storage import DISK, Disk, make_folders, write_atomic
from train.federated.aggregator import Aggregator
from train.federated.state import Saved, load, pieces_of

_HEAD = "head"


class AggregatorStore:
    """The state of one folder, for one writer.

    `acknowledge` says what a state that was written survives: with `write` the end of the process,
    with `fsync` that of the machine.
    """

    def __init__(
        self,
        directory: Path,
        *,
        acknowledge: Literal["write", "fsync"] = "fsync",
        disk: Disk = DISK,
    ) -> None:
        self._directory, self._disk = directory, disk
        self._fsync = acknowledge == "fsync"
        make_folders(directory, disk=disk)
        self._kept: set[str] = set()
        """Pieces of which a good copy is on disk."""

    def load(self, one: Aggregator) -> int | None:
        """Put what is stored into a fresh aggregator; see `state.load`. None: nothing is stored.

        Pieces that a crash left behind are removed: their names will be used again. Raises
        StateError for what is damaged, OSError for what cannot be read.
        """
        path = self._directory / _HEAD
        head = path.read_bytes() if path.exists() else None
        self._kept = set() if head is None else pieces_of(head)
        self._tidy()
        if head is None:
            return None
        return load(one, head, lambda piece: (self._directory / piece).read_bytes())

    def write(self, saved: Saved) -> None:
        """Replace the state, durably; raises OSError when it could not: the old one stays."""
        for piece, make in saved.pieces.items():
            if piece not in self._kept:
                self._replace(piece, make())
                self._kept.add(piece)
        self._replace(_HEAD, saved.head)
        gone = self._kept - set(saved.pieces)
        for piece in sorted(gone):
            self._disk.remove(self._directory / piece)
        self._kept -= gone

    def _replace(self, name: str, data: bytes | memoryview) -> None:
        write_atomic(self._directory / name, data, disk=self._disk, sync=self._fsync)

    def _tidy(self) -> None:
        for path in sorted(self._directory.iterdir()):
            if path.name != _HEAD and path.name not in self._kept:
                self._disk.remove(path)
