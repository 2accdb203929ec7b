"""river's drift detectors, in the shape of ours: ADWIN, KSWIN and Page-Hinkley.

Python objects, one per series: for fleets of hundreds, not of thousands.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import numpy as np

from train.detector import Bools, Floats, Windowed


class _Original(Protocol):
    """A detector of river's."""

    @property
    def drift_detected(self) -> bool: ...

    def update(self, x: float) -> None: ...


class River(Windowed):
    """One of river's detectors per series, fed with values standardised by a warm-up.

    river keeps its state in objects that cannot be stored without pickle. So each is a function of
    at most `window` values that are kept here: a restart feeds them again. When there are more, the
    detector begins anew with the newer half of them, in the running process too: it cannot look
    back further, but it is the same before and after a restart.
    """

    def __init__(
        self, count: int, *, window: int = 384, warmup: int = 96, floor: float = 1e-9
    ) -> None:
        super().__init__(count, window=window, warmup=warmup, floor=floor)
        self._live: dict[int, _Original] = {}

    @classmethod
    @abstractmethod
    def _fresh(cls) -> _Original:
        """A new detector of river's for one series."""

    @property
    def watching(self) -> Bools:
        """Which series have been standardised."""
        return np.asarray(self._rows["filled"] >= self.settings["warmup"])

    def _step(self, x: Floats, seen: Bools) -> None:
        settings, filled = self.settings, self._rows["filled"]
        rows = np.flatnonzero(seen)
        full = rows[filled[rows] >= settings["window"]]
        filled[full] = settings["window"] // 2
        for row in full.tolist():
            self._live.pop(row, None)
        before = filled[rows] >= settings["warmup"]
        self._push(x, rows)
        fired = [row for row in rows[before].tolist() if self._fires(row)]
        for row in fired:
            del self._live[row]
        self._tell(np.array(fired, np.int64))

    def _fires(self, row: int) -> bool:
        """Feed the newest value of a series, or all that are kept to a new detector."""
        count, warmup = int(self._rows["filled"][row]), self.settings["warmup"]
        values = self._rows["values"][row, -count:].astype(np.float64)
        # Only so many as the detector had when it began: the rest is what it watches.
        mean, spread = values[:warmup].mean(), max(values[:warmup].std(), self.settings["floor"])
        told = False
        if (live := self._live.get(row)) is None:
            live = self._live[row] = self._fresh()
            fed = values
        else:
            fed = values[-1:]
        for value in ((fed - mean) / spread).tolist():
            live.update(value)
            told = bool(live.drift_detected)
        return told


class Adwin(River):
    """ADWIN (Bifet and Gavalda 2007): two parts of the past whose means differ."""

    kind = "adwin"

    @classmethod
    def _fresh(cls) -> _Original:
        from river.drift import ADWIN  # river takes seconds to import

        return ADWIN(delta=0.002, clock=1)  # type: ignore[no-untyped-call]


class Kswin(River):
    """KSWIN (Raab et al. 2020): the newest values against a sample of the past, by Kolmogorov.

    About 0.4 ms a value and series: for small fleets.
    """

    kind = "kswin"

    @classmethod
    def _fresh(cls) -> _Original:
        from river.drift import KSWIN

        return KSWIN(alpha=0.0001, window_size=96, stat_size=24, seed=7)


class PageHinkley(River):
    """Page-Hinkley (Page 1954): sums of deviations from the running mean."""

    kind = "page_hinkley"

    @classmethod
    def _fresh(cls) -> _Original:
        from river.drift import PageHinkley as Original

        return Original(min_instances=30, delta=0.25, threshold=25.0)
