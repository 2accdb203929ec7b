"""JSON in one form, so that equal values have equal bytes and equal hashes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def plain(value: Any) -> Any:  # noqa: ANN401
    """The value as JSON holds it: numpy's scalars as Python's, tuples as lists, NaN as "nan".

    >>> plain({"loss": (np.float32(0.5), float("nan"))})
    {'loss': [0.5, 'nan']}

    Raises TypeError for what JSON cannot hold.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"JSON keys are strings, not {wrong[0]!r}")
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    raise TypeError(f"JSON holds no {type(value).__name__}: {value!r}")


def canonical(value: Mapping[str, Any]) -> bytes:
    """Sorted keys, no spaces, ASCII; raises ValueError for a number that is not finite."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def sha256(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()
