"""The ledger's SQLite file: tables, one writer, and statements; what they mean is in `ledger`.

    counters        scored_through, step_seconds, issued_blocks, scored_slots, scored_cells
    blocks          (slot, member) -> packed ForecastBlock
    reports         slot           -> packed StepReport
    fleet_sums      (day, beside, member, version) -> sums [T, H, F] over servers
    server_sums     (day, paired, member)          -> sums [S, T, H, F]
    snapshot        the newest packed Snapshot

`layout` says for which targets, levels and horizon a row was made. Version -1 is none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from forecast.errors import StateError

FORMAT = 1
"""The file's PRAGMA user_version; another number is refused."""

FleetKey = tuple[int | None, str, int | None]
"""The champion's version at the origin, the member, the member's own version."""

ServerKey = tuple[bool, str]
"""Whether a champion was compared at the origin, the member."""

_NONE = -1

_TABLES = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE blocks (slot INTEGER NOT NULL, member TEXT NOT NULL, layout TEXT NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (slot, member));
CREATE TABLE reports (slot INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE fleet_sums (day INTEGER NOT NULL, layout TEXT NOT NULL, beside INTEGER NOT NULL,
    member TEXT NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (day, layout, beside, member, version));
CREATE TABLE server_sums (day INTEGER NOT NULL, layout TEXT NOT NULL, paired INTEGER NOT NULL,
    member TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (day, layout, paired, member));
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
        # Exclusive: a second writer would fold into sums that this one holds in memory.
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
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

    def insert_block(self, slot: int, member: str, layout: str, data: bytes) -> bool:
        """Keep a block; false when this slot and member have one."""
        statement = "INSERT OR IGNORE INTO blocks VALUES (?, ?, ?, ?)"
        return self._db.execute(statement, (slot, member, layout, data)).rowcount > 0

    def blocks(self, slot: int, layout: str | None) -> list[bytes]:
        """Blocks of a slot as they were issued; of one layout, or all where it is None."""
        query = "SELECT data FROM blocks WHERE slot = ? AND layout = ifnull(?, layout)"
        return [data for (data,) in self._db.execute(f"{query} ORDER BY rowid", (slot, layout))]

    def insert_report(self, slot: int, data: bytes) -> None:
        """Keep the report of a scored slot."""
        self._db.execute("INSERT INTO reports VALUES (?, ?)", (slot, data))

    def report(self, slot: int) -> bytes | None:
        """The report of a scored slot, if it is still kept."""
        row = self._db.execute("SELECT data FROM reports WHERE slot = ?", (slot,)).fetchone()
        return None if row is None else bytes(row[0])

    def put_fleet_sums(self, day: int, layout: str, key: FleetKey, data: bytes) -> None:
        """Replace one day's sums of a member beside one champion."""
        beside, member, version = key
        row = (day, layout, _number(beside), member, _number(version), data)
        self._db.execute("REPLACE INTO fleet_sums VALUES (?, ?, ?, ?, ?, ?)", row)

    def fleet_sums(
        self, since_day: int | None, layout: str
    ) -> Iterator[tuple[int, FleetKey, bytes]]:
        """Day, key and sums from a day on (None: from the first), in a fixed order."""
        query = (
            "SELECT day, beside, member, version, data FROM fleet_sums "
            "WHERE day >= ifnull(?, day) AND layout = ? ORDER BY day, beside, member, version"
        )
        for day, beside, member, version, data in self._db.execute(query, (since_day, layout)):
            yield day, (_none(beside), member, _none(version)), data

    def put_server_sums(self, day: int, layout: str, key: ServerKey, data: bytes) -> None:
        """Replace one day's sums of a member by server."""
        row = (day, layout, int(key[0]), key[1], data)
        self._db.execute("REPLACE INTO server_sums VALUES (?, ?, ?, ?, ?)", row)

    def server_sums(
        self, since_day: int | None, layout: str
    ) -> Iterator[tuple[int, ServerKey, bytes]]:
        """Day, key and sums by server from a day on (None: from the first), in a fixed order."""
        query = (
            "SELECT day, paired, member, data FROM server_sums "
            "WHERE day >= ifnull(?, day) AND layout = ? ORDER BY day, paired, member"
        )
        for day, paired, member, data in self._db.execute(query, (since_day, layout)):
            yield day, (bool(paired), member), data

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

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _number(version: int | None) -> int:
    return _NONE if version is None else version


def _none(number: int) -> int | None:
    return None if number == _NONE else number
