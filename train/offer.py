"""An offer: windows as the replay table takes them, with what tells their stratum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from forecast.places import places
from forecast.schema import Schema
from forecast.windows import RawWindows
from train.halves import Halves, halved
from train.strata import levels, phases

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Owner = tuple[str, str, str]
"""Server, role and time zone of a window."""


@dataclass(frozen=True, slots=True)
class Offer:
    """N windows as the table takes them; all of it can be logged."""

    halves: Halves
    owners: tuple[Owner, ...]
    owner: IntArray
    """[N] whose each window is, among `owners`."""
    phase: IntArray
    """[N]"""
    level: FloatArray
    """[N]"""

    def __len__(self) -> int:
        return len(self.halves)

    @classmethod
    def of(cls, raw: RawWindows, schema: Schema) -> Self:
        """Windows as the buffer cut them, labels and all."""
        whose = list(zip(raw.servers, raw.roles, raw.timezones, strict=True))
        owners = tuple(sorted(set(whose)))
        owner = places(whose, owners)
        return cls(halved(raw, schema), owners, owner, phases(raw), levels(raw, schema))
