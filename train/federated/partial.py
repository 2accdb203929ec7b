"""A partial: what a leaf of a tree of aggregators collected, on its way to the one above."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.federated.collected import Collected
from train.federated.rounds import OpenRound


@dataclass(frozen=True, slots=True)
class Partial:
    """Sums and counts of the updates that one aggregator admitted.

    Nodes are trusted, and a site sends to one of them only. Merging partials is associative and, up
    to the last bit of float64, gives what one aggregator of all the updates would hold. For order
    statistics a leaf hands on its reservoir: the medians are those of the sites that all leaves
    together hold.
    """

    node: str
    """Who made it."""
    sequence: int
    """Rises with every partial of the node: the same number again is the same partial."""
    schema_hash: str
    base_version: int
    """The version that was accepted at the node when its first update came."""
    counts: OpenRound
    norms: NDArray[np.int64]
    """Of the deltas, in the bins of `Usual`."""
    samples: NDArray[np.int64]
    """That they were said to have, in the same bins."""
    pools: Mapping[str, Collected]
    """By pool: `global`, `role/web`, ..."""
