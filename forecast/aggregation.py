"""The arithmetic of online aggregation: how sure members are, and what share each has.

For members whose regret R, variance V and slots N are known (`ensemble` says what they are), as
arrays [1 + S, K, ...]: row 0 is the fleet's, the others are of servers; K members.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

TRUST = 144
"""n0: own slots after which the fleet's word counts half. Twice as many or as few is as good."""

SHARE = 0.001
"""What all members have in common, so that none is ever lost for good."""


def sureness(
    regret: Float32Array, variance: Float32Array, slots: Float32Array
) -> tuple[Float32Array, Float32Array]:
    """eta and e [1 + S, K, ...] of R, V and N; the fleet's own e is that of its row."""
    eta = eta_of(_or_typical(variance))
    exponent = eta * regret
    trust: Float32Array = np.float32(TRUST) / (TRUST + slots[1:, ..., None])
    exponent[1:] += trust * exponent[:1]
    return eta, exponent


def shares(eta: Float32Array, exponent: Float32Array) -> Float32Array:
    """w ~ eta * exp(exponent), mixed with an equal share, over axis 1 (K)."""
    factor = np.where(eta > 0, eta, 1) * np.exp(exponent - exponent.max(1, keepdims=True))
    share = factor / factor.sum(1, keepdims=True)
    mixed: Float32Array = (1 - np.float32(SHARE)) * share + np.float32(SHARE / eta.shape[1])
    return mixed


def same_share(had: Sequence[Float32Array], have: Sequence[Float32Array]) -> Float32Array:
    """The regrets of the versions now, so that all of them weigh together what all did before.

    `had` and `have` are R, V and N of the versions before and now. What they are to each other does
    not change; a cell in which one is unknown stays as it is.
    """
    regret, variance, slots = have[0].copy(), *have[1:]
    known = np.all(had[1] > 0, axis=1) & np.all(variance > 0, axis=1) & bool(had[1].shape[1])
    root, before = np.sqrt(variance), _log_share(*had)
    for rows in (slice(0, 1), slice(1, None)):  # the fleet's first: the servers' lean on it
        now = np.where(known, _log_share(regret, variance, slots), 0)
        shift = np.where(known, before - now, 0)
        regret[rows] += (shift[:, None] * root)[rows]
    return regret


def _log_share(regret: Float32Array, variance: Float32Array, slots: Float32Array) -> Float32Array:
    """Logarithm of what some members weigh together, before all weights are made to sum to 1."""
    eta, exponent = sureness(regret, variance, slots)
    with np.errstate(divide="ignore"):
        found: Float32Array = np.logaddexp.reduce(np.log(eta) + exponent, axis=1)
    return found


def _or_typical(variance: Float32Array) -> Float32Array:
    """V, that of a member of whom nothing is known being what the others' is, over axis 1 (K)."""
    unknown = variance <= 0
    known = np.where(unknown, 0, variance).sum(1, keepdims=True)
    typical = known / np.maximum(1, (~unknown).sum(1, keepdims=True, dtype=np.float32))
    return np.where(unknown, typical, variance)


def eta_of(variance: Float32Array) -> Float32Array:
    """V^-1/2, and 0 where nothing is known."""
    return inverse(np.sqrt(variance))


def inverse(size: Float32Array) -> Float32Array:
    """1 / size, and 0 where there is none."""
    return np.divide(1, size, out=np.zeros_like(size), where=size > 1e-15)
