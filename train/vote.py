"""The fleet's vote: whether so many servers drifted at about the same time that the fleet did.

A share decides, not a number: copies of servers change nothing. What chance does to few servers is
kept out by Chernoff's bound on how many of those that differ would drift on a day by themselves,
as often as they usually do: real servers change on many days.

N servers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.places import moved
from train.detector import Bools, Ints

_ONCE_IN_DAYS = 365
"""How rare a day must be on which as many drift by chance."""
_USUAL_DAYS = 14
"""What is usual is forgotten over so many days."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the vote came to."""

    share: float
    fleet_wide: bool
    fleet_since: int | None
    acts: bool


class Vote:
    """Who drifted when. `day` is in slots, `chance` is that of one server's false alarm in it.

    The fleet drifts with a `share` of its servers; `acts` is the share that asks for an update.
    """

    def __init__(self, count: int, *, day: int, share: float, acts: float, chance: float) -> None:
        self._day, self._share, self._acts, self._chance = day, share, acts, chance
        self.drifted: Ints = np.full(count, -1, np.int64)
        """The slot of each server's last alarm; -1 without one."""
        self.since: Ints = np.full(count, -1, np.int64)
        """The slot with which that drift began."""
        self.fleet_slot = self.acted_slot = -1
        """The last fleet-wide alarm, and the last that asked for an update."""
        self.fleet_since: int | None = None
        self.usual = chance
        """The share of the servers that drift on a day."""

    def take(
        self, slot: int, block: int, drifted: Bools, since: Ints, watching: Bools, alike: Ints
    ) -> Outcome | None:
        """Count who drifted with a block of slots [N], since when; None when nobody did.

        `alike` [N] numbers the servers, those that are copies of each other alike.
        """
        before = min(self.usual, 0.5)
        days = _USUAL_DAYS * self._day / block
        share = drifted[watching | drifted].mean() if (watching | drifted).any() else 0.0
        self.usual += (float(share) * self._day / block - self.usual) / days
        if not drifted.any():
            return None
        self.drifted = np.where(drifted, slot, self.drifted)
        self.since = np.where(drifted, since, self.since)
        told = self._of(slot, self.fleet_slot)
        total = max(1, int((watching | told).sum()))
        share = int(told.sum()) / total
        kinds = len(np.unique(alike[watching | told]))
        by_chance = _at_least(len(np.unique(alike[told])), kinds, max(before, self._chance))
        wide = share >= self._share and by_chance < 1 / _ONCE_IN_DAYS
        acts = wide or int(self._of(slot, self.acted_slot).sum()) / total >= self._acts
        if wide:
            self.fleet_slot, self.fleet_since = slot, int(np.median(self.since[told]))
        if acts:
            self.acted_slot = slot
        return Outcome(share, wide, self.fleet_since if wide else None, acts)

    def _of(self, slot: int, after: int) -> Bools:
        """Who drifted within a day up to `slot`, and after another slot."""
        return np.asarray(self.drifted > max(slot - self._day, after))

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """Who drifted, for storage."""
        return {"vote_drifted": self.drifted, "vote_since": self.since}

    def header(self) -> dict[str, Any]:
        """What is known of the fleet, for storage."""
        names = ("fleet_slot", "acted_slot", "fleet_since", "usual")
        return {name: getattr(self, name) for name in names}

    def restore(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[np.int64]]) -> None:
        """Take over what `header` and `arrays` gave."""
        for name in self.header():
            setattr(self, name, header[name])
        self.drifted, self.since = arrays["vote_drifted"].copy(), arrays["vote_since"].copy()

    def rearrange(self, rows: Ints) -> None:
        """The servers in another order; -1 is a new one."""
        self.drifted = moved(self.drifted, rows, new=-1)
        self.since = moved(self.since, rows, new=-1)


def _at_least(count: int, among: int, chance: float) -> float:
    """A bound on the probability of `count` or more successes, each of probability `chance`.

    >>> round(_at_least(1, 1, 0.01), 4), round(_at_least(6, 24, 0.04), 4)
    (0.01, 0.0014)
    """
    share = count / max(1, among)
    if share <= chance:
        return 1.0
    rest = 0.0 if count == among else (1 - share) * math.log((1 - share) / (1 - chance))
    return math.exp(-among * (share * math.log(share / chance) + rest))
