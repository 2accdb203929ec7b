"""Durable files: whole or not there, and written by one owner.

`write_atomic` and `write_folder` leave the old or the new content behind a crash, never a part.
`OwnerLock` keeps a second writer off the same state. Every file operation goes through a `Disk`,
so that a test can stop the program between any two of them.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from forecast.errors import StateError

TEMPORARY = ".tmp-"
"""Names that start so are unfinished; whoever finds one after a crash may remove it."""

_FORMAT = 1
"""Of an owner record."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


class Disk:
    """The operations durable files are made of; each may fail with OSError.

    A crash test passes a subclass that stops at one of them.
    """

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Create or overwrite a file; not durable before `sync`."""
        path.write_bytes(data)

    def append(self, path: Path, data: bytes) -> None:
        """Add bytes at the end of a file; not durable before `sync`."""
        with path.open("ab") as file:
            file.write(data)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to `size` bytes; not durable before `sync`."""
        os.truncate(path, size)

    def sync(self, path: Path) -> None:
        """Make a file's content, or a folder's list of names, survive a power cut."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Put `source` where `target` is, in one moment."""
        source.replace(target)

    def make_folder(self, path: Path) -> None:
        """Create a folder in one that exists; fine when it is there already."""
        path.mkdir(exist_ok=True)

    def remove(self, path: Path) -> None:
        """Remove a file or a whole folder; fine when it is gone already."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


DISK = Disk()
"""The real one; it holds no state."""


def write_atomic(
    path: Path, data: bytes | memoryview, *, disk: Disk = DISK, sync: bool = True
) -> None:
    """Replace the file's content, durably: after a crash it is the old one or the new one.

    Without `sync` that holds for a crash of the process, not for one of the machine.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    disk.write(temporary, data)
    if sync:
        disk.sync(temporary)
    disk.rename(temporary, path)
    if sync:
        disk.sync(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes], *, disk: Disk = DISK) -> None:
    """Create a folder of files, durably: after a crash it is not there or complete.

    Raises OSError when a folder that is not empty stands there already: what is published so is
    never changed.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    disk.remove(temporary)
    disk.make_folder(temporary)
    for name, data in files.items():
        disk.write(temporary / name, data)
        disk.sync(temporary / name)
    disk.sync(temporary)
    disk.rename(temporary, path)
    disk.sync(path.parent)


def make_folders(path: Path, *, disk: Disk = DISK) -> None:
    """Create a folder and those above it, durably."""
    if not path.is_dir():
        make_folders(path.parent, disk=disk)
        disk.make_folder(path)
        disk.sync(path.parent)


HANDOVER_S = 10.0
"""How long a new holder of a lock waits for the one before, which may be ending just now."""


class OwnerLock:
    """The right to write below one path, held by one process at a time.

    `path` is the lock file, `<path>.json` beside it says who holds it: owner, host, process and an
    epoch that rises with every holder. The kernel's lock goes with the process, so a successor
    gets in at once after `kill -9`. On a file system without such locks a holder on the same host
    is displaced once its process is gone, one on another host only under the same owner name;
    there `check` before each write is what keeps a returned holder out.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "owner.lock")
    ...     with OwnerLock(path, "fleet-a") as lock:
    ...         try:
    ...             OwnerLock(path, "fleet-b")
    ...         except StateError as refusal:
    ...             assert "fleet-a" in str(refusal)
    ...     with OwnerLock(path, "fleet-b") as lock:
    ...         lock.epoch
    2
    """

    def __init__(
        self, path: Path, owner: str, *, disk: Disk = DISK, patience_s: float = 0.0
    ) -> None:
        """Take the lock; raises StateError naming the holder when another has it.

        `patience_s`: how long to wait for a holder that is ending just now.
        """
        self._path = path
        self._path_of_record = _path_of_record(path)
        self._disk = disk
        make_folders(path.parent, disk=disk)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._locked = self._lock(time.monotonic() + patience_s)
            before = self._read()
            if not self._locked and _alive(before, owner):
                raise StateError(self._refusal(before))
            self.epoch = int(before.get("epoch", 0)) + 1
            host, process = socket.gethostname(), os.getpid()
            self._record = _record(owner, host=host, process=process, epoch=self.epoch)
            write_atomic(self._path_of_record, _encode(self._record), disk=disk)
        except BaseException:
            os.close(self._descriptor)
            raise

    def check(self) -> None:
        """Raise StateError when the lock was given up or another holder came after this one."""
        if self._descriptor < 0:
            raise StateError(f"{self._path}: epoch {self.epoch} has given up its lock")
        now = self._read()
        if now.get("epoch") != self.epoch:
            raise StateError(f"{self._refusal(now)}; this is epoch {self.epoch}, now read-only")

    def release(self) -> None:
        """Give the lock up; the record stays, so that epochs keep rising."""
        if self._descriptor < 0:
            return
        if not self._locked and self._read() == self._record:
            released = {**self._record, "process": None}
            write_atomic(self._path_of_record, _encode(released), disk=self._disk)
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _lock(self, until: float) -> bool:
        """Whether the kernel's lock is held; False where the file system knows none."""
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise StateError(self._refusal(self._read())) from None
                time.sleep(0.05)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                return False
            else:
                return True

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads(self._path_of_record.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise StateError(f"{self._path_of_record}: damaged owner record: {error}") from error
        if not isinstance(record, dict) or record.get("format") != _FORMAT:
            raise StateError(f"{self._path_of_record}: unknown format of an owner record")
        return record

    def _refusal(self, holder: Mapping[str, Any]) -> str:
        return (
            f"{self._path.parent} is owned by {holder.get('owner', 'somebody')!r} "
            f"(host {holder.get('host', '?')}, process {holder.get('process', '?')}, "
            f"epoch {holder.get('epoch', '?')})"
        )


def leave_epoch(path: Path, epoch: int, *, owner: str, disk: Disk = DISK) -> None:
    """Write the record of a lock that nobody holds: who takes it next has a later epoch."""
    make_folders(path.parent, disk=disk)
    record = _record(owner, host="", process=None, epoch=epoch)
    write_atomic(_path_of_record(path), _encode(record), disk=disk)


def _path_of_record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _record(owner: str, *, host: str, process: int | None, epoch: int) -> dict[str, Any]:
    return {"format": _FORMAT, "owner": owner, "host": host, "process": process, "epoch": epoch}


def _encode(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode()


def _alive(holder: Mapping[str, Any], owner: str) -> bool:
    """Whether a holder without a kernel lock must be taken for alive."""
    if holder.get("process") is None:
        return False  # nobody yet, or given up
    if holder["host"] != socket.gethostname():
        return bool(holder["owner"] != owner)
    if holder["process"] == os.getpid():
        return False  # a restarted container: same host name, same process number
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
