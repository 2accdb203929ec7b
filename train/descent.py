"""One step of the quantile network's fit: its gradient by hand, and AdamW.

Source of AdamW: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019. Letters as
in `forecast.quantile_network`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from forecast.quantile_network import Passed, Weights, sigmoid

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

_FARTHEST_STEP = 1.0
"""The gradient's norm, at most."""
_BETAS, _TINY = (0.9, 0.999), 1e-8


def gradient(
    weights: Weights,
    given_NP: Float32Array,
    server_N: IntArray,
    target_N: IntArray,
    passed: Passed,
    kept: Sequence[Float32Array],
    slope_NHQ: Float32Array,
) -> dict[str, Float32Array]:
    """Each parameter's gradient, from that of the quantiles: `forward` backwards."""
    count, _, levels = slope_NHQ.shape
    at = levels // 2
    middle = slope_NHQ.sum(axis=-1)
    apart = sigmoid(passed.raw - np.float32(1))
    raw = np.empty_like(slope_NHQ)
    raw[..., at] = middle
    raw[..., at + 1 :] = np.cumsum(slope_NHQ[..., :at:-1], axis=-1)[..., ::-1]
    raw[..., :at] = -np.cumsum(slope_NHQ[..., :at], axis=-1)
    raw[..., at + 1 :] *= apart[..., at + 1 :]
    raw[..., :at] *= apart[..., :at]
    out = raw.reshape(count, -1)
    h2 = out @ weights.out.T
    z2 = h2 * kept[1] * _silu_slope(passed.z2)
    z1 = (h2 + z2 @ weights.second.T) * kept[0] * _silu_slope(passed.z1)
    embedding = z1 @ weights.embedded.T
    shared, own = np.zeros_like(weights.shared), np.zeros_like(weights.own)
    np.add.at(shared, target_N, embedding)
    known = server_N >= 0
    if len(own):
        np.add.at(own, (server_N[known], target_N[known]), embedding[known])
    return {
        "shared": shared,
        "own": own,
        "embedded": passed.embedding.T @ z1,
        "first": given_NP.T @ z1,
        "first_bias": z1.sum(axis=0),
        "second": passed.h1.T @ z2,
        "second_bias": z2.sum(axis=0),
        "direct": given_NP.T @ middle,
        "direct_bias": middle.sum(axis=0),
        "out": passed.h2.T @ out,
        "out_bias": out.sum(axis=0),
    }


def _silu_slope(values: Float32Array) -> Float32Array:
    share = sigmoid(values)
    found: Float32Array = share * (1 + values * (1 - share))
    return found


def moved(
    now: Mapping[str, Float32Array],
    slope: Mapping[str, Float32Array],
    moments: Mapping[str, tuple[Float32Array, Float32Array]],
    rate: float,
    step: int,
    *,
    decay: float,
) -> dict[str, Float32Array]:
    """One step of AdamW; `moments` are changed in place."""
    norm = math.sqrt(sum(float(np.vdot(one, one)) for one in slope.values()))
    scale = np.float32(min(1.0, _FARTHEST_STEP / (norm + 1e-12)))
    first, second = _BETAS
    unbias = math.sqrt(1 - second**step) / (1 - first**step)
    found = {}
    for name, one in now.items():
        pull, (mean, square) = slope[name] * scale, moments[name]
        mean *= np.float32(first)
        mean += np.float32(1 - first) * pull
        square *= np.float32(second)
        square += np.float32(1 - second) * pull * pull
        change = np.float32(rate * unbias) * mean / (np.sqrt(square) + np.float32(_TINY))
        found[name] = (one * np.float32(1 - rate * decay) - change).astype(np.float32)
    return found
