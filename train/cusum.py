"""CUSUM with a threshold from a block bootstrap of its own warm-up: the default drift detector.

Page, Continuous inspection schemes (1954). The threshold is for a wanted time between false
alarms, on what the series itself did while it was warming up.

N series, W values of warm-up, R resamples, L steps of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.detector import Bools, Detector, Floats, Ints

_CLIP = 6.0
"""Standardised values beyond are as far as this: one spike is no drift."""
_SLACK = 0.5
"""Taken off each standardised value: half of the shift that is found soonest."""
_RESAMPLES, _PIECE, _ROWS = 48, 24, 8192


class Cusum(Detector):
    """Two-sided CUSUM on values standardised by their warm-up; `upward` leaves out falls. With
    `shifts` a center that was found is told in `shift` and is 0 from then on.

    `wanted` is how many values shall lie between false alarms. The threshold is that of resamples
    of the warm-up in pieces of consecutive values, so that a series that wanders is forgiven its
    wandering; the resamples estimate mean and spread for themselves, as the detector does. They are
    drawn by `seed` alone, the same ones for every series.
    """

    kind = "cusum"

    def __init__(
        self,
        count: int,
        *,
        wanted: float,
        warmup: int,
        seed: int = 0,
        upward: bool = False,
        shifts: bool = False,
        floor: float = 1e-9,
    ) -> None:
        settings = {"wanted": wanted, "warmup": warmup, "seed": seed}
        super().__init__(count, **settings, upward=upward, shifts=shifts, floor=floor)

    def _blank(self, count: int) -> dict[str, NDArray[Any]]:
        sums = ("center", "scale", "threshold", "up", "down")
        ages = ("filled", "up_age", "down_age")
        return {
            "values": np.zeros((count, int(self.settings["warmup"])), np.float32),
            **{name: np.zeros(count) for name in sums},
            **{name: np.zeros(count, np.int64) for name in ages},
        }

    @property
    def watching(self) -> Bools:
        """Which series have a threshold."""
        return np.asarray(self._rows["filled"] >= self.settings["warmup"])

    @property
    def level(self) -> Floats:
        """How far each series [N] is on its way to an alarm: 1 is there."""
        known = self._rows
        most = np.maximum(known["up"], known["down"])
        return np.where(self.watching, most / np.maximum(known["threshold"], 1e-9), 0.0)

    def _step(self, x: Floats, seen: Bools) -> None:
        known, watched = self._rows, self.watching
        warming = np.flatnonzero(seen & ~watched)
        known["values"][warming, known["filled"][warming]] = x[warming]
        known["filled"][warming] += 1
        for begin in range(0, len(warming), _ROWS):
            some = warming[begin : begin + _ROWS]
            self._calibrate(some[self.watching[some]])
        rows = np.flatnonzero(seen & watched)
        z = (x[rows] - known["center"][rows]) / known["scale"][rows]
        z = np.clip(z, -_CLIP, _CLIP)
        over = np.zeros(len(rows), bool)
        for side, sign in (("up", 1.0), ("down", -1.0)):
            total = np.maximum(0.0, known[side][rows] + sign * z - _SLACK)
            if side == "down" and self.settings["upward"]:
                total = np.zeros(len(rows))
            on = total > 0
            known[side][rows] = total
            known[f"{side}_age"][rows] = np.where(on, known[f"{side}_age"][rows] + 1, 0)
            over |= total > known["threshold"][rows]
        self._tell(rows[over])

    def _tell(self, rows: Ints) -> None:
        known = self._rows
        rose = known["up"][rows] >= known["down"][rows]
        age = np.where(rose, known["up_age"][rows], known["down_age"][rows])
        self.drifted[rows], self.age[rows] = True, np.maximum(age, 1)
        for name, array in known.items():
            if name != "values":
                array[rows] = 0

    def _calibrate(self, rows: Ints) -> None:
        """Center, scale and threshold of series whose warm-up is complete."""
        if not len(rows):
            return
        known, floor = self._rows, self.settings["floor"]
        x = known["values"][rows].astype(np.float64)
        middle = np.median(x, axis=1, keepdims=True)
        usual = 1.4826 * np.median(np.abs(x - middle), axis=1, keepdims=True)
        reach = _CLIP * np.maximum(np.maximum(usual, x.std(1, keepdims=True) / 2), floor)
        x = np.clip(x, middle - reach, middle + reach)
        if self.settings["shifts"]:
            self.shift[rows] = x.mean(1)
        else:
            known["center"][rows] = x.mean(1)
        known["scale"][rows] = np.maximum(x.std(1), floor)
        settings = self.settings
        known["threshold"][rows] = bootstrapped(
            x, wanted=settings["wanted"], seed=int(settings["seed"]), floor=floor
        )


def bootstrapped(x_NW: Floats, *, wanted: float, seed: int, floor: float) -> Floats:
    """CUSUM thresholds [N] for `wanted` values between false alarms, from warm-ups [N, W].

    The largest sums of resampled paths have a Gumbel distribution, nearly; a path of L values stays
    below the threshold with probability exp(-L / wanted).
    """
    warmup = x_NW.shape[1]
    steps, piece = 2 * warmup, max(1, min(_PIECE, warmup // 3))
    rng, pieces = np.random.default_rng(seed), -(-(warmup + steps) // piece)
    starts = rng.integers(0, warmup, (_RESAMPLES, pieces, 1))
    paths = ((starts + np.arange(piece)) % warmup).reshape(_RESAMPLES, -1)
    counts = np.zeros((_RESAMPLES, warmup))
    np.add.at(counts, (np.arange(_RESAMPLES)[:, None], paths[:, :warmup]), 1 / warmup)
    x_WN = np.ascontiguousarray((x_NW - x_NW.mean(1, keepdims=True)).T, np.float32)
    mean, square = np.zeros((2, _RESAMPLES, len(x_NW)), np.float32)
    # Added up one by one: a series' sums must not depend on how many others there are.
    for share, x in zip(counts.T.astype(np.float32)[..., None], x_WN, strict=True):
        mean += share * x
        square += share * np.square(x)
    scale = np.sqrt(np.maximum(square - np.square(mean), np.float32(floor) ** 2))
    up, down, most = np.zeros_like(mean), np.zeros_like(mean), np.zeros_like(mean)
    for step in range(warmup, warmup + steps):
        z = np.clip((x_WN[paths[:, step]] - mean) / scale, -_CLIP, _CLIP)
        up, down = np.maximum(0, up + z - _SLACK), np.maximum(0, down - z - _SLACK)
        np.maximum(most, np.maximum(up, down), out=most)
    most_NR = np.ascontiguousarray(most.T, np.float64)
    unit = np.sqrt(6) / np.pi * most_NR.std(1)
    found: Floats = most_NR.mean(1) + unit * (np.log(wanted / steps) - 0.5772)
    return np.maximum(found, _CLIP)
