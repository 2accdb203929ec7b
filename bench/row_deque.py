"""The plain way to keep a sliding window, for comparison: every pandas row by itself in a deque."""

from __future__ import annotations

from collections import deque

import pandas as pd


class RowDeque:
    """Rows as they came, the oldest first; no log, no order, no repeats recognised."""

    def __init__(self, hours: int) -> None:
        self._span = pd.Timedelta(hours=hours)
        self._rows: deque[pd.Series] = deque()
        self._times: deque[pd.Timestamp] = deque()

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, frame: pd.DataFrame) -> None:
        """Take in the rows of a frame and let go of those that have become too old."""
        for _, row in frame.iterrows():
            self._rows.append(row)
            self._times.append(row["timestamp"])
        newest = frame["timestamp"].iloc[-1]
        while self._times and self._times[0] <= newest - self._span:
            self._times.popleft()
            self._rows.popleft()
