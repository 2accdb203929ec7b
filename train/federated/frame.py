"""What the sites of a federation have in common: a network's shape, a global version, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from forecast.model import ModelSpec
from train.federated.partition import Layout, Rules, Scope

if TYPE_CHECKING:
    from forecast.schema import Schema
    from forecast.windows import RawWindows

FloatArray = NDArray[np.float32]

WHOLE_NETWORK: Rules = (("adapter.*", Scope.PRIVATE), ("*", Scope.GLOBAL))
"""All of the network is shared, so that a site that is new can use it as it is: what is a site's
own is a correction of the output, which begins as none."""


class Source(Protocol):
    """Where a site's windows come from: its own buffer."""

    def draw(
        self,
        *,
        as_of: int,
        hours: int,
        count: int,
        seed: int,
        holdout_hours: int,
        only: Sequence[str] | None = None,
    ) -> RawWindows:
        """Training windows; see `Buffer.draw`."""
        ...

    def holdout(
        self, *, as_of: int, hours: int, every: int, only: Sequence[str] | None = None
    ) -> RawWindows:
        """Held-out windows; see `Buffer.holdout`."""
        ...


@dataclass(frozen=True, slots=True)
class Frame:
    """A federation's network: its shape, and what of it is shared."""

    schema: Schema
    spec: ModelSpec
    layout: Layout
    categories: Mapping[str, Sequence[str]] | None = None
    """Names of the rows of each table of categories, in the order of `spec`."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class GlobalModel:
    """A version of the shared parts; one for all sites of a process."""

    version: int
    vector: FloatArray
    """[size of the layout]"""

    def __post_init__(self) -> None:
        self.vector.flags.writeable = False  # of one site as of all


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """How a site learns. Raises ValueError for numbers that make no sense."""

    hours: int = 336
    """An update draws its windows from the last so many."""
    windows: int = 320
    """Of one update."""
    holdout_hours: int = 24
    """Of the newest windows: never learned from, scored on."""
    own_windows: int = 1024
    """What the correction learns from."""

    def __post_init__(self) -> None:
        if min(self.hours, self.windows, self.holdout_hours, self.own_windows) < 1:
            raise ValueError(f"hours and windows of a site start at 1, got {self}")
