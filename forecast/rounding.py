"""How precise the forecast of record is, and its values as few bytes, without loss.

A forecast is rounded once, before anybody reads it, to a multiple of a power of two that belongs to
its server and target, with an error below 1/4096 of the interval's width (`as_recorded`). What lies
on such a grid is stored as whole numbers, each told by what its neighbours make likely: the level
below and the step before, less the level below of the step before (the planar predictor of lossless
image coding); what is left goes byte by byte under zlib. Values that lie on no such grid are stored
as they are, so `decode(encode(x))` is x, bit by bit, whoever made it; only a NaN's payload is lost.

S servers, H horizon, T targets, Q levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int32]

_WIDTH_BITS = 12
_NARROWEST = 16.0
"""A step is less than 2^-12 of its own interval off, unless that is narrower than 1/16 of the row's
widest one."""
_VALUE_BITS = 24
"""No grid is finer than a float32 of the row's largest value."""
_LOWEST, _HIGHEST = -120, 104
"""Exponents whose power of two, and that of their negative, are normal float32 numbers."""


def as_recorded(
    values_SHTQ: Float32Array,
    *,
    lower: Float32Array | None = None,
    upper: Float32Array | None = None,
) -> Float32Array:
    """The values as they are recorded, served and scored: a new float32 array [S, H, T, Q].

    NaN stays NaN, levels stay in order, values inside `lower` and `upper` [T] (infinite: none) stay
    inside. What was rounded once is not changed by a second time: a row's grid depends on widths
    and sizes rounded *up* to a power of two, which rounding to a finer one cannot raise.

    >>> as_recorded(np.array([[[[0.1, 0.3, 0.7]]]], np.float32)).ravel().tolist()
    [0.10009765625, 0.300048828125, 0.699951171875]
    """
    exponent = _grid(values_SHTQ)
    with np.errstate(invalid="ignore", over="ignore"):
        whole = np.rint(values_SHTQ * _power(-exponent))
        for bound, inward, clip in ((lower, np.ceil, np.maximum), (upper, np.floor, np.minimum)):
            if bound is not None:
                edge = inward(np.asarray(bound, np.float64)[:, None] * np.exp2(-exponent))
                whole = clip(whole, edge.astype(np.float32))
        # Adding zero makes -0.0 a plain zero.
        rounded = whole * _power(exponent) + np.float32(0)
    rounded = np.where(np.isfinite(values_SHTQ), rounded, values_SHTQ)
    return np.asarray(rounded, np.float32)


def encode(values_SHTQ: Float32Array) -> dict[str, NDArray[Any]]:
    """Arrays that `decode` makes the same values of; they are meant to be compressed.

    `bits0` to `bits3` are the bytes of the whole numbers' differences, lowest first; those that are
    all zero are left out. `exponent` [S, T] is their grid. `unknown` holds a bit for each value,
    set where it is NaN. `rows` names the rows (server * T + target) that lie on no grid, `raw`
    [.., H, Q] holds their values.
    """
    exponent = _grid(values_SHTQ)
    unknown = np.isnan(values_SHTQ)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.nan_to_num(values_SHTQ * _power(-exponent), posinf=0.0, neginf=0.0)
        whole = np.clip(scaled, -(2.0**25), 2.0**25).astype(np.int32)
    back, asked = whole.astype(np.float32) * _power(exponent), np.ascontiguousarray(values_SHTQ)
    same = back.view(np.int32) == asked.view(np.int32)
    loose = ~(same | unknown).all(axis=(1, 3))
    codes = np.ascontiguousarray(whole.transpose(0, 2, 1, 3))
    codes[loose] = 0
    left = codes.copy()
    left[..., 1:] -= codes[..., :-1]
    change = left.copy()
    change[:, :, 1:] -= left[:, :, :-1]
    folded = ((change << 1) ^ (change >> 31)).view(np.uint32)
    arrays: dict[str, NDArray[Any]] = {"exponent": exponent[:, 0, :, 0]}
    for place in range(4):
        part = (folded >> np.uint32(8 * place)).astype(np.uint8)
        if part.any():
            arrays[f"bits{place}"] = part
    if unknown.any():
        arrays["unknown"] = np.packbits(unknown)
    if loose.any():
        arrays["rows"] = np.flatnonzero(loose).astype(np.int32)
        arrays["raw"] = values_SHTQ.transpose(0, 2, 1, 3)[loose]
    return arrays


def decode(arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int, int, int]) -> Float32Array:
    """The values [S, H, T, Q] of `shape` that `encode` was given; they cannot be written to."""
    servers, steps, targets, levels = shape
    folded = np.zeros((servers, targets, steps, levels), np.uint32)
    for place in range(4):
        if (part := arrays.get(f"bits{place}")) is not None:
            folded |= part.astype(np.uint32) << np.uint32(8 * place)
    change = ((folded >> np.uint32(1)) ^ -(folded & np.uint32(1))).view(np.int32)
    codes = change.cumsum(axis=2, dtype=np.int32).cumsum(axis=3, dtype=np.int32)
    found = codes.astype(np.float32) * _power(arrays["exponent"])[:, :, None, None]
    if "rows" in arrays:
        found.reshape(-1, steps, levels)[arrays["rows"]] = arrays["raw"]
    values = np.ascontiguousarray(found.transpose(0, 2, 1, 3))
    if "unknown" in arrays:
        count = values.size
        values[np.unpackbits(arrays["unknown"], count=count).reshape(shape).view(bool)] = np.nan
    values.flags.writeable = False
    return values


def _grid(values_SHTQ: Float32Array) -> IntArray:
    """Exponents [S, 1, T, 1] of the power of two that a row's recorded values are multiples of."""
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.where(np.isfinite(values_SHTQ), values_SHTQ, np.float32(np.nan))
        top, bottom = finite[..., 0], finite[..., 0]
        for level in range(1, finite.shape[-1]):
            top, bottom = (
                np.maximum(top, finite[..., level]),
                np.minimum(bottom, finite[..., level]),
            )
        width_SHT = top.astype(np.float64) - bottom
        width = np.fmax(
            np.fmin.reduce(width_SHT, axis=1, initial=np.inf),
            np.fmax.reduce(width_SHT, axis=1, initial=0.0) / _NARROWEST,
        )
        size = np.fmax.reduce(np.fmax(np.abs(top), np.abs(bottom)), axis=1, initial=0.0)
    width[~np.isfinite(width)] = 0.0
    finest = _ceil_log2(size.astype(np.float64)) - _VALUE_BITS
    exponent = np.maximum(np.where(width > 0, _ceil_log2(width) - _WIDTH_BITS, finest), finest)
    return np.clip(exponent, _LOWEST, _HIGHEST).astype(np.int32)[:, None, :, None]


def _ceil_log2(numbers: NDArray[np.float64]) -> IntArray:
    """The smallest k with number <= 2^k; some low one for 0."""
    fraction, exponent = np.frexp(numbers)
    found = np.where(fraction == 0.5, exponent - 1, exponent)
    return np.where(numbers > 0, found, -1000).astype(np.int32)


def _power(exponent: IntArray) -> Float32Array:
    return np.ldexp(np.float32(1), exponent)
