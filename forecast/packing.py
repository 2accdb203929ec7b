"""Arrays under a JSON header as bytes: how blocks, sums and snapshots are stored.

    "fcar" | format u32 | length of the header u32 | crc32 of all that follows u32
    header: JSON, padded with spaces to a multiple of 8
    arrays: raw little-endian, each padded with zeros to a multiple of 8

Nothing that is read can run code, and what is damaged is refused, never half read.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.errors import StateError

FORMAT = 1
"""Goes up when the layout changes; an older reader then refuses by number."""

_MAGIC = b"fcar"
_PREFIX = struct.Struct("<4sIII")
_ALIGN = 8
_DTYPES = frozenset({"<f4", "<f8", "<i4", "<i8", "|u1"})


def pack(kind: str, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """One sealed piece of `kind`: plain JSON values and named arrays of numbers.

    Raises ValueError for an array of another kind than float32/64, int32/64 or uint8.
    """
    little = {name: np.asarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    for name, array in little.items():
        if array.dtype.str not in _DTYPES:
            raise ValueError(f"array {name!r} of {kind!r} has dtype {array.dtype}")
    listed = [[name, array.dtype.str, list(array.shape)] for name, array in little.items()]
    tree = {"kind": kind, "header": dict(header), "arrays": listed}
    text = json.dumps(tree, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % _ALIGN)
    parts = [text]
    for array in little.values():
        data = array.tobytes()
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
    if magic != _MAGIC or number != FORMAT:
        raise StateError(f"stored {kind}: format {magic!r} {number} is unknown, need {FORMAT}")
    body = memoryview(data)[_PREFIX.size :].toreadonly()
    if zlib.crc32(body) != checksum:
        raise StateError(f"stored {kind}: the checksum does not match, {len(data)} bytes")
    tree = json.loads(bytes(body[:length]))
    if tree["kind"] != kind:
        raise StateError(f"stored {kind}: holds a {tree['kind']}")
    arrays: dict[str, Any] = {}
    start = length
    for name, code, shape in tree["arrays"]:
        dtype = np.dtype(code)
        count = math.prod(shape)
        arrays[name] = np.frombuffer(body, dtype, count, start).reshape(shape)
        size = count * dtype.itemsize
        start += size + -size % _ALIGN
    return tree["header"], arrays
