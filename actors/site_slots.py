"""When a site learns, in event time: of data that ends, and of data that goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slots:
    """When a site learns, in event time: at `first`, then every so many slots, up to `last`."""

    first: int
    every: int
    last: int

    def next(self, slot: int) -> int | None:
        """When to learn, from this slot on; None: no more."""
        return slot if slot <= self.last else None

    def known(self, slot: int) -> int:
        """This slot, or the last that is known where it lies after that."""
        return min(slot, self.last)


@dataclass(frozen=True, slots=True)
class OpenSlots:
    """The same where the data goes on: up to what is closed by now.

    Of slots that were missed the last one is learned at alone.
    """

    first: int
    every: int
    closed: Callable[[], int]

    def next(self, slot: int) -> int | None:
        """When to learn, from this slot on; None: it is not closed yet."""
        over = self.closed() - slot
        return None if over < 0 else slot + over // self.every * self.every

    def known(self, slot: int) -> int:
        """This slot, or the last that is known where it lies after that."""
        return min(slot, self.closed())
