"""A backup: a whole copy of a fleet's files, and a manifest that is written last.

    DIR/state/...       what is in the panel's folder of `state_dir`
    DIR/artifacts/...   its versions
    DIR/manifest.json   every file with its size and SHA-256, and the head of the audit log

Files are held open as they stand at one moment and copied afterwards, up to the size they had: logs
only grow at their end, and whatever else changes is replaced whole, so nobody waits for the copy.
It is made in a folder of another name, which becomes DIR when all is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from forecast.canonical import canonical, sha256
from forecast.errors import StateError
from forecast.storage import DISK, TEMPORARY, Disk, make_folders

MANIFEST = "manifest.json"
STATE, ARTIFACTS = "state", "artifacts"
"""The two folders of a backup."""

_FORMAT = 1
_CHUNK = 8 << 20
_LOCKS = (".lock", ".lock.json")


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A file of a backup, by its place in it."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup is of, and what it consists of."""

    fleet: str
    panel: str
    slot: int | None
    """The last slot that was stepped; None before the first."""
    taken_at: float
    """Wall clock, seconds since 1970."""
    audit_records: int
    audit_head: str
    epochs: Mapping[str, int]
    """Of each owner lock, by its place in the panel's folder."""
    files: tuple[CopiedFile, ...]

    @property
    def total_bytes(self) -> int:
        """Of all files together."""
        return sum(file.bytes for file in self.files)

    def to_bytes(self) -> bytes:
        """As it stands in its file: JSON with its own hash."""
        body = {"format": _FORMAT, **asdict(self), "files": [asdict(file) for file in self.files]}
        return canonical({**body, "sha256": sha256(canonical(body))})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Of the backup in a folder; raises StateError where it is not there, or changed."""
        path = folder / MANIFEST
        try:
            data = path.read_bytes()
            body = json.loads(data)
            whole = canonical(body) == data
        except FileNotFoundError as error:
            raise StateError(
                f"{folder}: no {MANIFEST}: this is no backup, or one that was never finished"
            ) from error
        except ValueError as error:
            raise StateError(f"{path}: damaged: {error}") from error
        if not isinstance(body, dict) or body.get("format") != _FORMAT:
            raise StateError(f"{path}: unknown format, this code reads {_FORMAT}")
        if body.pop("sha256", None) != sha256(canonical(body)) or not whole:
            raise StateError(f"{path}: it was changed: its hash does not fit its content")
        del body["format"]
        body["files"] = tuple(CopiedFile(**file) for file in body["files"])
        found = cls(**body)
        for file in found.files:
            top, _, rest = file.path.partition("/")
            if top not in (STATE, ARTIFACTS) or not _below(rest):
                raise StateError(f"{path}: names a file outside of the backup: {file.path}")
        if not _below(found.panel) or "/" in found.panel:
            raise StateError(f"{path}: {found.panel!r} is no panel's name")
        for place in found.epochs:
            if not _below(place):
                raise StateError(f"{path}: names a lock outside of the panel's folder: {place}")
        return found


class Held:
    """Files as they stand now, held open: `copy` copies what was in them when they were taken.

    `files` holds each file's path by its place in the backup. Those of `fixed` never change, and at
    most go because they are old: they are opened only when their turn comes, and one that is gone
    by then is left out.
    """

    def __init__(self, files: Mapping[str, Path], fixed: Mapping[str, Path] | None = None) -> None:
        self._open: dict[str, tuple[int, int]] = {}
        self._fixed = dict(fixed or {})
        try:
            for place, path in sorted(files.items()):
                descriptor = os.open(path, os.O_RDONLY)
                self._open[place] = (descriptor, os.fstat(descriptor).st_size)
        except BaseException:
            self.close()
            raise

    def copy(self, folder: Path, *, disk: Disk = DISK) -> list[CopiedFile]:
        """Copy them below a folder, durably, and let go of them. Raises OSError, StateError."""
        try:
            copied = [
                self._copy(descriptor, size, folder, place, disk)
                for place, (descriptor, size) in self._open.items()
            ]
        finally:
            self.close()
        for place, path in self._fixed.items():
            with contextlib.suppress(FileNotFoundError):
                copied += Held({place: path}).copy(folder, disk=disk)
        return copied

    def close(self) -> None:
        """Let go of the files."""
        while self._open:
            _, (descriptor, _) = self._open.popitem()
            os.close(descriptor)

    def _copy(self, descriptor: int, size: int, folder: Path, place: str, disk: Disk) -> CopiedFile:
        path, digest, offset = folder / place, hashlib.sha256(), 0
        make_folders(path.parent, disk=disk)
        disk.write(path, b"")
        while offset < size:
            data = os.pread(descriptor, min(_CHUNK, size - offset), offset)
            if not data:
                raise StateError(f"{place}: was cut at {offset} of {size} bytes")
            offset += len(data)
            digest.update(data)
            disk.append(path, data)
        disk.sync(path)
        disk.sync(path.parent)
        return CopiedFile(place, size, digest.hexdigest())


def _below(place: str) -> bool:
    """Whether a path leads to something below a folder, written in the one way."""
    parsed = PurePosixPath(place)
    plain = parsed.as_posix() == place and place not in ("", ".") and "\0" not in place
    return plain and not parsed.is_absolute() and ".." not in parsed.parts


def files_below(directory: Path, place: str, *, leave: Collection[str] = ()) -> dict[str, Path]:
    """Every file below a folder by its place in the backup, but for locks and unfinished ones.

    `leave` names what in the folder itself is left out.
    """
    found = {}
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        if parts[0] in leave or any(part.startswith(TEMPORARY) for part in parts):
            continue
        if path.is_file() and not path.name.endswith(_LOCKS):
            found["/".join((place, *parts))] = path
    return found


def taken(path: Path) -> bool:
    """Whether something is at a path already; an empty folder is nothing."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def begin(folder: Path, *, disk: Disk = DISK) -> Path:
    """The folder in which a backup is made that then becomes `folder`.

    What earlier tries left goes. Raises StateError when something is there already, or the path is
    not absolute.
    """
    if not folder.is_absolute():
        raise StateError(f"{folder}: a backup needs an absolute path: the actors write it")
    if taken(folder):
        raise StateError(f"{folder}: is there already, and not empty")
    make_folders(folder.parent, disk=disk)
    for left in folder.parent.glob(f"{TEMPORARY}{folder.name}-*"):
        with contextlib.suppress(OSError):  # somebody may still be writing there
            disk.remove(left)
    work = folder.with_name(f"{TEMPORARY}{folder.name}-{uuid.uuid4().hex[:8]}")
    disk.make_folder(work)
    return work


