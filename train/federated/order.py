"""Order statistics: the coordinate-wise median and trimmed mean of a bounded sample of sites.

Yin et al. 2018, "Byzantine-robust distributed learning: towards optimal statistical rates". They
are not weighed by samples: what a site says of itself must not buy it influence. They need every
delta at once, so a reservoir holds at most so many; of more sites a sample decides, drawn by a
hash that no order of arrival changes, and what then holds of the sample holds of all only as
surely as that sample has as few bad sites as they have.

Legend: N deltas, P numbers of the vector.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

_COLUMNS = 4096
"""Coordinates that are sorted at once."""
FEWEST_TO_TRIM = 5
"""Of fewer, a trimmed mean drops most or nothing."""


def median(deltas: Sequence[FloatArray]) -> DoubleArray:
    """[P] of N deltas, each coordinate by itself."""
    return _by_columns(deltas, (len(deltas) - 1) // 2)


def trimmed_mean(deltas: Sequence[FloatArray], trim: float) -> DoubleArray:
    """[P] without the `max(1, ceil(trim N))` lowest and highest of each coordinate.

    Raises ValueError for fewer than five deltas, or when nothing would be left.
    """
    if not can_be_trimmed(len(deltas), trim):
        dropped = trimmed(len(deltas), trim)
        raise ValueError(f"a mean of {len(deltas)} cannot be trimmed by {dropped} at each end")
    return _by_columns(deltas, trimmed(len(deltas), trim))


def can_be_trimmed(count: int, trim: float) -> bool:
    """Whether so many are enough, and some of them stay."""
    return count >= FEWEST_TO_TRIM and 2 * trimmed(count, trim) < count


def trimmed(count: int, trim: float) -> int:
    """How many of so many are dropped at each end."""
    return max(1, math.ceil(trim * count))


def _by_columns(deltas: Sequence[FloatArray], dropped: int) -> DoubleArray:
    """[P] means without the so many lowest and highest of each coordinate."""
    found = np.empty(len(deltas[0]), np.float64)
    for start in range(0, len(found), _COLUMNS):
        stop = min(start + _COLUMNS, len(found))
        block = np.sort(np.stack([each[start:stop] for each in deltas], axis=1), axis=1)
        kept = block[:, dropped : len(deltas) - dropped]
        found[start:stop] = kept.mean(axis=1, dtype=np.float64)
    return found


@dataclass(frozen=True, slots=True)
class Entry:
    """One site's delta of the round, discounted and clipped."""

    draw: str
    """The lowest draws stay."""
    site: str
    sequence: int
    delta: FloatArray
    """[P] a copy; never written to."""


class Reservoir:
    """At most so many deltas, one of a site: its latest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.entries: dict[str, Entry] = {}
        """By site."""

    def __bool__(self) -> bool:
        return bool(self.entries)

    def add(self, entry: Entry) -> None:
        """Hold a delta, unless its site's draw is too high or a later one is held."""
        held = self.entries.get(entry.site)
        if held is not None and held.sequence >= entry.sequence:
            return
        self.entries[entry.site] = entry
        if len(self.entries) > self._most:
            last = max(self.entries.values(), key=lambda each: (each.draw, each.site))
            del self.entries[last.site]

    def would_hold(self, draw: str, site: str, sequence: int) -> bool:
        """Whether `add` would hold it: what is not held need not be copied."""
        held = self.entries.get(site)
        if held is not None:
            return held.sequence < sequence
        if len(self.entries) < self._most:
            return True
        return (draw, site) < max((each.draw, each.site) for each in self.entries.values())

    def merge(self, other: Reservoir, *, scale: float) -> None:
        """Hold what another reservoir holds, as if its sites had come here."""
        for entry in other.entries.values():
            delta = entry.delta * np.float32(scale)  # a copy: the other's may be shared memory
            self.add(Entry(entry.draw, entry.site, entry.sequence, delta))

    def deltas(self) -> list[FloatArray]:
        """What is held, by the sites' names."""
        return [self.entries[site].delta for site in sorted(self.entries)]


def draw_of(site: str, round: int, seed: int) -> str:
    """The site's draw in a round: a site cannot choose it by what it sends."""
    return hashlib.sha256(f"{seed}|{round}|{site}".encode()).hexdigest()
