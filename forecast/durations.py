"""Durations as people write them: `30s`, `5m`, `6h`, `14d`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: object) -> int:
    """Seconds of a duration such as `90s`, `5m`, `6h` or `14d`.

    >>> seconds("6h")
    21600

    Raises ValueError for anything else.
    """
    match = re.fullmatch(r"(\d+)([smhd])", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"write a duration as 30s, 5m, 6h or 14d, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def _duration(value: object) -> object:
    return value if isinstance(value, int) and not isinstance(value, bool) else seconds(value)


Duration = Annotated[int, BeforeValidator(_duration), Field(ge=0)]
"""Seconds; written `5m` in a file."""
