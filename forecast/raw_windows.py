"""Windows as the buffer cuts them: measured values, before they are made into features.

Legend: N windows, L context slots, H horizon slots, M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Index = IntArray | BoolArray | Sequence[int]

AT_A_TIME = 256
"""Windows that a model builds and forecasts at a time, which bounds the memory. Whoever asks for
many in parts asks for so many each: then parts change no bit of a forecast.
"""


@dataclass(frozen=True, slots=True)
class RawWindows:
    """N windows as the buffer cuts them: natural units, NaN where nothing is known.

    Raises ValueError when the arrays do not fit each other.
    """

    servers: tuple[str, ...]
    roles: tuple[str, ...]
    timezones: tuple[str, ...]
    """IANA names, one per window like `servers` and `roles`."""
    metrics: tuple[str, ...]
    context: int
    horizon: int
    step_seconds: int
    origin: IntArray
    """[N] the last slot of the context."""
    values: FloatArray
    """[N, L+H, M]; the horizon part is all NaN in windows cut without labels."""
    daily: FloatArray
    """[N, L+H, M] the value one day before each slot."""
    weekly: FloatArray
    """[N, L+H, M] the value one week before each slot."""
    spread: FloatArray
    """[N, M] long-run deviation of the server's metric in the metric's transformed space."""
    weight: FloatArray | None = None
    """[N] how much a window counts in training; None: all alike, 1."""
    replayed: BoolArray | None = None
    """[N] which windows were learned from before, as far as a replay table knows; None: unknown."""

    def __post_init__(self) -> None:
        count, length = len(self.servers), self.context + self.horizon
        shape = (count, length, len(self.metrics))
        wanted = {
            "roles": (len(self.roles), count),
            "timezones": (len(self.timezones), count),
            "origin": (self.origin.shape, (count,)),
            "values": (self.values.shape, shape),
            "daily": (self.daily.shape, shape),
            "weekly": (self.weekly.shape, shape),
            "spread": (self.spread.shape, (count, len(self.metrics))),
        }
        for name in ("weight", "replayed"):
            if (given := getattr(self, name)) is not None:
                wanted[name] = (given.shape, (count,))
        for name, (got, need) in wanted.items():
            if got != need:
                raise ValueError(f"windows of {count} servers: {name} is {got}, need {need}")

    def __len__(self) -> int:
        return len(self.servers)

    def select(self, index: Index) -> RawWindows:
        """The windows at these positions (or where a mask is true), in the order given."""
        rows = positions(index, len(self))
        names = rows.tolist()
        return replace(
            self,
            servers=tuple([self.servers[row] for row in names]),
            roles=tuple([self.roles[row] for row in names]),
            timezones=tuple([self.timezones[row] for row in names]),
            origin=self.origin[rows],
            values=self.values[rows],
            daily=self.daily[rows],
            weekly=self.weekly[rows],
            spread=self.spread[rows],
            weight=None if self.weight is None else self.weight[rows],
            replayed=None if self.replayed is None else self.replayed[rows],
        )

    def parts(self, size: int) -> Iterator[RawWindows]:
        """The windows in order, at most `size` at a time; they share this one's memory."""
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size))

    def rows(self, rows: slice) -> RawWindows:
        """The windows of a slice, in the same memory."""
        return replace(
            self,
            servers=self.servers[rows],
            roles=self.roles[rows],
            timezones=self.timezones[rows],
            origin=self.origin[rows],
            values=self.values[rows],
            daily=self.daily[rows],
            weekly=self.weekly[rows],
            spread=self.spread[rows],
            weight=None if self.weight is None else self.weight[rows],
            replayed=None if self.replayed is None else self.replayed[rows],
        )

    @staticmethod
    def concat(parts: Sequence[RawWindows]) -> RawWindows:
        """All windows of `parts`, in order; they must agree on metrics, lengths and step."""
        if not parts:
            raise ValueError("nothing to concatenate: no windows given")
        first = parts[0]
        kind = (first.metrics, first.context, first.horizon, first.step_seconds)
        for part in parts[1:]:
            other = (part.metrics, part.context, part.horizon, part.step_seconds)
            if other != kind:
                raise ValueError(f"windows of different kinds: {kind} and {other}")
        return replace(
            first,
            servers=tuple(name for part in parts for name in part.servers),
            roles=tuple(role for part in parts for role in part.roles),
            timezones=tuple(zone for part in parts for zone in part.timezones),
            origin=np.concatenate([part.origin for part in parts]),
            values=np.concatenate([part.values for part in parts]),
            daily=np.concatenate([part.daily for part in parts]),
            weekly=np.concatenate([part.weekly for part in parts]),
            spread=np.concatenate([part.spread for part in parts]),
            weight=_joined(parts, "weight", np.float32(1)),
            replayed=_joined(parts, "replayed", np.False_),
        )


def _joined(parts: Sequence[RawWindows], name: str, otherwise: np.generic) -> Any:  # noqa: ANN401
    """A field that parts may lack: `otherwise` for the windows of those, None where all do."""
    given = [getattr(part, name) for part in parts]
    if all(each is None for each in given):
        return None
    filled = [np.full(len(part), otherwise) for part in parts]
    return np.concatenate(
        [full if each is None else each for each, full in zip(given, filled, strict=True)]
    )


def positions(index: Index, count: int) -> IntArray:
    """Row numbers of an index array or a mask of `count` rows."""
    array = np.asarray(index)
    return np.arange(count)[array] if array.size else np.zeros(0, np.int64)
