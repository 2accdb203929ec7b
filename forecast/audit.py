"""The audit log: what was decided, when, by whom; also the registry's commit log.

One JSON line a record, in canonical form (sorted keys, no spaces), in segments (`audit_segments`).
Each record carries the SHA-256 of the one before it and of itself, so that a changed, removed or
reordered record is found, across segments too. A record that changes the registry holds the whole
new state: what is on disk after its `sync` has happened, all else has not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecast.audit_record import GENESIS, AuditRecord, line_of, record_of
from forecast.audit_segments import (
    Chain,
    Entry,
    Index,
    check_first,
    index_path,
    read_at,
    segment_path,
    segments,
    walk,
)
from forecast.errors import AuditError
from forecast.storage import DISK, Disk, make_folders, write_atomic

__all__ = ["GENESIS", "AuditCheck", "AuditLog", "AuditRecord", "verify"]

SEGMENT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """A log that verified: how many records, and the hash of the last one."""

    records: int
    head: str
    torn_bytes: int
    """Bytes of an unfinished record behind the last whole one."""


def verify(directory: Path, head: str | None = None, *, also: Sequence[str] = ()) -> AuditCheck:
    """Check the whole chain without touching a file; for any reader, at any time.

    `head`, a hash kept elsewhere, must still be in the chain, and those of `also`: that finds
    records cut off the end. Raises AuditError naming file and line, and what is wrong.
    """
    chain = Chain(directory).verified([*also, *([] if head is None else [head])])
    return AuditCheck(records=chain.records, head=chain.head, torn_bytes=chain.torn_bytes)


class AuditLog:
    """The log's one writer.

    A segment of `segment_bytes` or more is full: the next record begins another. Opening reads the
    last segment and the indexes of the full ones; `verify` reads all. An unfinished last record,
    which nobody was promised, is cut; `cut_bytes` says how much. A damaged record in the last
    segment, and a full segment that is missing or of another size, raise AuditError.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     log = AuditLog(Path(folder))
    ...     first = log.append(kind="pause", slot=7, who="ann", time_s=0.0, detail={"why": "test"})
    ...     again = AuditLog(Path(folder))
    ...     again.head == first.hash, again.verify().records, [r.kind for r in again.records()]
    (True, 1, ['pause'])
    """

    def __init__(
        self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES, disk: Disk = DISK
    ) -> None:
        self.directory = directory
        self._segment_bytes = segment_bytes
        self._disk = disk
        self._segments: list[tuple[int, Path]] = []
        self._entries: list[Entry] = []
        self._keys: dict[str, int] = {}
        self._size = 0
        """Bytes of whole records in the last segment."""
        self._dirty = False
        self._before_segment = self.head = GENESIS
        self.latest: AuditRecord | None = None
        """The last record that holds a state."""
        make_folders(directory, disk=disk)
        found = segments(directory) or [(1, self._new_segment(1))]
        for first, path in found[:-1]:
            self._take_full(first, path)
        stated = [number for number, entry in enumerate(self._entries, 1) if entry.has_state]
        self.latest = self.record(stated[-1]) if stated else None
        self.cut_bytes = self._take_last(*found[-1])
        if self.cut_bytes:
            self._cut()

    def append(
        self,
        *,
        kind: str,
        slot: int,
        who: str,
        time_s: float,
        detail: Mapping[str, Any],
        key: str | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> AuditRecord:
        """Write one record durably and return it; with a `key` seen before, the one that has it.

        `detail` and `state` hold what JSON holds, numpy's numbers too; a number that is not finite
        is kept as its name. When it raises OSError the record is not part of the log.
        """
        if key is not None and (known := self.find(key)) is not None:
            return known
        line = line_of(
            sequence=len(self._entries) + 1,
            kind=kind,
            slot=slot,
            who=who,
            time_s=time_s,
            key=key,
            detail=detail,
            state=state,
            previous=self.head,
        )
        record = record_of(line, where="a new record")
        if self._dirty:
            self._cut()
        if self._size >= self._segment_bytes:
            self._rotate()
        self._dirty = True
        self._disk.append(self._path, line)
        self._disk.sync(self._path)
        self._dirty = False
        self._remember(self._size, len(line), record)
        return record

    def find(self, key: str) -> AuditRecord | None:
        """The record with this key."""
        sequence = self._keys.get(key)
        return None if sequence is None else self.record(sequence)

    def __contains__(self, key: str) -> bool:
        """Whether there is a record with this key; reads none."""
        return key in self._keys

    def record(self, sequence: int) -> AuditRecord:
        """One record by its number; raises IndexError when there is none, AuditError for damage."""
        if not 1 <= sequence <= len(self._entries):
            raise IndexError(f"audit record {sequence}; there are {len(self._entries)}")
        place = bisect_right(self._segments, sequence, key=lambda segment: segment[0]) - 1
        return read_at(self._segments[place][1], self._entries[sequence - 1].offset)

    def records(
        self,
        *,
        since: int = 0,
        before: int | None = None,
        since_slot: int | None = None,
        kinds: Sequence[str] | None = None,
        newest_first: bool = False,
    ) -> Iterator[AuditRecord]:
        """Records after number `since` and before number `before`, of these kinds.

        And of slot `since_slot` or later.
        """
        end = len(self._entries) + 1
        numbers = range(since + 1, end if before is None else min(before, end))
        for number in reversed(numbers) if newest_first else numbers:
            entry = self._entries[number - 1]
            if kinds is not None and entry.kind not in kinds:
                continue
            if since_slot is None or entry.slot >= since_slot:
                yield self.record(number)

    def count(self, kind: str) -> int:
        """How many records are of a kind; reads none of them."""
        return sum(entry.kind == kind for entry in self._entries)

    def slots(self, kind: str) -> list[int]:
        """The slots of the records of a kind, oldest first; reads none of them."""
        return [entry.slot for entry in self._entries if entry.kind == kind]

    def verify(self, head: str | None = None) -> AuditCheck:
        """Check the files against the chain and against what this writer wrote; see `verify`."""
        check = verify(self.directory, head)
        if check.head != self.head:
            raise AuditError(
                f"{self._path}: ends with hash {check.head} after {check.records} records, but "
                f"{len(self._entries)} were written, the last with hash {self.head}"
            )
        return check

    def files(self) -> dict[str, Path]:
        """Every file of the log by its name, for a copy; only the last segment still grows."""
        paths = [path for _, path in self._segments]
        indexes = [index_path(path) for path in paths[:-1]]
        return {path.name: path for path in (*paths, *indexes)}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def _path(self) -> Path:
        """The last segment, the one that grows."""
        return self._segments[-1][1]

    def _take_full(self, first: int, path: Path) -> None:
        """Learn from its index what is in a full segment; from itself where there is none."""
        check_first(path, first, expected=len(self) + 1)
        index = Index.read(path)
        if index is None or not index.fits(path, first=first, previous=self.head):
            index = Index.of(path, path.read_bytes(), first=first, previous=self.head)
            write_atomic(index_path(path), index.to_bytes(), disk=self._disk)
        self._segments.append((first, path))
        for number, entry in enumerate(index.entries, start=first):
            self._entries.append(entry)
            if entry.key is not None:
                self._keys[entry.key] = number
        self.head = index.head

    def _take_last(self, first: int, path: Path) -> int:
        """Read the segment that grows; the bytes of an unfinished record at its end."""
        check_first(path, first, expected=len(self) + 1)
        self._begin(first, path)
        data = path.read_bytes()
        for offset, line, record in walk(path, data, first=first, previous=self.head, last=True):
            self._remember(offset, len(line), record)
        return len(data) - self._size

    def _rotate(self) -> None:
        """Begin another segment; the index of the full one is on disk before."""
        first = self._segments[-1][0]
        entries = tuple(self._entries[first - 1 :])
        index = Index(first, self._size, self._before_segment, self.head, entries)
        write_atomic(index_path(self._path), index.to_bytes(), disk=self._disk)
        following = len(self) + 1
        self._begin(following, self._new_segment(following))

    def _new_segment(self, first: int) -> Path:
        path = segment_path(self.directory, first)
        self._disk.write(path, b"")
        self._disk.sync(self.directory)
        return path

    def _begin(self, first: int, path: Path) -> None:
        self._segments.append((first, path))
        self._size, self._before_segment = 0, self.head

    def _remember(self, offset: int, length: int, record: AuditRecord) -> None:
        self._entries.append(Entry.of(offset, record))
        self._size = offset + length
        self.head = record.hash
        if record.key is not None:
            self._keys[record.key] = record.sequence
        if record.state is not None:
            self.latest = record

    def _cut(self) -> None:
        """Drop what stands behind the last whole record."""
        self._disk.truncate(self._path, self._size)
        self._disk.sync(self._path)
        self._dirty = False
