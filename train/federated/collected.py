"""What was collected for one vector since its last step: sums for a mean, or deltas to be sorted.

Legend: P numbers of the vector.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train.federated.admission import Admitted
from train.federated.mean import Mean
from train.federated.order import (
    Entry,
    Reservoir,
    can_be_trimmed,
    draw_of,
    median,
    trimmed_mean,
)
from train.federated.settings import AggregatorSettings
from train.federated.update import UpdateMeta

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]


class Collected:
    """Deltas that were admitted, as the aggregation rule needs them. Merging is associative."""

    def __init__(self, settings: AggregatorSettings) -> None:
        self.mean, self.reservoir = Mean(), Reservoir(settings.reservoir)
        self._settings = settings

    def __bool__(self) -> bool:
        return bool(self.mean) or bool(self.reservoir)

    def add(self, meta: UpdateMeta, delta: FloatArray, admitted: Admitted, *, round: int) -> None:
        """Take a delta [P]; it is only read."""
        samples, discount = admitted.samples, admitted.discount
        if self._settings.rule == "mean":
            self.mean.add(delta, scale=samples * discount, samples=samples)
            return
        draw = draw_of(meta.site, round, self._settings.seed)
        if self.reservoir.would_hold(draw, meta.site, meta.sequence):
            held = delta * np.float32(discount)
            self.reservoir.add(Entry(draw, meta.site, meta.sequence, held))

    def merge(self, other: Collected, *, scale: float) -> None:
        """Take what was collected elsewhere, all of it multiplied by `scale`."""
        if other.mean.sums is not None:
            self.mean.merge(other.mean.sums, other.mean.samples, scale=scale)
        self.reservoir.merge(other.reservoir, scale=scale)

    def waits(self) -> str:
        """Why it cannot be aggregated yet; "" when it can."""
        held = len(self.reservoir.entries)
        trim = self._settings.trim
        if self._settings.rule == "trimmed_mean" and not can_be_trimmed(held, trim):
            return f"{held} sites are too few to trim {trim:g} at each end"
        return "" if self else "no update"

    def take(self) -> DoubleArray:
        """The aggregate [P], the caller's own; afterwards there is nothing in it."""
        if self._settings.rule == "mean":
            return self.mean.take()
        deltas = self.reservoir.deltas()
        self.reservoir = Reservoir(self._settings.reservoir)
        if self._settings.rule == "median":
            return median(deltas)
        return trimmed_mean(deltas, self._settings.trim)
