"""An append-only log in segments, and the snapshot that lets old segments go.

    log-00000007.seg   a head that says what the records are about, then records
    snapshot-00000007  a head, and the records of the state before segment 7

A crash can leave the end of the last segment unfinished (`train/frames.py`); that torn tail was
never acknowledged, is cut, and counted in `torn_bytes`. Anything else that does not read is damage,
and a StateError names file and offset: nothing acknowledged goes in silence.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from forecast.errors import StateError
from forecast.storage import DISK, TEMPORARY, Disk, make_folders
from train.frames import Record, frame, frames

__all__ = ["FORMAT", "Record", "SegmentLog"]

FORMAT = 1


class SegmentLog:
    """The log of one directory, for one writer.

    `acknowledge` says what `sync` promises: with `write` a record survives the process as soon as
    it is written, with `fsync` the machine once it is synced; many records may share one sync.
    `about` is written at the head of each segment of this run and comes back with its records.
    Read `snapshot` and `replay` before the first record is written.

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
        self._settled = (0, 0)
        self._broken: str | None = None
        self._closed = False
        # `sync` may run beside `write`, but not beside what changes which segment is written.
        self._segments_stay = threading.RLock()

    @property
    def nbytes(self) -> int:
        """Bytes of all segments on disk, the snapshot apart."""
        return sum(self._sizes.values())

    def snapshot(self) -> Iterator[Record]:
        """The records of the state before the oldest segment; none when there was no snapshot."""
        path = self._snapshot_path(self._first)
        if path.exists():
            records = (record for _, record in frames(path.read_bytes(), path, may_tear=False))
            _check_format(next(records, None), path)
            yield from records

    def replay(self) -> Iterator[tuple[Mapping[str, Any], Record]]:
        """Every record after the snapshot, oldest first, each with its segment's `about`.

        Cuts a torn tail when it comes to it, and makes sure of what stays: a record that the run
        before had written and not yet synced counts as acknowledged from here on, and is synced.
        """
        for number in list(self._segments):
            path, last = self._path(number), number == self._segments[-1]
            data = path.read_bytes()
            end, head = 0, None
            for end, record in frames(data, path, may_tear=last):  # noqa: B007
                if head is None:
                    head = record
                    _check_format(head, path)
                else:
                    yield head.header["about"], record
            if not last:
                _check_format(head, path)
                continue
            if end < len(data) or head is None:
                self._cut(number, end, len(data))
            else:  # only the last segment may ever be torn, and soon it is not the last one
                self._disk.sync(path)

    @property
    def syncs(self) -> bool:
        """Whether a record needs `sync` before it is acknowledged."""
        return self._fsync

    @property
    def stopped(self) -> bool:
        """Whether an error left it unknown what is on disk: only `compact` makes it go on."""
        return self._broken is not None

    def append(self, record: Record) -> None:
        """Add a record; it is acknowledged when this returns. Raises as `write` and `sync` do."""
        self.write(record)
        self.sync()

    def write(self, record: Record) -> None:
        """Add a record, which `sync` then makes sure of.

        Raises StateError when it cannot be written. The log is then as before the call, or, when
        even that cannot be made sure, refuses every further record.
        """
        self._may_go_on()
        number = self._writable()
        path, size = self._path(number), self._sizes[number]
        before = size
        if self._fsync:
            segment, synced = self._settled
            before = synced if segment == number else 0
        data = frame(record, settled=None if before == size else before)
        try:
            self._disk.append(path, data)
        except OSError as error:
            self._undo(number, size, error)
            raise StateError(f"{path}: cannot write: {error}") from error
        self._sizes[number] = size + len(data)

    def sync(self) -> None:
        """Make sure, as `acknowledge` asks, of every record written before; may run in a thread.

        Raises StateError when that fails. Nobody knows then what is on disk: the log stops.
        """
        if not self._fsync:
            return
        with self._segments_stay:
            self._may_go_on()
            number = self._open
            if number is None or self._settled == (number, size := self._sizes[number]):
                return
            self._sync_segment(number)
            self._settled = (number, size)

    def compact(self, state: Iterable[Record]) -> None:
        """Write a snapshot of the state after all records, then drop the segments before it.

        A log that stopped goes on after it. Raises StateError when the snapshot cannot be written;
        the log is then what it was.
        """
        with self._segments_stay:
            if self._closed:
                self._may_go_on()
            try:
                if self._broken is None:
                    # A new segment first: a snapshot that was renamed, but of which this call then
                    # could not be sure, must never stand before records that came later.
                    number = self._begin_segment()
                    self._write_snapshot(number, state)
                else:
                    # The snapshot first: nothing is written meanwhile, and the segment of which
                    # nobody knows what is on disk has to stay the last one until it is replaced.
                    self._write_snapshot(self._next(), state)
                    self._open = None
                    number = self._begin_segment()
                    self._broken = None
                self._first, self._segments = number, [number]
                self._sizes = {number: self._sizes[number]}
                self._tidy()
            except OSError as error:
                raise StateError(f"{self._directory}: snapshot and truncate: {error}") from error

    def _write_snapshot(self, number: int, state: Iterable[Record]) -> None:
        path = self._snapshot_path(number)
        temporary = path.with_name(f"{TEMPORARY}{path.name}")
        try:
            self._disk.write(temporary, self._head())
            for record in state:
                self._disk.append(temporary, frame(record))
            self._disk.sync(temporary)
            self._disk.rename(temporary, path)
        except OSError:
            self._drop(temporary)  # on a full disk a half-written one would take what is left
            raise
        self._disk.sync(self._directory)

    def close(self) -> None:
        """Make everything written durable; raises StateError when that fails."""
        if self._closed:
            return
        self._closed = True
        with self._segments_stay:
            if self._open is not None and self._broken is None:
                self._sync_segment(self._open)
            self._broken = self._broken or "it was closed"

    def _may_go_on(self) -> None:
        if self._broken is not None:
            raise StateError(f"{self._directory}: the log stopped: {self._broken}")

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
        with self._segments_stay:
            if self._open is not None:
                self._sync_segment(self._open)  # only the last segment may ever be torn
            number, head = self._next(), self._head()
            try:
                self._disk.write(self._path(number), head)
                self._disk.sync(self._directory)
            except OSError:
                self._drop(self._path(number))
                raise
            self._segments.append(number)
            self._sizes[number] = len(head)
            self._open, self._settled = number, (number, 0)
            return number

    def _next(self) -> int:
        return self._segments[-1] + 1 if self._segments else self._first

    def _sync_segment(self, number: int) -> None:
        """After a failed sync nobody knows what of the file is on disk: the log stops."""
        path = self._path(number)
        try:
            self._disk.sync(path)
        except OSError as error:
            self._broken = f"{path}: cannot sync: {error}"
            raise StateError(self._broken) from error

    def _undo(self, number: int, size: int, error: OSError) -> None:
        """Take back a record of which only a part may have been written."""
        try:
            self._disk.truncate(self._path(number), size)
        except OSError:
            self._broken = f"{self._path(number)}: {error}"

    def _drop(self, path: Path) -> None:
        """Remove what could not be finished; what cannot be removed now, the next start removes."""
        with contextlib.suppress(OSError):
            self._disk.remove(path)

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
        return frame(Record({"format": FORMAT, "about": self._about}, {}))

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
