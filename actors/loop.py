"""ControllerActor: keeps the controller stepping, from its constructor on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from actors import backups, handles
from actors.controller import Controller
from actors.ray_metrics import Publisher
from actors.settings import Settings
from actors.state import StateFile
from actors.telemetry import Durations
from connect.webhook import Outbox, Webhook
from forecast.errors import StateError

log = logging.getLogger("fleetcast.controller")

_POLL_S = 10.0
_BACKOFF_S = (0.2, 1.0, 5.0, 15.0)


class ControllerActor:
    """Shell around `Controller`: waits for closed slots and steps through them.

    The loop starts in the constructor, which Ray runs again after a crash: nobody has to tell it
    to go on. A step that fails is logged, waited on and done again; serving goes on meanwhile.
    Beside it a publisher shows where the fleet stands in Ray's metrics.
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
        webhook: Mapping[str, Any] | None = None,
        federated: bool = False,
        home: bool = False,
    ) -> None:
        """Whether the fleet has an aggregator, and a site of its own: both are found by name."""
        self._buffer, self._ledger, self._registry = buffer, ledger, registry
        self._fleet, self._panel = settings.fleet, settings.schema.panel
        self._panel_dir, self._federated = state_path.parent, federated
        self._turn, self._backing_up = asyncio.Lock(), asyncio.Lock()
        # Without a webhook nobody would take anything: people are told by logs, API and metrics.
        outbox = None if webhook is None else _outbox(state_path.with_name("notices.json"))
        self._controller = _Timed(
            self._stepped,
            self._turn,
            buffer=buffer,
            ledger=ledger,
            trainer=trainer,
            registry=registry,
            members=settings.members(),
            state=StateFile(state_path),
            settings=settings,
            now=time.time,
            outbox=outbox,
            home=handles.Actors(self._fleet, self._panel) if home else None,
        )
        self._steps = 0
        self._failures = 0
        self._error: str | None = None
        self._took = Durations()
        self._waited_s = 0.0
        self._started_at = time.time()
        self._publisher = Publisher(
            head={
                "fleet": settings.fleet,
                "panel": settings.schema.panel,
                "step_seconds": settings.schema.step_seconds,
            },
            actors={
                handles.BUFFER: buffer,
                handles.LEDGER: ledger,
                handles.TRAINER: trainer,
                handles.REGISTRY: registry,
            },
            own=self.status,
        )
        beside = [self._publisher.run()]
        if webhook is not None and outbox is not None:
            beside.append(Webhook(**webhook).run(outbox))
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(one) for one in (self._run(), *beside)]

    async def status(self) -> dict[str, Any]:
        """Where the loop stands."""
        state, drift = self._controller.state, self._controller.drift
        pending = state.pending
        return {
            "stepped_slot": state.slot,
            "pending": None if pending is None else pending.update_id,
            "steps": self._steps,
            "failures": self._failures,
            "error": self._error,
            "last_failure": self._controller.last_failure,
            "learning": self._controller.settings.learning,
            "drift_level": drift.get("levels"),
            "drift_watching": drift.get("watching"),
            "outside_windows": self._controller.outside,
            "step_duration": self._took.to_json(),
            "waited_seconds": self._waited_s,
            "started_at": self._started_at,
            "restarts": dict(self._publisher.restarts),
            **self._controller.safety,
        }

    async def drift(self) -> dict[str, Any]:
        """Where drift detection stands: who is watched, the last alarms."""
        return self._controller.drift

    async def backup(self, folder: Path) -> dict[str, Any]:
        """Write a backup of the whole fleet into a folder, one at a time; see `backups.take`."""
        async with self._backing_up:
            role = handles.AGGREGATOR
            found = handles.find(self._fleet, self._panel, role) if self._federated else None
            return await backups.take(
                folder.absolute(),
                turn=self._turn,
                panel_dir=self._panel_dir,
                stepped=lambda: self._controller.state.slot,
                registry=self._registry,
                buffer=self._buffer,
                ledger=self._ledger,
                aggregator=found,
                fleet=self._fleet,
                panel=self._panel,
                now=time.time,
            )

    async def rollout(self) -> dict[str, Any]:
        """How the version on its way to everyone compares so far."""
        return self._controller.rollout

    async def close(self) -> None:
        """Stop stepping, between two steps or within one: a step cut short is done again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _wait(self) -> Any:
        """The buffer's status, once a slot is closed that is not stepped, or after a while."""
        began = time.monotonic()
        try:
            return await self._buffer.wait_closed.remote(self._controller.state.slot, _POLL_S)
        finally:
            self._waited_s += time.monotonic() - began

    def _stepped(self, seconds: float) -> None:
        self._took.observe(seconds)
        self._publisher.wake()

    async def _run(self) -> None:
        tries = 0
        while True:
            try:
                status = await self._wait()
                self._steps += await self._controller.catch_up(status)
                tries, self._error = 0, None
            except Exception as error:  # the loop outlives whatever a step raises
                after = {"after_slot": self._controller.state.slot}
                log.exception("step failed; it will be done again", extra=after)
                self._failures += 1
                self._error = f"{type(error).__name__}: {error}"
                await asyncio.sleep(_BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)])
                tries += 1


def _outbox(path: Path) -> Outbox:
    """The notices that wait; a damaged file is put aside: to step is more than to tell."""
    try:
        return Outbox(path)
    except StateError as error:
        aside = path.with_suffix(".damaged")
        log.error("notices begin anew, what waited is in %s: %s", aside, error)
        path.replace(aside)
        return Outbox(path)


class _Timed(Controller):
    """A controller that tells how many seconds each step took, and steps in its turn."""

    def __init__(self, stepped: Callable[[float], None], turn: asyncio.Lock, **parts: Any) -> None:
        super().__init__(**parts)
        self._stepped, self._turn = stepped, turn

    async def step(self, slot: int) -> None:
        """One slot; see `Controller.step`."""
        async with self._turn:
            began = time.monotonic()
            await super().step(slot)
            self._stepped(time.monotonic() - began)
