"""The plain way to keep forecasts and their errors: a row for each, `executemany`, sums in SQL.

S servers, T targets, H horizon, Q levels.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from forecast.metrics import Float64Array, FloatArray, pinball


class PlainLedger:
    """A row per (slot, member, server, target, step), and a row of sums per (member, ..., step)."""

    def __init__(self, path: Path, levels: Sequence[float]) -> None:
        self._path, self._levels = path, levels
        self._db = sqlite3.connect(path)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        quantiles = ", ".join(f"q{place} REAL" for place in range(len(levels)))
        self._db.execute(
            "CREATE TABLE forecasts (due INT, slot INT, member TEXT, server INT, target INT, "
            f"step INT, {quantiles}, PRIMARY KEY (due, slot, member, server, target))"
        )
        self._db.execute(
            "CREATE TABLE sums (member TEXT, server INT, target INT, step INT, n INT, error REAL, "
            "loss REAL, PRIMARY KEY (member, server, target, step))"
        )

    def issue(self, slot: int, member: str, values_SHTQ: FloatArray) -> None:
        """Keep one member's forecasts."""
        servers, steps, targets, _ = values_SHTQ.shape
        places = itertools.product(range(servers), range(steps), range(targets))
        rows = [
            (slot + 1 + step, slot, member, server, target, step + 1, *quantiles)
            for (server, step, target), quantiles in zip(
                places, values_SHTQ.reshape(-1, len(self._levels)).tolist(), strict=True
            )
        ]
        marks = ", ".join("?" * (6 + len(self._levels)))
        with self._db:
            self._db.executemany(f"INSERT INTO forecasts VALUES ({marks})", rows)

    def score(self, slot: int, actuals_ST: FloatArray) -> None:
        """Add what came to the sums of every forecast of this slot."""
        names = ", ".join(f"q{place}" for place in range(len(self._levels)))
        found = self._db.execute(
            f"SELECT member, server, target, step, {names} FROM forecasts WHERE due = ?", (slot,)
        ).fetchall()
        if not found:
            return
        quantiles = np.array([row[4:] for row in found], np.float64)
        y = actuals_ST[[row[1] for row in found], [row[2] for row in found]]
        loss = pinball(y, quantiles, self._levels).mean(-1)
        error: Float64Array = np.abs(y - quantiles[:, len(self._levels) // 2])
        rows = [
            (*row[:4], 1, float(off), float(lost))
            for row, off, lost in zip(found, error, loss, strict=True)
            if np.isfinite(lost)
        ]
        with self._db:
            self._db.executemany(
                "INSERT INTO sums VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "n = n + excluded.n, error = error + excluded.error, loss = loss + excluded.loss",
                rows,
            )

    def close(self) -> int:
        """Let go of the file; its size in bytes."""
        self._db.close()
        return self._path.stat().st_size
