"""The audit log's files: segments that continue one chain, each full one with an index beside it.

    audit.jsonl                 records 1 to n; all there is until it is full
    audit-000000000457.jsonl    the segment that begins with record 457
    audit.index.json, ...       of a full segment: where each of its records stands, under which key

A full segment never changes, so its index says all that opening needs to know. An index is derived:
one that is missing or damaged is made again from the segment.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from forecast.audit_record import GENESIS, AuditRecord, record_of
from forecast.canonical import canonical, sha256
from forecast.errors import AuditError

log = logging.getLogger("fleetcast.audit")

FIRST = "audit.jsonl"
_FORMAT = 1
_NAME = re.compile(r"audit-(\d{12})\.jsonl")


class Entry(NamedTuple):
    """Where a record stands in its segment, so that one can be read without the others."""

    offset: int
    kind: str
    slot: int
    key: str | None
    has_state: bool

    @classmethod
    def of(cls, offset: int, record: AuditRecord) -> Self:
        """The entry of a record."""
        return cls(offset, record.kind, record.slot, record.key, record.state is not None)


def segment_path(directory: Path, first: int) -> Path:
    """The segment that begins with this record."""
    return directory / (FIRST if first == 1 else f"audit-{first:012d}.jsonl")


def index_path(segment: Path) -> Path:
    """The index of a full segment."""
    return segment.with_name(f"{segment.stem}.index.json")


def segments(directory: Path) -> list[tuple[int, Path]]:
    """The number of its first record and the path of each segment, in order.

    Raises AuditError when the first one is missing.
    """
    found = [
        (int(match[1]), path)
        for path in sorted(directory.glob("audit-*.jsonl"))
        if (match := _NAME.fullmatch(path.name))
    ]
    if (first := directory / FIRST).exists():
        return [(1, first), *found]
    if found:
        raise AuditError(f"{first} is missing: {found[0][1].name} continues it")
    return []


def check_first(path: Path, first: int, *, expected: int) -> None:
    """Raise AuditError where a segment does not go on at the record after the one before it."""
    if first > expected:
        raise AuditError(
            f"{path}: records {expected} to {first - 1} are missing: a segment before it is gone, "
            "or its end is cut off"
        )
    if first < expected:
        raise AuditError(f"{path}: begins with record {first}, but {expected - 1} came before it")


def walk(
    path: Path, data: bytes, *, first: int, previous: str, last: bool
) -> Iterator[tuple[int, bytes, AuditRecord]]:
    """(offset, line, record) of each record of a segment that begins with `first`.

    In the `last` segment it stops before an unfinished last record: a line without its line end,
    or one that is no JSON at all, as a power cut can leave the end of a write without its
    beginning. Raises AuditError naming the line and what is wrong with it.
    """
    offset = 0
    for number, line in enumerate(io.BytesIO(data), start=1):
        where = f"{path}: line {number}"
        final = last and offset + len(line) == len(data)
        if final and (not line.endswith(b"\n") or not _is_json(line)):
            return
        record = record_of(line, where=where)
        if record.previous != previous:
            raise AuditError(
                f"{where}: a record before it is missing, added or in another place: it follows "
                f"hash {record.previous}, but {previous} stands there"
            )
        if record.sequence != first + number - 1:
            raise AuditError(
                f"{where}: record {record.sequence} stands at place {first + number - 1}"
            )
        yield offset, line, record
        previous = record.hash
        offset += len(line)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Index:
    """What is known of a full segment without reading it."""

    first: int
    size: int
    """Bytes of the segment."""
    previous: str
    """The hash of the record before its first."""
    head: str
    """The hash of its last record."""
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, path: Path, data: bytes, *, first: int, previous: str) -> Self:
        """Of a segment as it is read, checked record by record; raises AuditError."""
        head, entries = previous, []
        for offset, _, record in walk(path, data, first=first, previous=previous, last=False):
            head = record.hash
            entries.append(Entry.of(offset, record))
        return cls(first, len(data), previous, head, tuple(entries))

    def to_bytes(self) -> bytes:
        """As it stands in its file: JSON with its own checksum."""
        body = {
            "format": _FORMAT,
            "first": self.first,
            "size": self.size,
            "previous": self.previous,
            "head": self.head,
            "entries": [list(entry) for entry in self.entries],
        }
        return canonical({**body, "sha256": sha256(canonical(body))})

    @classmethod
    def read(cls, segment: Path) -> Self | None:
        """The index beside a segment; None where it is missing or damaged."""
        path = index_path(segment)
        try:
            body = json.loads(path.read_bytes())
            if body.pop("sha256") != sha256(canonical(body)) or body.pop("format") != _FORMAT:
                raise ValueError("its checksum or format is another")
            entries = tuple(Entry(*entry) for entry in body.pop("entries"))
            return cls(**body, entries=entries)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s is damaged and is made again: %s", path, error)
            return None

    def fits(self, segment: Path, *, first: int, previous: str) -> bool:
        """Whether it is of this segment at this place in the chain, to the last record."""
        at_place = (self.first, self.previous) == (first, previous) and bool(self.entries)
        if not at_place or segment.stat().st_size != self.size:
            return False
        last = read_at(segment, self.entries[-1].offset)
        return last.hash == self.head and last.sequence == first + len(self.entries) - 1


def read_at(segment: Path, offset: int) -> AuditRecord:
    """The record at a place, checked; raises AuditError."""
    with segment.open("rb") as file:
        file.seek(offset)
        return record_of(file.readline(), where=f"{segment}: byte {offset}")


@dataclass(slots=True)
class Chain:
    """A whole log, read from its beginning and checked record by record; it touches nothing.

    Iterating raises AuditError at the first thing that is wrong; afterwards the fields say what
    was there.
    """

    directory: Path
    records: int = 0
    head: str = GENESIS
    torn_bytes: int = 0
    """Bytes of an unfinished record behind the last whole one."""

    def __iter__(self) -> Iterator[AuditRecord]:
        found = segments(self.directory)
        for place, (first, path) in enumerate(found):
            check_first(path, first, expected=self.records + 1)
            yield from self._segment(path, last=place == len(found) - 1)

    def verified(self, heads: Sequence[str]) -> Self:
        """Read it all; hashes kept elsewhere must still be in it.

        Raises AuditError for what is wrong, and for a hash that is missing.
        """
        wanted = {head for head in heads if head != GENESIS}
        for record in self:
            wanted.discard(record.hash)
        if wanted:
            raise AuditError(
                f"{self.directory / FIRST}: the record with hash {min(wanted)} is missing; "
                f"{self.records} are there"
            )
        return self

    def _segment(self, path: Path, *, last: bool) -> Iterator[AuditRecord]:
        data, first, previous = path.read_bytes(), self.records + 1, self.head
        entries, end = [], 0
        for offset, line, record in walk(path, data, first=first, previous=previous, last=last):
            self.records, self.head = record.sequence, record.hash
            entries.append(Entry.of(offset, record))
            end = offset + len(line)
            yield record
        self.torn_bytes = len(data) - end
        if last or (said := Index.read(path)) is None:
            return
        if said != Index(first, len(data), previous, self.head, tuple(entries)):
            raise AuditError(f"{index_path(path)}: says something else than its segment")
