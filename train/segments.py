"""An append-only log in segments, and the snapshot that lets old segments go.

    log-00000007.seg   a head that says what the records are about, then records
    snapshot-00000007  a head, and the records of the state before segment 7

A frame is a marker, the payload's length, a CRC-32 of length and payload, and the payload: JSON and
arrays (`forecast/packing.py`). A crash can leave the last frame of the last segment unfinished;
that torn tail was never acknowledged, is cut, and counted in `torn_bytes`. Anything else that does
not read is damage, and a StateError names file and offset: nothing acknowledged goes in silence.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from forecast.errors import StateError
from forecast.packing import pack, unpack
from forecast.storage import DISK, TEMPORARY, Disk, make_folders

FORMAT = 1

_KIND = "log record"
_MARK = b"\xf1eet"
_FRAME = struct.Struct("<4sQI")
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Record:
    """JSON values and named arrays; read arrays are views of what was read."""

    header: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


class SegmentLog:
    """The log of one directory, for one writer.

    `acknowledge` says when `append` returns: after `write` a record survives the process, after
    `fsync` the machine. `about` is written at the head of each segment of this run and comes back
    with its records. Read `snapshot` and `replay` before the first append.

    Raises StateError for damage, a missing segment or an unknown format.

    >>> import numpy as np
    >>> from tempfile import TemporaryDirectory
    >>> folder = TemporaryDirectory()
    >>> log = SegmentLog(Path(folder.name), acknowledge="write", segment_bytes=1 << 20, about={})
    >>> log.append(Record({"n": 1}, {"x": np.array([0.5])}))
    >>> again = SegmentLog(Path(folder.name), acknowledge="write", segment_bytes=1 << 20, about={})
    >>> [(record.header["n"], record.arrays["x"].tolist()) for _, record in again.replay()]
    [(1, [0.5])]
    >>> folder.cleanup()
    """

    def __init__(
        self,
        directory: Path,
        *,
        acknowledge: Literal["write", "fsync"],
        segment_bytes: int,
        about: Mapping[str, Any],
        disk: Disk = DISK,
    ) -> None:
        self._directory = directory
        self._fsync = acknowledge == "fsync"
        self._segment_bytes = segment_bytes
        self._about = dict(about)
        self._disk = disk
        self.torn_bytes = 0
        """Bytes of unfinished records that were cut when the log was read."""
        make_folders(directory, disk=disk)
        snapshots = self._tidy()
        self._first = snapshots[-1] if snapshots else 1
        self._segments = self._numbers("log-*.seg")
        expected = list(range(self._first, self._first + len(self._segments)))
        if self._segments != expected:
            lost = sorted(set(range(self._first, max(self._segments) + 1)) - set(self._segments))
            raise StateError(f"{directory}: log segments {lost} are missing")
        self._sizes = {number: self._path(number).stat().st_size for number in self._segments}
        self._open: int | None = None
        self._broken: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all segments on disk, the snapshot apart."""
        return sum(self._sizes.values())

    def snapshot(self) -> Iterator[Record]:
        """The records of the state before the oldest segment; none when there was no snapshot."""
        path = self._snapshot_path(self._first)
        if path.exists():
            records = (record for _, record in _frames(path.read_bytes(), path, may_tear=False))
            _check_format(next(records, None), path)
            yield from records

    def replay(self) -> Iterator[tuple[Mapping[str, Any], Record]]:
        """Every record after the snapshot, oldest first, each with its segment's `about`.

        Cuts a torn tail when it comes to it.
        """
        for number in list(self._segments):
            path, last = self._path(number), number == self._segments[-1]
            data = path.read_bytes()
            end, head = 0, None
            for end, record in _frames(data, path, may_tear=last):  # noqa: B007
                if head is None:
                    head = record
                    _check_format(head, path)
                else:
                    yield head.header["about"], record
            if not last:
                _check_format(head, path)
            elif end < len(data) or head is None:
                self._cut(number, end, len(data))

    def append(self, record: Record) -> None:
        """Add a record; it is acknowledged when this returns.

        Raises StateError when it cannot be written. The log is then as before the call, or, when
        even that cannot be made sure, refuses every further record.
        """
        if self._broken is not None:
            raise StateError(f"{self._directory}: the log stopped: {self._broken}")
        data = _frame(record)
        number = self._writable()
        path, size = self._path(number), self._sizes[number]
        try:
            self._disk.append(path, data)
            if self._fsync:
                self._disk.sync(path)
        except OSError as error:
            self._undo(number, size, error)
            raise StateError(f"{path}: cannot write: {error}") from error
        self._sizes[number] = size + len(data)

    def compact(self, state: Iterable[Record]) -> None:
        """Write a snapshot of the state after all records, then drop the segments before it.

        Raises StateError when it cannot be written; the log goes on as it was.
        """
        try:
            # A new segment first: a snapshot that was renamed, but of which this call then could
            # not be sure, must never stand before records that came later.
            number = self._begin_segment()
            self._write_snapshot(number, state)
            self._first, self._segments = number, [number]
            self._sizes = {number: self._sizes[number]}
            self._tidy()
        except OSError as error:
            raise StateError(f"{self._directory}: snapshot and truncate: {error}") from error

    def _write_snapshot(self, number: int, state: Iterable[Record]) -> None:
        path = self._snapshot_path(number)
        temporary = path.with_name(f"{TEMPORARY}{path.name}")
        self._disk.write(temporary, self._head())
        for record in state:
            self._disk.append(temporary, _frame(record))
        self._disk.sync(temporary)
        self._disk.rename(temporary, path)
        self._disk.sync(self._directory)

    def close(self) -> None:
        """Make everything written durable."""
        if self._open is not None and self._broken is None:
            self._disk.sync(self._path(self._open))
        self._broken = self._broken or "it was closed"

    def _writable(self) -> int:
        """The segment to append to: a new one for each run, and when one is full."""
        current = self._open
        if current is not None and self._sizes[current] < self._segment_bytes:
            return current
        try:
            return self._begin_segment()
        except OSError as error:
            raise StateError(f"{self._directory}: cannot begin a segment: {error}") from error

    def _begin_segment(self) -> int:
        if self._open is not None:
            self._disk.sync(self._path(self._open))  # only the last segment may ever be torn
        number = self._segments[-1] + 1 if self._segments else self._first
        head = self._head()
        self._disk.write(self._path(number), head)
        self._disk.sync(self._directory)
        self._segments.append(number)
        self._sizes[number] = len(head)
        self._open = number
        return number

    def _undo(self, number: int, size: int, error: OSError) -> None:
        """Take back a record of which only a part may have been written."""
        try:
            self._disk.truncate(self._path(number), size)
        except OSError:
            self._broken = f"{self._path(number)}: {error}"
        if self._fsync:
            # After a failed fsync nobody knows what of the file's earlier pages is on disk.
            self._broken = f"{self._path(number)}: {error}"

    def _cut(self, number: int, end: int, size: int) -> None:
        self.torn_bytes += size - end
        path = self._path(number)
        if end == 0:  # not even the head: the segment was just being made
            self._disk.remove(path)
            self._disk.sync(self._directory)
            self._segments.remove(number)
            del self._sizes[number]
            return
        self._disk.truncate(path, end)
        self._disk.sync(path)
        self._sizes[number] = end

    def _tidy(self) -> list[int]:
        """Remove what the newest snapshot replaced, and unfinished files; the snapshots left."""
        for path in self._directory.glob(f"{TEMPORARY}*"):
            self._disk.remove(path)
        snapshots = self._numbers("snapshot-*")
        for number in self._numbers("log-*.seg"):
            if snapshots and number < snapshots[-1]:
                self._disk.remove(self._path(number))
        for number in snapshots[:-1]:
            self._disk.remove(self._snapshot_path(number))
        return snapshots[-1:]

    def _head(self) -> bytes:
        return _frame(Record({"format": FORMAT, "about": self._about}, {}))

    def _numbers(self, pattern: str) -> list[int]:
        names = (path.stem.split("-")[1] for path in self._directory.glob(pattern))
        return sorted(int(name) for name in names)

    def _path(self, number: int) -> Path:
        return self._directory / f"log-{number:08d}.seg"

    def _snapshot_path(self, number: int) -> Path:
        return self._directory / f"snapshot-{number:08d}"


