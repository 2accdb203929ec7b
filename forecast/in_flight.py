"""Bytes in flight: how much may wait at once before more is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from forecast.errors import Busy


class InFlight:
    """Counts the bytes of what is under way; for one thread or event loop.

    What is larger than the whole limit is let in alone, so that nothing is refused for ever.

    >>> bodies = InFlight(100)
    >>> with bodies.holding(80):
    ...     try:
    ...         bodies.take(30)
    ...     except Busy as refusal:
    ...         refusal.retry_after_s, bodies.nbytes
    (1, 80)
    >>> bodies.nbytes
    0
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self.nbytes = 0

    def take(self, nbytes: int) -> None:
        """Count so many bytes in; raises Busy, and counts nothing, when that is too much now."""
        if self.nbytes and self.nbytes + nbytes > self._limit:
            raise Busy("too many rows are on their way already", retry_after_s=1)
        self.nbytes += nbytes

    def give_back(self, nbytes: int) -> None:
        """Count them out again."""
        self.nbytes -= nbytes

    @contextmanager
    def holding(self, nbytes: int) -> Iterator[None]:
        """So many bytes are under way inside; raises Busy as `take` does."""
        self.take(nbytes)
        try:
            yield
        finally:
            self.give_back(nbytes)
