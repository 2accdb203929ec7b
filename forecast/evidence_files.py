"""What decisions were made from, kept for so many slots: one small file each, named by its content.

    <panel>/evidence/<slot>-<first 16 digits of its SHA-256>.fcar

The audit record of a decision holds the whole hash, so a file can be told from any other. What is
older than `keep_slots` of event time goes when the next one comes; the record stays for ever.
"""

from __future__ import annotations

import re
from pathlib import Path

from forecast.canonical import sha256
from forecast.errors import StateError
from forecast.storage import DISK, TEMPORARY, Disk, make_folders, write_atomic

_NAME = re.compile(r"(\d+)-[0-9a-f]{16}\.fcar")


class EvidenceFiles:
    """The folder of one panel, for one writer; any reader may read."""

    def __init__(self, directory: Path, *, keep_slots: int, disk: Disk = DISK) -> None:
        self._directory = directory
        self._keep_slots = keep_slots
        self._disk = disk

    def keep(self, data: bytes, *, slot: int) -> str:
        """Keep what a decision at a slot is made from, durably; its hash.

        The same again changes nothing. What is older than is kept goes.
        """
        digest = sha256(data)
        path = self._path(slot, digest)
        if not path.exists():
            make_folders(self._directory, disk=self._disk)
            write_atomic(path, data, disk=self._disk)
            self._drop(before=slot - self._keep_slots)
        return digest

    def read(self, digest: str, *, slot: int) -> bytes:
        """What was kept; raises StateError where it is no longer there, or damaged."""
        path = self._path(slot, digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise StateError(f"{path}: the evidence of slot {slot} is no longer kept") from error
        if (found := sha256(data)) != digest:
            raise StateError(f"{path}: sha256 is {found}, on record is {digest}")
        return data

    def files(self) -> dict[str, Path]:
        """Every file by its name, for a copy."""
        return {
            path.name: path for path in self._directory.glob("*.fcar") if _NAME.fullmatch(path.name)
        }

    def _path(self, slot: int, digest: str) -> Path:
        return self._directory / f"{slot}-{digest[:16]}.fcar"

    def _drop(self, *, before: int) -> None:
        for path in self._directory.iterdir():
            old = (slot := _slot_of(path)) is not None and slot < before
            if old or path.name.startswith(TEMPORARY):
                self._disk.remove(path)


def _slot_of(path: Path) -> int | None:
    match = _NAME.fullmatch(path.name)
    return None if match is None else int(match[1])
