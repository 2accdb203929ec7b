"""Arrays under a JSON header as safetensors: what a federation's sites send and fetch.

The header is one string in the file's metadata, so that equal content has equal bytes. Nothing
that is read can run code, and what is damaged is refused, never half read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

MEDIA_TYPE = "application/vnd.safetensors"
"""No form and no script of another site's page can send it without asking first."""

_KEY = "fleetcast"
_LENGTH = struct.Struct("<Q")
_DTYPES = frozenset({"float32", "uint16", "int8"})
_MOST_HEADER = 1 << 16


def dump(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """One file of plain JSON values and named arrays of float32, uint16 or int8.

    >>> header, arrays = load(dump({"site": "a"}, {"values": np.zeros(2, np.float32)}))
    >>> header, arrays["values"].tolist()
    ({'site': 'a'}, [0.0, 0.0])
    """
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    packed = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(packed, metadata={_KEY: text})


def load(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays of what `dump` made; raises ValueError for anything else."""
    header = _header(data)
    try:
        arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{len(data)} bytes are no safetensors: {error}") from error
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES:
            raise ValueError(f"array {name!r:.80} has dtype {array.dtype}, not {sorted(_DTYPES)}")
    return header, arrays


def _header(data: bytes) -> dict[str, Any]:
    """Our header out of the file's, which is small: the library reads the rest."""
    if len(data) < _LENGTH.size:
        raise ValueError(f"{len(data)} bytes are no safetensors")
    length = _LENGTH.unpack_from(data)[0]
    if length > min(_MOST_HEADER, len(data) - _LENGTH.size):
        raise ValueError(f"a header of {length} bytes in {len(data)}, the limit is {_MOST_HEADER}")
    try:
        told = json.loads(data[_LENGTH.size : _LENGTH.size + length])
        header = json.loads(told["__metadata__"][_KEY])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the metadata has no {_KEY!r} of JSON") from error
    if not isinstance(header, dict):
        raise ValueError(f"the metadata's {_KEY!r} is no object")
    return header
