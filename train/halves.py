"""Windows in half the memory: float16 steps around each window's own center, as the model scales.

    stored = float16((value - center) / scale)     in the space the metric's `transform` names

The center is the last value of the context, kept as float32 and so given back exactly; the scale is
the context's deviation, larger where a value would leave float16. What comes back is off by at most
`ERROR` of its distance from the center, or by 2^-25 scales for what lies next to it: far below what
a network can tell apart, which reads the same distances in the same units.

Legend: N windows, K slots of context and horizon, M metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast import features
from forecast.schema import Schema
from forecast.windows import RawWindows

ERROR = 2.0**-11
"""Largest rounding error, as a share of the distance from the center."""
GAP = int(np.float16(np.nan).view(np.uint16))
"""The stored bits of a gap."""

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_LARGEST = 60_000.0
"""Scales from the center; float16 ends at 65,504."""
_AT_A_TIME = 256


@dataclass(frozen=True, slots=True)
class Halves:
    """N windows in half precision; whose they are is kept by whoever holds them."""

    codes: NDArray[np.uint16]
    """[N, 3, K, M] bits of float16: the values, those a day and those a week before."""
    center: FloatArray
    """[N, M] in natural units."""
    scale: FloatArray
    """[N, M] in the metric's transformed space, above 0."""
    spread: FloatArray
    """[N, M] as in `RawWindows`."""
    origin: IntArray
    """[N]"""

    def __len__(self) -> int:
        return len(self.origin)

    @classmethod
    def room(cls, count: int, slots: int, metrics: int) -> Self:
        """Memory for so many windows, which is taken only as it is written to."""
        return cls(
            codes=np.zeros((count, 3, slots, metrics), np.uint16),
            center=np.zeros((count, metrics), np.float32),
            scale=np.zeros((count, metrics), np.float32),
            spread=np.zeros((count, metrics), np.float32),
            origin=np.zeros(count, np.int64),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of memory asked for."""
        return sum(int(getattr(self, field.name).nbytes) for field in fields(self))

    def select(self, rows: IntArray | slice) -> Self:
        """The windows at these positions."""
        return type(self)(**{name: array[rows] for name, array in self.arrays().items()})

    def put(self, row: int, other: Halves, at: int) -> None:
        """Write the window `at` of another one over the one at `row`."""
        for name, array in self.arrays().items():
            array[row] = getattr(other, name)[at]

    def fill(self, other: Halves) -> None:
        """Write as many windows over all of these."""
        for name, array in self.arrays().items():
            array[:] = getattr(other, name)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def halved(raw: RawWindows, schema: Schema) -> Halves:
    """The windows in half precision; what is not finite becomes a gap.

    >>> from forecast.schema import Metric
    >>> schema = Schema("servers", 300, (Metric("cpu"),), ("cpu",))
    >>> values = np.array([[[0.1], [0.3], [0.7]]], np.float32)
    >>> raw = RawWindows(("web-01",), ("",), ("UTC",), ("cpu",), 2, 1, 300, np.array([9]),
    ...                  values, values, values, np.ones((1, 1), np.float32))
    >>> back, _, _ = restored(halved(raw, schema), schema)
    >>> bool(back[0, 1, 0] == np.float32(0.3)), bool(abs(back - values).max() < 0.4 * ERROR)
    (True, True)
    """
    made = Halves.room(len(raw), raw.context + raw.horizon, len(raw.metrics))
    for start in range(0, len(raw), _AT_A_TIME):
        rows = slice(start, start + _AT_A_TIME)
        _halve(raw.rows(rows), schema, made.select(rows))
    made.spread[:], made.origin[:] = raw.spread, raw.origin
    return made


def restored(stored: Halves, schema: Schema) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Values, those a day and those a week before, [N, K, M] each, in natural units."""
    count, _, slots, width = stored.codes.shape
    values_3NKM = np.empty((3, count, slots, width), np.float32)
    logs = features.is_log(schema.metrics)
    for start in range(0, count, _AT_A_TIME):
        rows = slice(start, start + _AT_A_TIME)
        center = _moved(stored.center[rows].astype(np.float64), logs)[:, None, None]
        values = stored.codes[rows].view(np.float16).astype(np.float64)
        values *= stored.scale[rows].astype(np.float64)[:, None, None]
        values += center
        for column in np.flatnonzero(logs):
            part = values[..., column]
            features.expm1(part)
        values_3NKM[:, rows] = values.swapaxes(0, 1)
    return values_3NKM[0], values_3NKM[1], values_3NKM[2]


def _halve(raw: RawWindows, schema: Schema, into: Halves) -> None:
    logs = features.is_log(schema.metrics)
    values = np.stack([raw.values, raw.daily, raw.weekly], axis=1)
    context = values[:, 0, : raw.context]
    into.center[:] = features.forward_fill(
        context.swapaxes(0, 1).astype(np.float64), np.isfinite(context).swapaxes(0, 1)
    )[-1]
    center = _moved(into.center.astype(np.float64), logs)
    moved = values.astype(np.float64)
    moved[~np.isfinite(moved)] = np.nan
    moved = _moved(moved, logs)
    known = moved[:, 0, : raw.context].swapaxes(0, 1)
    deviation = features.deviation(known, np.isfinite(known))
    moved -= center[:, None, None]
    farthest = np.fmax.reduce(np.abs(moved), axis=(1, 2), initial=0.0)
    least = np.maximum(1e-6 * np.abs(center), 1e-9)
    into.scale[:] = np.maximum(np.maximum(deviation, least), farthest / _LARGEST)
    moved /= into.scale.astype(np.float64)[:, None, None]
    into.codes[:] = moved.astype(np.float16).view(np.uint16)


def _moved(values: NDArray[np.float64], logs: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values [..., M] in the space in which they are stored, in a new array."""
    moved = values.copy()
    moved[..., logs] = np.log1p(np.maximum(moved[..., logs], 0.0))
    return moved
