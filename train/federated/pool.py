"""A pool: one vector that sites learn together, what they sent for it, and its optimiser.

The global part is one, each role's part another. A step is a proposal until it is accepted: what
was accepted last, vector and moments, stays untouched beside it, so that to reject costs nothing.

Legend: P numbers of the vector.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train.federated.collected import Collected
from train.federated.mean import chunks
from train.federated.optimizers import Moments, capped, step
from train.federated.settings import AggregatorSettings

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]


class Pool:
    """Not safe for several threads."""

    def __init__(self, vector: FloatArray, settings: AggregatorSettings) -> None:
        """`vector` [P] is the accepted one; it is replaced, never written to."""
        self.vector, self.moments = vector, Moments()
        self.proposed: tuple[FloatArray, Moments] | None = None
        self.collected = Collected(settings)
        self.settings = settings

    def propose(self, most: float) -> tuple[float, bool]:
        """Make a step no longer than `most` of what was collected; its norm, whether it was cut."""
        delta = self.collected.take()
        made, moments = step(self.moments, delta, self.settings)
        made, norm, cut = capped(made, most)
        self.proposed = (_moved(self.vector, made), moments)
        return norm, cut

    def hand_over(self) -> Collected:
        """What was collected; the pool begins again."""
        collected, self.collected = self.collected, Collected(self.settings)
        return collected

    def replace(self, vector: FloatArray) -> None:
        """Go on from another vector [P]; the moments begin anew, and a proposal is forgotten."""
        self.vector, self.moments, self.proposed = vector.copy(), Moments(), None

    def accept(self) -> None:
        """The proposal, if there is one, is what the next step starts from."""
        if self.proposed is not None:
            (self.vector, self.moments), self.proposed = self.proposed, None

    def reject(self) -> None:
        """Forget the proposal."""
        self.proposed = None


def _moved(vector: FloatArray, made: DoubleArray) -> FloatArray:
    """The vector [P] after a step, in the step's own memory, of which half is given back.

    The sums of a round are most of what an aggregator needs: with the new vector in their place
    it never needs more than while it collects.
    """
    narrow = made.view(np.float32)
    for part in chunks(len(vector)):  # what is written lies before what is still to be read
        narrow[part] = vector[part] + made[part]
    del narrow
    made.resize((len(vector) + 1) // 2, refcheck=False)
    return made.view(np.float32)[: len(vector)]
