"""Which versions are kept on disk: enough of the newest, and a way back to any day and week.

Kept are the newest promoted, those beside the champion, the newest that nobody has decided on, all
that an alias (the base, the anchor, pins) or the rollout names, and all that was champion while
forecasts were issued that have not matured yet. Beside them, for each of the last days and weeks of
event time, the version that answered at its end. Which one that is does not change later, but where
it is rolled back: then it is the one before. So nothing that is needed tomorrow is removed today.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forecast.clock import slots_per_day

if TYPE_CHECKING:
    from forecast.versions import RegistryState, VersionInfo

DAYS, WEEKS = 14, 8
"""Of each of so many the last version is kept, the present ones among them."""

_MONDAY = 4
"""The first day of a week since the epoch began, a Thursday."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How much is kept."""

    newest: int
    """Of those promoted, and of those that nobody has decided on."""
    beside: int = 0
    """Versions before the champion that are members still."""
    step_seconds: int = 300
    open_slots: int = 0
    """How long after a forecast was issued its last step has come: a horizon."""


def kept(state: RegistryState, keeping: Keeping, *, slot: int) -> frozenset[int]:
    """The versions to keep at a slot of event time."""
    promoted = _by_promotion(state)
    named = {*state.aliases.values(), *state.line[-1 - keeping.beside :], *state.rollout.versions}
    named.update(info.version for info in promoted[-keeping.newest :])
    waiting = [info.version for info in state.versions if info.status == "registered"]
    named.update(waiting[-keeping.newest :])
    now = max([slot, *(info.decided_slot or info.slot for info in state.versions)])
    named.update(_since(promoted, now - keeping.open_slots) if keeping.open_slots else ())
    lasting = [info for info in promoted if info.status == "promoted"]
    for end in _ends(now, slots_per_day(keeping.step_seconds)):
        named.update([info.version for info in lasting if promoted_at(info) < end][-1:])
    return frozenset(named)


def promoted_at(info: VersionInfo) -> int:
    """The slot of a version's last promotion; of records before that was kept, the best known."""
    if info.promoted_slot is not None:
        return info.promoted_slot
    if info.status == "promoted" and info.decided_slot is not None:
        return info.decided_slot
    return info.slot


def _by_promotion(state: RegistryState) -> list[VersionInfo]:
    """The versions that ever were promoted, in the order of their last promotion."""
    made = [info for info in state.versions if info.promotion is not None]
    return sorted(made, key=lambda info: (info.promotion or 0, info.version))


def _since(promoted: list[VersionInfo], first: int) -> Iterator[int]:
    """The versions that were champion at a slot or later, as far as promotions tell."""
    for place, info in enumerate(promoted):
        until = promoted_at(promoted[place + 1]) if place + 1 < len(promoted) else None
        if until is None or until >= first:
            yield info.version


def _ends(now: int, day_slots: int) -> Iterator[int]:
    """The first slot after each of the last days and weeks, the present ones included.

    >>> list(_ends(288 * 11, 288))[:2], list(_ends(288 * 11, 288))[14:16]
    ([3456, 3168], [5184, 3168])
    """
    day = now // day_slots
    yield from ((day + 1 - back) * day_slots for back in range(DAYS))
    week = (day - _MONDAY) // 7
    yield from ((7 * (week + 1 - back) + _MONDAY) * day_slots for back in range(WEEKS))
