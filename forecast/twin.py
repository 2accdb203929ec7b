"""The frozen twin: the base model, scored for ever on a few servers as what learning began from.

It issues forecasts of record for a fixed share of each role's servers. They are scored in a pair
with the champion's on the same cells, and answer for nobody: what learning was worth is what the
champion's errors are below the twin's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

FEWEST = 12
"""Servers at least, over all roles: a smaller fleet is all of it."""


def twin_servers(servers: Sequence[str], roles: Sequence[str], share: float) -> tuple[int, ...]:
    """The places of the servers that have a twin, in order.

    Of each role so many as the share says, at least one, and of the fleet at least `FEWEST`, alike
    for all roles. Which ones is up to their names alone: a server that comes or goes moves at most
    one other in or out.

    >>> twin_servers(("a", "b", "c"), ("web", "web", "db"), 0.05)
    (0, 1, 2)
    """
    share = min(1.0, max(share, FEWEST / max(1, len(servers))))
    by_role: dict[str, list[int]] = {}
    for place, role in enumerate(roles):
        by_role.setdefault(role, []).append(place)
    chosen: list[int] = []
    for places in by_role.values():
        count = math.ceil(share * len(places) - 1e-9)
        chosen += sorted(places, key=lambda place: _draw(servers[place]))[:count]
    return tuple(sorted(chosen))


@lru_cache(maxsize=1 << 16)
def _draw(server: str) -> bytes:
    """A number that the name draws, for ever the same, and unlike that of other draws."""
    return hashlib.sha256(f"twin of {server}".encode()).digest()[:8] + server.encode()
