"""The drift detectors there are, by name; and the user's window rule.

window        mean and spread of the newest values against a baseline
cusum         two-sided CUSUM with a threshold calibrated on its own warm-up (`cusum`)
adwin, kswin, page_hinkley      river's (`river_detectors`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.cusum import Cusum
from train.detector import Bools, Detector, Floats, Windowed
from train.river_detectors import Adwin, Kswin, PageHinkley

_CONFIRMED = 3
"""So many values in a row the window rule must say the same before it counts."""


class Window(Windowed):
    """The user's rule: mean or spread of the last `window` values off their baseline.

    Off is more than the share `threshold` of what the baseline was; a mean near zero counts in
    units of its spread, where a share of it would say nothing. It is confirmed when it holds for a
    few values in a row, and the baseline is then taken anew.
    """

    kind = "window"

    def __init__(self, count: int, *, window: int, threshold: float, floor: float = 1e-9) -> None:
        super().__init__(count, window=window, threshold=threshold, floor=floor)

    def _blank(self, count: int) -> dict[str, NDArray[Any]]:
        zeros = {name: np.zeros(count) for name in ("mean", "spread")}
        return {**super()._blank(count), **zeros, "off": np.zeros(count, np.int64)}

    @property
    def watching(self) -> Bools:
        """Which series have a baseline."""
        return np.asarray(self._rows["filled"] >= self.settings["window"])

    def _step(self, x: Floats, seen: Bools) -> None:
        self._push(x, np.flatnonzero(seen))
        rows = np.flatnonzero(seen & self.watching)
        known, newest = self._rows, self._rows["values"][rows].astype(np.float64)
        mean, spread = newest.mean(1), np.maximum(newest.std(1), self.settings["floor"])
        new = rows[first := known["filled"][rows] == self.settings["window"]]
        known["mean"][new], known["spread"][new], known["off"][new] = mean[first], spread[first], 0
        unit = np.maximum(np.abs(known["mean"][rows]), known["spread"][rows])
        far = np.maximum(
            np.abs(mean - known["mean"][rows]) / unit,
            np.abs(spread / known["spread"][rows] - 1),
        )
        off = far > self.settings["threshold"]
        known["off"][rows] = np.where(off, known["off"][rows] + 1, 0)
        self._tell(rows[known["off"][rows] >= _CONFIRMED])


KINDS: Mapping[str, type[Detector]] = {
    one.kind: one for one in (Window, Cusum, Adwin, Kswin, PageHinkley)
}
"""The detectors there are, by name."""

Maker = Callable[[int], Detector]
"""A detector for so many series."""
