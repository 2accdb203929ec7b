"""The ledger's SQLite file: tables, one writer, and statements; what they mean is in `ledger`.

    counters        scored_through, step_seconds, issued_blocks, scored_slots, scored_cells, and
                    saved:LAYOUT, the slot up to which the sums by server are here
    blocks          (slot, member) -> packed ForecastBlock, and what was scored before it was issued
    reports         slot           -> packed StepReport
    fleet_sums      (day, among, beside, member, version) -> sums [T, H, F] over servers
    server_sums     (day, paired, member, part)           -> sums [S, T, H, F] of a part of them
    derived         what the derived members know up to saved:LAYOUT
    snapshot        the newest packed Snapshot

`layout` says for which targets, levels and horizon a row was made. Version -1 is none, an empty
`among` the common cells.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from forecast.errors import StateError

FORMAT = 2
"""The file's PRAGMA user_version; another number is refused."""


class FleetKey(NamedTuple):
    """Whose sums over the fleet, and on which cells."""

    beside: int | None
    """The champion's version at the origin."""
    member: str
    version: int | None
    """The member's own."""
    among: str | None
    """The member whose pair with the champion it is; None for the common cells."""


ServerKey = tuple[bool, str]
"""Whether a champion was compared at the origin, the member."""

_NONE = -1
_PAGE = 16384
"""Bytes; most rows are blobs of many pages."""
_PAGES_AT_ONCE = 256
"""In a copy; between them others may read."""

_TABLES = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE blocks (slot INTEGER NOT NULL, member TEXT NOT NULL, layout TEXT NOT NULL,
    after INTEGER, data BLOB NOT NULL, PRIMARY KEY (slot, member));