def _check_format(head: Record | None, path: Path) -> None:
    if (found := head and head.header.get("format")) != FORMAT:
        raise StateError(f"{path}: format {found!r}, this program reads format {FORMAT}")


def _frame(record: Record) -> bytes:
    payload = pack(_KIND, record.header, record.arrays)
    return _FRAME.pack(_MARK, len(payload), _checksum(payload)) + payload


def _checksum(payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(_LENGTH.pack(len(payload))))


def _frames(data: bytes, path: Path, *, may_tear: bool) -> Iterator[tuple[int, Record]]:
    """The end and the content of each frame; stops before a torn tail where there may be one."""
    at = 0
    while at < len(data):
        frame = _read_frame(data, at)
        if frame is None:
            if may_tear and not _readable_after(data, at):
                return
            raise StateError(f"{path}: damaged at byte {at} of {len(data)}")
        at, record = frame
        yield at, record


def _read_frame(data: bytes, at: int) -> tuple[int, Record] | None:
    """The end and the content of the frame that begins here; None when no whole frame does."""
    if len(data) - at < _FRAME.size:
        return None
    mark, length, checksum = _FRAME.unpack_from(data, at)
    end = at + _FRAME.size + length
    if mark != _MARK or end > len(data):
        return None
    payload = memoryview(data)[at + _FRAME.size : end]
    return (end, Record(*unpack(_KIND, payload))) if _checksum(payload) == checksum else None


def _readable_after(data: bytes, at: int) -> bool:
    """Whether a whole frame follows further on: then this is damage in the middle, not a tear."""
    while (at := data.find(_MARK, at + 1)) >= 0:
        if _read_frame(data, at) is not None:
            return True
    return False
