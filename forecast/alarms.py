"""Alarms: episodes in which what comes lies outside what was forecast, for long enough.

    deviation   how far an actual lies from the median, in half widths of the forecast's band
    Episodes    outside for `hold` slots in a row  ->  an alarm begins, from the first of them on
                inside for `clear` slots in a row  ->  it ends
                a gap, a mask, no forecast         ->  nothing changes

An alarm that flaps is one alarm, and one bad slot is none where `hold` is above 1. `Episodes` is a
value: what it says at a slot depends on the slots until then alone, and a step done again gives the
same.

S servers, T targets; `...` is whatever else is told apart, such as targets or band widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.metrics import BoolArray
from forecast.packing import pack, pack_names, unpack, unpack_names
from forecast.places import moved, places

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

_NEVER = -1


def deviation(
    actuals: NDArray[Any],
    low: NDArray[Any],
    median: NDArray[Any],
    high: NDArray[Any],
    *,
    resolution: NDArray[Any],
) -> Float32Array:
    """How far outside each actual [..., T] is: 1 at the band's edge, 2 a half width beyond it.

    `resolution` [T] is the least half width, in the target's unit. NaN where the actual or the
    forecast is missing.

    >>> one = np.array([1.0])
    >>> deviation(9 * one, 2 * one, 3 * one, 5 * one, resolution=0.1 * one).tolist()
    [3.0]
    """
    above = (actuals - median) / np.maximum(high - median, resolution)
    below = (median - actuals) / np.maximum(median - low, resolution)
    found: Float32Array = np.maximum(above, below).astype(np.float32)
    return found


@dataclass(frozen=True, slots=True)
class Episodes:
    """Which series of which servers are in an alarm; `after` makes a new one, this one stays.

    Of each series [S, ...]: `outside` and `inside` count slots in a row, gaps skipped, `since` is
    the slot at which the alarm under way, or the run that may become one, began.
    """

    hold: int
    clear: int
    servers: tuple[str, ...]
    firing: BoolArray = field(repr=False)
    outside: IntArray = field(repr=False)
    inside: IntArray = field(repr=False)
    since: IntArray = field(repr=False)

    @classmethod
    def none(cls, shape: Sequence[int] = (), *, hold: int, clear: int) -> Self:
        """No server yet; `shape` is that of one server's series. Raises ValueError below 1 slot."""
        if hold < 1 or clear < 1:
            raise ValueError(f"hold {hold} and clear {clear} are slots; each is at least 1")
        counts = np.zeros((0, *shape), np.int64)
        return cls(hold, clear, (), counts.astype(bool), counts, counts, counts)

    def among(self, servers: Sequence[str]) -> Episodes:
        """The same laid out for these servers; one that is new, or was gone, is in no alarm."""
        if tuple(servers) == self.servers:
            return self
        rows = places(servers, self.servers)
        return replace(
            self,
            servers=tuple(servers),
            firing=moved(self.firing, rows),
            outside=moved(self.outside, rows),
            inside=moved(self.inside, rows),
            since=moved(self.since, rows, new=_NEVER),
        )

    def after(
        self, slot: int, servers: Sequence[str], outside: BoolArray, known: BoolArray
    ) -> Episodes:
        """What holds after one more slot, of which `outside` [S, ...] counts where it is `known`.

        Slots come in rising order; one that was skipped is a gap.
        """
        before = self.among(servers)
        out, back = outside & known, ~outside & known
        since = np.where(out & (before.outside == 0) & ~before.firing, slot, before.since)
        outs = np.where(out, before.outside + 1, np.where(back, 0, before.outside))
        backs = np.where(back, before.inside + 1, np.where(out, 0, before.inside))
        firing = (before.firing | (outs >= self.hold)) & ~(backs >= self.clear)
        since = np.where(firing | (outs > 0), since, _NEVER)
        return replace(before, firing=firing, outside=outs, inside=backs, since=since)

    def pack(self) -> bytes:
        """All of it as bytes, for storage."""
        header = {"hold": self.hold, "clear": self.clear}
        arrays: dict[str, NDArray[Any]] = {
            "servers": pack_names(self.servers),
            "firing": self.firing.astype(np.uint8),
            "outside": self.outside,
            "inside": self.inside,
            "since": self.since,
        }
        return pack("alarms", header, arrays, deflate=True)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """What `pack` wrote; raises StateError when it is damaged."""
        header, arrays = unpack("alarms", data)
        servers, firing = unpack_names(arrays.pop("servers")), arrays.pop("firing")
        return cls(**header, servers=servers, firing=firing.astype(bool), **arrays)
