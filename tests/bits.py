"""Dataclasses with arrays as values that compare bit by bit."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np


def bits(one: Any) -> dict[str, object]:
    """The fields of a dataclass; an array as its shape and bytes, so that NaN equals NaN."""
    return {
        name: (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
        for name, value in asdict(one).items()
    }
