"""Group commit: whoever waits at the same time shares one sync."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Commits:
    """Runs `sync` in a thread, one at a time, for all that wait for it.

    A sync that is under way began before what is written now: the one after it is waited for.
    """

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        """Until what was written before this call is durable; raises what that sync raised."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._run(self._running))
        # One who gives up waiting must not take the sync away from the others.
        await asyncio.shield(self._next)

    async def _run(self, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        await asyncio.to_thread(self._sync)
