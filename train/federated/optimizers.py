"""Server optimisers: a step of the global model out of an aggregated delta.

Hsu et al. 2019, "Measuring the effects of non-identical data distribution" (FedAvgM); Reddi et al.
2021, "Adaptive federated optimization" (FedAdam, FedYogi). The adaptive ones work in units of the
first aggregate's root mean square: deltas of online learning are 1e-5 to 1e-3, and an absolute
`tau` or rate made for others moves the model by a multiple of what the sites found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.federated.settings import AggregatorSettings

DoubleArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """What an optimiser carries from step to step. Replaced, never written to."""

    steps: int = 0
    """How many were made: its own count, so that a restart changes no bias."""
    scale: float = 0.0
    """Root mean square of the first aggregate that was not zero: the unit of what follows."""
    first: DoubleArray | None = None
    second: DoubleArray | None = None


def step(
    moments: Moments, delta: DoubleArray, settings: AggregatorSettings
) -> tuple[DoubleArray, Moments]:
    """The step for an aggregated delta, and the moments after it; `delta` may be reused for it."""
    rate, decay = settings.learning_rate, settings.momentum
    if settings.optimizer == "plain":
        if rate != 1:
            delta *= rate
        return delta, Moments(moments.steps + 1)
    if settings.optimizer == "momentum":
        first = delta if moments.first is None else decay * moments.first + delta
        return rate * first, Moments(moments.steps + 1, first=first)
    scale = moments.scale or _rms(delta)
    if not scale:
        return delta, moments  # nothing was ever learned: there is no unit yet
    tau, count = settings.tau, moments.steps + 1
    unit = delta / scale
    before = np.zeros_like(unit) if moments.first is None else moments.first
    second = np.full_like(unit, tau**2) if moments.second is None else moments.second
    first = decay * before + (1 - decay) * unit
    square, share = np.square(unit), 1 - settings.beta2
    if settings.optimizer == "adam":
        second = settings.beta2 * second + share * square
    else:
        second = second - share * square * np.sign(second - square)
    made = first / (1 - decay**count)
    made *= rate * scale
    made /= np.sqrt(second) + tau
    return made, Moments(count, scale, first, second)


def capped(made: DoubleArray, most: float) -> tuple[DoubleArray, float, bool]:
    """The step no longer than `most`, its norm, and whether it had to be shortened."""
    norm = math.sqrt(float(np.dot(made, made)))
    if norm <= most:
        return made, norm, False
    made *= most / norm
    return made, most, True


def _rms(delta: DoubleArray) -> float:
    return math.sqrt(float(np.dot(delta, delta)) / max(1, len(delta)))