def finish(work: Path, folder: Path, manifest: Manifest, *, disk: Disk = DISK) -> None:
    """Write the manifest and give the backup its name: from here on it is whole."""
    path = work / MANIFEST
    disk.write(path, manifest.to_bytes())
    disk.sync(path)
    disk.sync(work)
    disk.rename(work, folder)
    disk.sync(folder.parent)


def check(folder: Path) -> Manifest:
    """The manifest of a backup, after comparing every file with it.

    Raises StateError naming the first file that is missing, changed, or not of the backup.
    """
    manifest = Manifest.read(folder)
    known = {file.path for file in manifest.files}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder).as_posix()
        if path.is_file() and place != MANIFEST and place not in known:
            raise StateError(f"{path}: is not in the backup's manifest")
    for file in manifest.files:
        path = folder / file.path
        compare(path, file, CopiedFile(file.path, *_read(path)))
    return manifest


def compare(path: Path, said: CopiedFile, found: CopiedFile) -> None:
    """Raise StateError when a file is not the one that was copied."""
    if (found.bytes, found.sha256) != (said.bytes, said.sha256):
        raise StateError(
            f"{path}: {found.bytes} bytes with sha256 {found.sha256}, the manifest says "
            f"{said.bytes} with {said.sha256}"
        )


def sealed(path: Path, place: str, *, disk: Disk = DISK) -> CopiedFile:
    """A file that something else has written, made durable, with its hash."""
    disk.sync(path)
    disk.sync(path.parent)
    return CopiedFile(place, *_read(path))


def _read(path: Path) -> tuple[int, str]:
    """A file's size and hash; raises StateError."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return file.tell(), digest.hexdigest()
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error


def told(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """What people are told of a backup."""
    return {
        "folder": str(folder),
        "fleet": manifest.fleet,
        "panel": manifest.panel,
        "slot": manifest.slot,
        "files": len(manifest.files),
        "bytes": manifest.total_bytes,
        "audit_records": manifest.audit_records,
        "audit_head": manifest.audit_head,
    }
