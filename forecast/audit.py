"""The audit log: what was decided, when, by whom; also the registry's commit log.

One JSON line a record in `audit.jsonl`, in canonical form (sorted keys, no spaces). Each record
carries the SHA-256 of the one before it and of itself, so that a changed, removed or reordered
record is found. A record that changes the registry holds the whole new state: what is on disk
after its `sync` has happened, all else has not.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from forecast.canonical import canonical, plain, sha256
from forecast.errors import AuditError
from forecast.storage import DISK, Disk, make_folders

FORMAT = 1
GENESIS = "0" * 64
"""What the first record names as the hash before it."""

_FILE = "audit.jsonl"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One line of the log."""

    sequence: int
    """1, 2, 3, ..."""
    kind: str
    """`register`, `promote`, `reject`, `rollback`, `alias`, or any other event's name."""
    slot: int
    """Event time of the decision."""
    who: str
    time_s: float
    """Wall clock, seconds since 1970; says when, decides nothing."""
    key: str | None
    """At most one record has a given key; a repeated call finds it and changes nothing."""
    detail: dict[str, Any]
    state: dict[str, Any] | None
    """The whole state after this record; None when it changed none."""
    previous: str
    hash: str

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in the file."""
        return {"format": FORMAT, **asdict(self)}


_NAMES = {"format", *(field.name for field in fields(AuditRecord))}


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """A log that verified: how many records, and the hash of the last one."""

    records: int
    head: str
    torn_bytes: int
    """Bytes of an unfinished record behind the last whole one."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a record stands, so that one can be read without the others."""

    offset: int
    kind: str
    slot: int


def verify(directory: Path, head: str | None = None) -> AuditCheck:
    """Check the whole chain without touching the file; for any reader, at any time.

    `head`, a hash kept elsewhere, must still be in the chain: that finds records cut off the end.
    Raises AuditError naming the line and what is wrong with it.
    """
    hashes: set[str] = set()
    last, records, end = GENESIS, 0, 0
    path = directory / _FILE
    data = path.read_bytes() if path.exists() else b""
    for offset, line, record in _walk(path, data):
        last, records, end = record.hash, records + 1, offset + len(line)
        hashes.add(last)
    if head is not None and head != GENESIS and head not in hashes:
        raise AuditError(f"{path}: the record with hash {head} is missing; {records} are there")
    return AuditCheck(records=records, head=last, torn_bytes=len(data) - end)


class AuditLog:
    """The log's one writer.

    Opening checks the whole chain and cuts an unfinished last record, which nobody was promised;
    `cut_bytes` says how much. A damaged record before the end raises AuditError.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     log = AuditLog(Path(folder))
    ...     first = log.append(kind="pause", slot=7, who="ann", time_s=0.0, detail={"why": "test"})
    ...     again = AuditLog(Path(folder))
    ...     again.head == first.hash, again.verify().records, [r.kind for r in again.records()]
    (True, 1, ['pause'])
    """

    def __init__(self, directory: Path, *, disk: Disk = DISK) -> None:
        self._path = directory / _FILE
        self._disk = disk
        self._entries: list[_Entry] = []
        self._keys: dict[str, int] = {}
        self._size = 0
        self._dirty = False
        self.head = GENESIS
        self.latest: AuditRecord | None = None
        """The last record that holds a state."""
        make_folders(directory, disk=disk)
        if not self._path.exists():
            disk.write(self._path, b"")
            disk.sync(directory)
        data = self._path.read_bytes()
        for offset, line, record in _walk(self._path, data):
            self._remember(offset, len(line), record)
        self.cut_bytes = len(data) - self._size
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
        body = {
            "format": FORMAT,
            "sequence": len(self._entries) + 1,
            "kind": kind,
            "slot": int(slot),
            "who": who,
            "time_s": float(time_s),
            "key": key,
            "detail": plain(detail),
            "state": None if state is None else plain(state),
            "previous": self.head,
        }
        line = canonical({**body, "hash": _hash(body)}) + b"\n"
        record = _record(line)
        if self._dirty:
            self._cut()
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

    def record(self, sequence: int) -> AuditRecord:
        """One record by its number; raises IndexError when there is none."""
        if not 1 <= sequence <= len(self._entries):
            raise IndexError(f"audit record {sequence}; there are {len(self._entries)}")
        with self._path.open("rb") as file:
            file.seek(self._entries[sequence - 1].offset)
            return _record(file.readline())

    def records(
        self,
        *,
        since: int = 0,
        since_slot: int | None = None,
        kinds: Sequence[str] | None = None,
        newest_first: bool = False,
    ) -> Iterator[AuditRecord]:
        """Records after number `since`, of these kinds, of slot `since_slot` or later."""
        numbers = range(since + 1, len(self._entries) + 1)
        for number in reversed(numbers) if newest_first else numbers:
            entry = self._entries[number - 1]
            if kinds is not None and entry.kind not in kinds:
                continue
            if since_slot is None or entry.slot >= since_slot:
                yield self.record(number)

    def verify(self, head: str | None = None) -> AuditCheck:
        """Check the file against the chain and against what this writer wrote; see `verify`."""
        check = verify(self._path.parent, head)
        if check.head != self.head:
            raise AuditError(
                f"{self._path}: ends with hash {check.head} after {check.records} records, but "
                f"{len(self._entries)} were written, the last with hash {self.head}"
            )
        return check

    def __len__(self) -> int:
        return len(self._entries)

    def _remember(self, offset: int, length: int, record: AuditRecord) -> None:
        self._entries.append(_Entry(offset, record.kind, record.slot))
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


def _hash(body: Mapping[str, Any]) -> str:
    return sha256(canonical(body))


def _record(line: bytes) -> AuditRecord:
    found = json.loads(line)
    del found["format"]
    return AuditRecord(**found)


def _walk(path: Path, data: bytes) -> Iterator[tuple[int, bytes, AuditRecord]]:
    """(offset, line, record) of each whole record; stops before an unfinished last one.

    Unfinished is a last line without its line end, or one that is no JSON at all: a power cut can
    leave the end of a write without its beginning.
    """
    last, offset = GENESIS, 0
    for number, line in enumerate(io.BytesIO(data), start=1):
        where = f"{path}: line {number}"
        final = offset + len(line) == len(data)
        if final and not line.endswith(b"\n"):
            return
        try:
            found = json.loads(line)
        except ValueError as error:
            if final:
                return
            raise AuditError(f"{where}: not JSON: {error}") from error
        _check(found, line, where=where)
        if found["previous"] != last:
            raise AuditError(
                f"{where}: a record before it is missing, added or in another place: it follows "
                f"hash {found['previous']}, but {last} stands there"
            )
        if found["sequence"] != number:
            raise AuditError(f"{where}: record {found['sequence']} stands at place {number}")
        yield offset, line, _record(line)
        last = found["hash"]
        offset += len(line)


def _check(found: Any, line: bytes, *, where: str) -> None:  # noqa: ANN401
    """Raise AuditError unless the line is a record of our format that hashes to what it says."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        number = found.get("format") if isinstance(found, dict) else found
        raise AuditError(f"{where}: format {number!r}; this code reads {FORMAT}")
    body = {name: value for name, value in found.items() if name != "hash"}
    try:
        whole = found.keys() == _NAMES and found["hash"] == _hash(body)
        whole = whole and canonical(found) + b"\n" == line
    except ValueError:  # a NaN, which no record of ours holds
        whole = False
    if not whole:
        raise AuditError(f"{where}: the record was changed: its hash does not fit its content")
