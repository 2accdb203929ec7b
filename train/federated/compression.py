"""Deltas in fewer bytes: bf16 or int8, with what is lost added to the next delta.

Seide et al. 2014, "1-bit stochastic gradient descent"; Karimireddy et al. 2019, "Error feedback
fixes SignSGD": without it what is too small for a code is lost in every round, with it only late.

Legend: P numbers of the vector, B blocks of int8 codes that share a scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Codec = Literal["float32", "bf16", "int8"]

_BLOCK = 1024
"""Numbers that share a scale: one large one makes only its block coarse."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A delta as it travels."""

    codec: Codec
    arrays: Mapping[str, NDArray[Any]]
    """`values` [P] and, of int8, `scales` [B]."""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())


@dataclass(frozen=True, slots=True)
class Cost:
    """What a code saved and what it cost."""

    share: float
    """Of the bytes of float32."""
    error: float
    """Norm of what was lost over that of what should have been sent; 0 when nothing should."""
    difference: float
    """Norm of what is sent minus the delta over that of the delta; 0 for a delta of zeros.

    What was lost before is in what is sent, so this is more than `error` as a rule.
    """


def encode(delta: FloatArray, codec: Codec) -> Encoded:
    """A finite delta [P] in a code; raises ValueError for one that is not finite."""
    if not np.isfinite(delta).all():
        raise ValueError(f"{int((~np.isfinite(delta)).sum())} of {len(delta)} are not finite")
    if codec == "float32":
        return Encoded(codec, {"values": delta})
    if codec == "bf16":
        bits = np.ascontiguousarray(delta).view(np.uint32)
        # To the nearest, ties to even. The largest float32 are cut instead: they have no nearest.
        rounded = bits + (0x7FFF + ((bits >> 16) & 1))
        infinite = (rounded & 0x7F800000) == 0x7F800000
        return Encoded(codec, {"values": (np.where(infinite, bits, rounded) >> 16).astype("<u2")})
    blocks = _blocks(delta)
    # A hair less than the largest number over 127: 127 times it must not be infinite.
    largest = np.abs(blocks).max(axis=1, initial=0)
    scales = np.nextafter(largest / np.float32(127), np.float32(0))
    units = np.divide(blocks, scales[:, None], where=scales[:, None] > 0, out=np.zeros_like(blocks))
    codes = np.clip(np.rint(units), -127, 127).astype(np.int8)
    return Encoded(codec, {"values": codes.reshape(-1)[: len(delta)], "scales": scales})


def decode(encoded: Encoded, size: int) -> FloatArray:
    """The delta [size]; raises ValueError for arrays that no `encode` made of so many numbers.

    What they hold may be anything: numbers that are not finite come out as such.
    """
    scaled = encoded.codec == "int8"
    dtype = {"float32": "float32", "bf16": "uint16", "int8": "int8"}.get(encoded.codec)
    if dtype is None or set(encoded.arrays) != ({"values", "scales"} if scaled else {"values"}):
        raise ValueError(f"codec {encoded.codec!r} with {sorted(encoded.arrays)} is not read here")
    values = encoded.arrays["values"]
    if values.dtype != dtype or values.shape != (size,):
        raise ValueError(f"got {values.dtype} {values.shape}, need {dtype} ({size},)")
    if encoded.codec == "float32":
        return values
    if encoded.codec == "bf16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    scales, count = encoded.arrays["scales"], math.ceil(size / _BLOCK)
    if scales.dtype != np.float32 or scales.shape != (count,):
        raise ValueError(f"got scales {scales.dtype} {scales.shape}, need float32 ({count},)")
    with np.errstate(all="ignore"):
        blocks = _blocks(values.astype(np.float32)) * scales[:, None]
    found: FloatArray = blocks.reshape(-1)[:size].copy()
    return found


class ErrorFeedback:
    """Encodes a site's deltas one after the other, and carries what each code lost to the next."""

    def __init__(self, codec: Codec, residual: FloatArray | None = None) -> None:
        """`residual` [P] is what was lost before a restart."""
        self._codec: Codec = codec
        self.residual = residual

    def encode(self, delta: FloatArray) -> tuple[Encoded, Cost]:
        """The delta [P] with what was lost before, in the code; raises ValueError as `encode`."""
        wanted = delta if self.residual is None else delta + self.residual
        made = encode(wanted, self._codec)
        sent = decode(made, len(delta))
        lost = wanted - sent
        self.residual = None if self._codec == "float32" else lost
        share = made.nbytes / max(1, delta.nbytes)
        return made, Cost(share, _relative(lost, wanted), _relative(sent - delta, delta))


def _relative(difference: FloatArray, whole: FloatArray) -> float:
    # In float64: the squares of large float32 are infinite.
    norm = float(np.linalg.norm(whole.astype(np.float64)))
    return float(np.linalg.norm(difference.astype(np.float64))) / norm if norm else 0.0


def _blocks(values: FloatArray) -> FloatArray:
    """[B, block] padded with zeros."""
    count = math.ceil(len(values) / _BLOCK)
    padded = np.zeros(count * _BLOCK, np.float32)
    padded[: len(values)] = values
    return padded.reshape(count, _BLOCK)
