"""Which accepted versions learned from a stretch of slots, and the way back to before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forecast.versions import RegistryState


@dataclass(frozen=True, slots=True)
class Touched:
    """What a stretch that was masked too late had been learned by."""

    versions: tuple[int, ...]
    """Accepted versions whose training range has a slot of it, oldest first."""
    way_back: int | None
    """The champion before the first of them; None: none of them serves or may serve again, or
    there is no version before."""


def touched(
    state: RegistryState, lineages: Mapping[int, Mapping[str, Any]], first: int, last: int
) -> Touched:
    """What of the registry's versions was trained on slots in [first, last].

    A version without a training range in its lineage counts as not touched.

    >>> from forecast.versions import RegistryState, VersionInfo
    >>> rest = ("", 0, "", "", "", "", 0, "promoted")
    >>> infos = tuple(VersionInfo(n, "update", n - 1, *rest) for n in (1, 2, 3))
    >>> state = RegistryState(versions=infos, line=(1, 2, 3))
    >>> ranges = {n: {"trained_from_slot": 0, "trained_to_slot": 100 * n} for n in (1, 2, 3)}
    >>> touched(state, ranges, 150, 160)
    Touched(versions=(2, 3), way_back=1)
    """
    found = []
    for info in state.versions:
        lineage = lineages.get(info.version, {})
        begin, end = (int(lineage.get(f"trained_{side}_slot", -1)) for side in ("from", "to"))
        if info.status == "promoted" and 0 <= begin <= last and end >= first:
            found.append(info.version)
    serving = [place for place, version in enumerate(state.line) if version in found]
    way_back = state.line[serving[0] - 1] if serving and serving[0] > 0 else None
    return Touched(tuple(sorted(found)), way_back)
