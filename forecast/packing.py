"""Arrays under a JSON header as bytes: how blocks, sums and snapshots are stored.

    "fcar" | format u32 | length of the header u32 | crc32 of all that follows u32
    header: JSON, padded with spaces to a multiple of 8
    arrays: little-endian, raw or deflated, each padded with zeros to a multiple of 8

Nothing that is read can run code, and what is damaged is refused, never half read.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forecast.errors import StateError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT = 2
"""Goes up when the layout changes; an older reader then refuses by number."""
_READABLE = (1, FORMAT)
"""1 has no deflated arrays."""

_MAGIC = b"fcar"
_PREFIX = struct.Struct("<4sIII")
_ALIGN = 8
_DTYPES = frozenset({"<f4", "<f8", "<i4", "<i8", "<u2", "|u1"})
_FAST = 1
"""zlib's level: a higher one saves a few percent for three times as long."""


def pack(
    kind: str,
    header: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    *,
    deflate: bool = False,
) -> bytes:
    """One sealed piece of `kind`: plain JSON values and named arrays of numbers.

    With `deflate` arrays that zlib makes smaller are stored so. Raises ValueError for an array of
    another kind than float32/64, int32/64, uint16 or uint8.
    """
    little = {name: np.asarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    for name, array in little.items():
        if array.dtype.str not in _DTYPES:
            raise ValueError(f"array {name!r} of {kind!r} has dtype {array.dtype}")
    listed: list[list[Any]] = []
    stored: list[bytes] = []
    for name, array in little.items():
        data = array.tobytes()
        listed.append([name, array.dtype.str, list(array.shape)])
        if deflate and len(small := zlib.compress(data, _FAST)) < len(data):
            data = small
            listed[-1].append(len(data))
        stored.append(data)
    tree = {"kind": kind, "header": dict(header), "arrays": listed}
    text = json.dumps(tree, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % _ALIGN)
    parts = [text]
    for data in stored:
        parts += [data, bytes(-len(data) % _ALIGN)]
    body = b"".join(parts)
    return _PREFIX.pack(_MAGIC, FORMAT, len(text), zlib.crc32(body)) + body


def unpack(kind: str, data: bytes | memoryview) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and arrays of what `pack` made; the arrays are views and cannot be written to.

    Raises StateError when the bytes are damaged, of another kind or of an unknown format.
    """
    if len(data) < _PREFIX.size:
        raise StateError(f"stored {kind}: {len(data)} bytes are too few")
    magic, number, length, checksum = _PREFIX.unpack_from(data)
    if magic != _MAGIC or number not in _READABLE:
        raise StateError(f"stored {kind}: format {magic!r} {number} is unknown, need {FORMAT}")
    body = memoryview(data)[_PREFIX.size :].toreadonly()
    if zlib.crc32(body) != checksum:
        raise StateError(f"stored {kind}: the checksum does not match, {len(data)} bytes")
    tree = json.loads(bytes(body[:length]))
    if tree["kind"] != kind:
        raise StateError(f"stored {kind}: holds a {tree['kind']}")
    arrays: dict[str, Any] = {}
    start = length
    for name, code, shape, *deflated in tree["arrays"]:
        dtype, count = np.dtype(code), math.prod(shape)
        size = deflated[0] if deflated else count * dtype.itemsize
        if deflated:
            found = np.frombuffer(zlib.decompress(body[start : start + size]), dtype, count)
        else:
            found = np.frombuffer(body, dtype, count, start)
        arrays[name] = found.reshape(shape)
        start += size + -size % _ALIGN
    return tree["header"], arrays


def pack_fields(kind: str, one: DataclassInstance, *, deflate: bool = False) -> bytes:
    """A dataclass whose fields are arrays, tuples and plain JSON values; see `pack`."""
    every = {field.name: getattr(one, field.name) for field in fields(one)}
    arrays = {name: value for name, value in every.items() if isinstance(value, np.ndarray)}
    header = {name: value for name, value in every.items() if name not in arrays}
    return pack(kind, header, arrays, deflate=deflate)


def unpack_fields(kind: str, data: bytes | memoryview) -> dict[str, Any]:
    """The fields that `pack_fields` wrote; raises StateError as `unpack`."""
    header, arrays = unpack(kind, data)
    return {**tuples(header), **arrays}


def tuples(header: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists only; in every message they are tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in header.items()}


def pack_names(names: Sequence[str]) -> NDArray[np.uint8]:
    """Many names as an array, which can be deflated as a header cannot."""
    return np.frombuffer(json.dumps(list(names), separators=(",", ":")).encode(), np.uint8)


def unpack_names(array: NDArray[np.uint8]) -> tuple[str, ...]:
    """The names that `pack_names` was given."""
    return tuple(json.loads(array.tobytes()))