CREATE TABLE reports (slot INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE fleet_sums (day INTEGER NOT NULL, layout TEXT NOT NULL, among TEXT NOT NULL,
    beside INTEGER NOT NULL, member TEXT NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (day, layout, among, beside, member, version));
CREATE TABLE server_sums (day INTEGER NOT NULL, layout TEXT NOT NULL, paired INTEGER NOT NULL,
    member TEXT NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (day, layout, paired, member, part));
CREATE TABLE derived (layout TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL,
    data BLOB NOT NULL);
"""


class LedgerFile:
    """The open file. It stays locked against other processes until `close`. Without a `path` all of
    it is in memory, and gone when it is closed.

    `acknowledge` says what the end of a transaction promises: with `write` it survives the process,
    with `fsync` the machine. Either way the file is whole after a crash.

    Raises StateError when another process has it open, and when it is damaged, of an unknown format
    or of another step.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        step_seconds: int,
        lock_timeout_s: float,
        acknowledge: Literal["write", "fsync"] = "fsync",
    ) -> None:
        self._path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        # Ray may run the constructor in another thread than the methods; calls never overlap.
        self._db = sqlite3.connect(
            path or ":memory:",
            timeout=lock_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._open(step_seconds, acknowledge)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StateError(f"{path}: {error}; is another ledger using it?") from error
        except BaseException:
            self._db.close()
            raise

    def _open(self, step_seconds: int, acknowledge: str) -> None:
        # Exclusive: a second writer would fold into sums that this one holds in memory. The size of
        # a page counts for a new file only.
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute(f"PRAGMA page_size={_PAGE}")
        self._db.execute("PRAGMA journal_mode=WAL")
        # NORMAL syncs the write-ahead log only before it is folded into the file.
        level = "FULL" if acknowledge == "fsync" else "NORMAL"
        self._db.execute(f"PRAGMA synchronous={level}")
        with self.transaction():
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                self._create(step_seconds)
            elif found != FORMAT:
                raise StateError(f"{self._path}: format {found} is unknown, need {FORMAT}")
            if (known := self.counter("step_seconds")) != step_seconds:
                raise StateError(
                    f"{self._path}: holds slots of {known} s, the panel's step is {step_seconds} s"
                )

    def _create(self, step_seconds: int) -> None:
        for statement in _TABLES.split(";"):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version={FORMAT}")
        self.set_counter("step_seconds", step_seconds)
        for name in ("issued_blocks", "scored_slots", "scored_cells"):
            self.set_counter(name, 0)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is written inside, or nothing; acknowledged when it ends.

        Raises StateError when the disk is full or fails; what the file holds is then as before.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise StateError(f"{self._path}: cannot write: {error}") from error
            raise

    def counter(self, name: str) -> int | None:
        """A counter's value; None before it was set."""
        query = "SELECT value FROM counters WHERE name = ?"
        row = self._db.execute(query, (name,)).fetchone()
        return None if row is None else int(row[0])

    def set_counter(self, name: str, value: int) -> None:
        """Set a counter."""
        self._db.execute("REPLACE INTO counters VALUES (?, ?)", (name, value))

    def raise_counter(self, name: str, by: int) -> None:
        """Add to a counter, which begins at 0."""
        self.set_counter(name, (self.counter(name) or 0) + by)

    def insert_block(
        self, slot: int, member: str, layout: str, after: int | None, data: bytes
    ) -> bool:
        """Keep a block; false when this slot and member have one.

        `after` is the last slot that was scored before: of those, it took no part.
        """
        statement = "INSERT OR IGNORE INTO blocks VALUES (?, ?, ?, ?, ?)"
        return self._db.execute(statement, (slot, member, layout, after, data)).rowcount > 0

    def has_blocks(self, slot: int) -> bool:
        """Whether anything was issued at a slot."""
        query = "SELECT 1 FROM blocks WHERE slot = ? LIMIT 1"
        return self._db.execute(query, (slot,)).fetchone() is not None

    def blocks(self, slot: int, layout: str | None) -> list[tuple[int | None, bytes]]:
        """Those of a slot in their order, each with its `after`; of one layout (None: of all)."""
        query = "SELECT after, data FROM blocks WHERE slot = ? AND layout = ifnull(?, layout)"
        return self._db.execute(f"{query} ORDER BY rowid", (slot, layout)).fetchall()

    def insert_report(self, slot: int, data: bytes) -> None:
        """Keep the report of a scored slot."""
        self._db.execute("INSERT INTO reports VALUES (?, ?)", (slot, data))

    def report(self, slot: int) -> bytes | None:
        """The report of a scored slot, if it is still kept."""
        row = self._db.execute("SELECT data FROM reports WHERE slot = ?", (slot,)).fetchone()
        return None if row is None else bytes(row[0])

    def reported(self, after: int | None) -> list[int]:
        """Slots with a report later than `after` (None: all), rising."""
        query = "SELECT slot FROM reports WHERE slot > ifnull(?, slot - 1) ORDER BY slot"
        return [int(slot) for (slot,) in self._db.execute(query, (after,))]

    def put_fleet_sums(self, day: int, layout: str, key: FleetKey, data: bytes) -> None:
        """Replace one day's sums of a member beside one champion."""
        row = (day, layout, key.among or "", _number(key.beside), key.member, _number(key.version))
        self._db.execute("REPLACE INTO fleet_sums VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, data))

    def fleet_sums(
        self, layout: str, *, since_day: int | None = None, through_day: int | None = None
    ) -> Iterator[tuple[int, FleetKey, bytes]]:
        """Day, key and sums of some days, ends included (None: all), in a fixed order."""
        query = (
            "SELECT day, beside, member, version, among, data FROM fleet_sums "
            "WHERE day >= ifnull(?, day) AND day <= ifnull(?, day) AND layout = ? "
            "ORDER BY day, among, beside, member, version"
        )
        rows = self._db.execute(query, (since_day, through_day, layout))
        for day, beside, member, version, among, data in rows:
            yield day, FleetKey(_none(beside), member, _none(version), among or None), data

    def put_server_sums(
        self, day: int, layout: str, key: ServerKey, part: int, data: bytes
    ) -> None:
        """Replace one day's sums of a member for a part of the servers."""
        row = (day, layout, int(key[0]), key[1], part, data)
        self._db.execute("REPLACE INTO server_sums VALUES (?, ?, ?, ?, ?, ?)", row)

    def server_sums(
        self,
        layout: str,
        *,
        since_day: int | None = None,
        through_day: int | None = None,
        part: int | None = None,
    ) -> Iterator[tuple[int, ServerKey, bytes]]:
        """Day, key and sums by server of some days and one part (None: all), in a fixed order."""
        query = (
            "SELECT day, paired, member, data FROM server_sums "
            "WHERE day >= ifnull(?, day) AND day <= ifnull(?, day) AND layout = ? "
            "AND part = ifnull(?, part) ORDER BY day, paired, member, part"
        )
        rows = self._db.execute(query, (since_day, through_day, layout, part))
        for day, paired, member, data in rows:
            yield day, (bool(paired), member), data

    def put_derived(self, layout: str, data: bytes) -> None:
        """Replace what the derived members know."""
        self._db.execute("REPLACE INTO derived VALUES (?, ?)", (layout, data))

    def derived(self, layout: str) -> bytes | None:
        """What the derived members know, as of the last save."""
        query = "SELECT data FROM derived WHERE layout = ?"
        row = self._db.execute(query, (layout,)).fetchone()
        return None if row is None else bytes(row[0])

    def put_snapshot(self, revision: int, data: bytes) -> None:
        """Replace the snapshot."""
        self._db.execute("REPLACE INTO snapshot VALUES (1, ?, ?)", (revision, data))

    def snapshot(self) -> bytes | None:
        """The newest snapshot."""
        row = self._db.execute("SELECT data FROM snapshot").fetchone()
        return None if row is None else bytes(row[0])

    def prune(self, *, before_slot: int, before_day: int) -> None:
        """Drop blocks and reports of older slots, and sums of older days."""
        for table in ("blocks", "reports"):
            self._db.execute(f"DELETE FROM {table} WHERE slot < ?", (before_slot,))
        for table in ("fleet_sums", "server_sums"):
            self._db.execute(f"DELETE FROM {table} WHERE day < ?", (before_day,))

    def counts(self) -> dict[str, int]:
        """Counters, rows kept, and bytes on disk."""
        kept = "SELECT count(*) FROM blocks UNION ALL SELECT count(DISTINCT day) FROM fleet_sums"
        (blocks,), (days,) = self._db.execute(kept)
        path = self._path
        files = [] if path is None else [path, path.with_name(f"{path.name}-wal")]
        size = sum(file.stat().st_size for file in files if file.exists())
        counters = dict(self._db.execute("SELECT name, value FROM counters"))
        return {**counters, "kept_blocks": blocks, "kept_days": days, "bytes": size}

    def copy_to(self, path: Path) -> None:
        """Copy the whole file as of now into another one; in a thread, beside reads of this one."""
        with closing(sqlite3.connect(path)) as copy:
            self._db.backup(copy, pages=_PAGES_AT_ONCE)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _number(version: int | None) -> int:
    return _NONE if version is None else version


def _none(number: int) -> int | None:
    return None if number == _NONE else number
