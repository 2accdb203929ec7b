"""ControllerActor: keeps the controller stepping, from its constructor on."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

from actors.controller import Controller
from actors.settings import Settings
from actors.state import StateFile

log = logging.getLogger("fleetcast.controller")

_POLL_S = 10.0
_BACKOFF_S = (0.2, 1.0, 5.0, 15.0)


class ControllerActor:
    """Shell around `Controller`: waits for closed slots and steps through them.

    The loop starts in the constructor, which Ray runs again after a crash: nobody has to tell it
    to go on. A step that fails is logged, waited on and done again; serving goes on meanwhile.
    """

    def __init__(
        self,
        *,
        buffer: Any,
        ledger: Any,
        trainer: Any,
        registry: Any,
        settings: Settings,
        state_path: Path,
    ) -> None:
        self._buffer = buffer
        self._controller = Controller(
            buffer=buffer,
            ledger=ledger,
            trainer=trainer,
            registry=registry,
            members=settings.members(),
            state=StateFile(state_path),
            settings=settings,
            now=time.time,
        )
        self._steps = 0
        self._failures = 0
        self._error: str | None = None
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def status(self) -> dict[str, Any]:
        """Where the loop stands."""
        state = self._controller.state
        pending = state.pending
        return {
            "stepped_slot": state.slot,
            "pending": None if pending is None else pending.update_id,
            "steps": self._steps,
            "failures": self._failures,
            "error": self._error,
            "last_failure": self._controller.last_failure,
        }

    async def close(self) -> None:
        """Stop stepping, between two steps or within one: a step cut short is done again."""
        self._loop.cancel()
        await asyncio.wait([self._loop])

    async def _run(self) -> None:
        tries = 0
        while True:
            try:
                status = await self._buffer.wait_closed.remote(self._controller.state.slot, _POLL_S)
                self._steps += await self._controller.catch_up(status)
                tries, self._error = 0, None
            except Exception as error:  # the loop outlives whatever a step raises
                log.exception("step failed; it will be done again")
                self._failures += 1
                self._error = f"{type(error).__name__}: {error}"
                await asyncio.sleep(_BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)])
                tries += 1
