"""What every drift detector is: in river's shape, but for N series at once.

A value is one number per series, NaN where there is none. A detector forgets what it knew of a
series once it has told a drift of it: its next values are the new baseline. What one series does
changes nothing for another, and series that are alike are told alike, however many there are.

N series, W values of a window.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from forecast.errors import StateError
from forecast.packing import pack, unpack
from forecast.places import moved

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Detector(ABC):
    """Watches `count` series; what is known of each is a row of every array in `_rows`, 0 at first.

    `floor` is the least standard deviation that is taken for real, in units of the values.
    """

    kind: ClassVar[str]

    def __init__(self, count: int, **settings: bool | float) -> None:
        self.settings = settings
        self._rows: dict[str, NDArray[Any]] = self._blank(count)
        self.drifted: Bools = np.zeros(count, bool)
        """Which series drifted with the last update."""
        self.age: Ints = np.zeros(count, np.int64)
        """Of those that drifted: with how many of their values the change began, at least 1."""
        self.shift: Floats = np.zeros(count)
        """Where a baseline was found with the last update, of a detector that takes it as 0 from
        then on: whoever makes the values takes so much off them."""

    @abstractmethod
    def _blank(self, count: int) -> dict[str, NDArray[Any]]:
        """What is known of so many new series."""

    @abstractmethod
    def _step(self, x: Floats, seen: Bools) -> None:
        """Take in the values [N] of the series that were `seen`; set who drifted."""

    @property
    @abstractmethod
    def watching(self) -> Bools:
        """Which series [N] have had their warm-up."""

    @property
    def level(self) -> Floats:
        """How far each series [N] is on its way to an alarm, 1 is there; 0 where nobody can say."""
        return np.zeros(len(self.watching))

    def update(self, x: Floats) -> None:
        """The newest value [N] of each series; NaN where there is none."""
        self.drifted, self.age = np.zeros(len(x), bool), np.zeros(len(x), np.int64)
        self.shift = np.zeros(len(x))
        self._step(np.asarray(x, np.float64), np.isfinite(x))

    def taken(self, rows: Ints) -> Self:
        """The series in another order; -1 is a new one."""
        made = type(self)(len(rows), **self.settings)
        made._rows = {name: moved(array, rows) for name, array in self._rows.items()}
        return made

    def pack(self) -> bytes:
        """All that is known, as bytes."""
        header = {"kind": self.kind, "settings": self.settings}
        return pack("detector", header, self._rows)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """What `pack` wrote; raises StateError for another kind of detector."""
        header, arrays = unpack("detector", data)
        if header["kind"] != cls.kind:
            raise StateError(f"stored detector is {header['kind']}, not {cls.kind}")
        made = cls(0, **header["settings"])
        made._rows = {name: array.copy() for name, array in arrays.items()}
        made.update(np.full(len(made.watching), np.nan))
        return made


class Windowed(Detector):
    """Keeps the newest values [N, W] of each series, the newest last."""

    def _blank(self, count: int) -> dict[str, NDArray[Any]]:
        return {
            "values": np.zeros((count, int(self.settings["window"])), np.float32),
            "filled": np.zeros(count, np.int64),
        }

    def _push(self, x: Floats, rows: Ints) -> None:
        values = self._rows["values"]
        values[rows] = np.concatenate([values[rows, 1:], x[rows, None]], axis=1)
        self._rows["filled"][rows] += 1

    def _tell(self, rows: Ints) -> None:
        """These drifted; the change began where splitting their newest values says most of it."""
        for row in rows.tolist():
            count = min(int(self._rows["filled"][row]), self._rows["values"].shape[1])
            x = self._rows["values"][row, -count:].astype(np.float64)
            at = int(np.abs(np.cumsum(x - x.mean())[:-1]).argmax()) + 1
            self.drifted[row], self.age[row] = True, count - at
        self._rows["filled"][rows] = 0
