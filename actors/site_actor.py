"""SiteActor: the fleet's own site of a federation, kept turning from its constructor on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors import handles
from actors.federation import begin
from actors.home_site import HomeSite, not_begun
from actors.site import Centre
from actors.site_lines import BufferSource, ClusterCentre, Line
from actors.trainer import gives_way
from connect.federated import SiteClient
from forecast.artifact import Artifact
from forecast.errors import Busy
from forecast.http.problems import original
from forecast.model import ModelSpec
from forecast.schema import Schema
from forecast.storage import HANDOVER_S, OwnerLock

log = logging.getLogger("fleetcast.site")

_NICE = 10
"""How far its thread gives way: nobody waits for it."""
_POLL_S = 2.0
"""Between two questions to the aggregator, where nothing happens at home."""
_MOST_QUESTIONS_S = 20.0
"""Of all sites together, each second."""
_BACKOFF_S = (1.0, 5.0, 15.0, 60.0)
_PATIENCE_S = 5.0
"""For a remote aggregator within one call; afterwards the actor itself tries again."""
_CLOSE_S = 20.0


class SiteActor:
    """Shell around `HomeSite`, holding the lock on its folder. Trains in a thread of its own.

    Called by the controller (`offer`, `offered`) and the gateway (`status`). The constructor, which
    Ray runs again, takes nothing and only starts the loop: what a site needs, the lock among it, is
    had there, and tried for again, so that one that cannot begin says why. What was learned is on
    disk before it is sent. An aggregator that cannot be reached is tried again, for ever.
    """

    def __init__(
        self,
        *,
        fleet: str,
        panel: str,
        directory: Path,
        owner: str,
        aggregator: str | None,
        schema: Schema,
        spec: ModelSpec,
        seed: int,
        home: Mapping[str, Any],
        actors: Any = None,
    ) -> None:
        """`aggregator` is an address, None: this cluster's own; `home` is the rest of a `HomeSite`.

        `actors` has an `ask`, by default the fleet's `handles.Actors`.
        """
        loop = asyncio.get_running_loop()
        self._actors = handles.Actors(fleet, panel) if actors is None else actors
        self._name, self._where = home["name"], aggregator or "this fleet's own"
        self._lock: OwnerLock | None = None
        self._remote: SiteClient | None = None
        self._home: HomeSite | None = None
        self._begun = asyncio.Event()
        line = Line(self._actors, loop)

        def begun() -> HomeSite:
            """Takes the lock; raises StateError while another has it, ConfigError, OSError."""
            self._lock = OwnerLock(directory / "owner.lock", owner, patience_s=HANDOVER_S)
            try:
                if aggregator is not None:
                    self._remote = SiteClient.of_fleet(aggregator, patience_s=_PATIENCE_S)
                centre: Centre = self._remote or ClusterCentre(line)
                frame, _ = begin(schema, spec, seed=seed)
                given = {**home, "frame": frame, "seed": seed, "folder": directory}
                return HomeSite(source=BufferSource(line), centre=centre, **given)
            except BaseException:
                self._let_go()
                raise

        self._begin = begun
        self._failure: str | None = None
        self._turns = 0
        self._closing = False
        self._thread = gives_way("site", _NICE)
        self._task = loop.create_task(self._run())

    async def offer(self, after: int | None) -> Mapping[str, Any] | None:
        """The global version that answers here, if it is not `after`; see `Offers.offer`.

        None too where the site has not begun yet.
        """
        if self._home is None or self._lock is None:
            return None
        self._lock.check()
        return self._home.offers.offer(after)

    async def offered(self, version: int) -> Artifact:
        """What was offered, once the site is there; raises NothingNew when it has it no more."""
        await self._begun.wait()
        assert self._home is not None
        return self._home.offers.offered(version)

    async def status(self) -> dict[str, Any]:
        """Where the home site stands, for people."""
        told = not_begun(self._name) if self._home is None else self._home.told
        return {
            **told,
            "aggregator": self._where,
            "turns": self._turns,
            "failure": self._failure or told["failure"],
        }

    async def close(self) -> None:
        """End after what a site is doing just now; what takes too long is done again.

        Closed again, nothing happens.
        """
        if self._closing:
            return
        self._closing = True
        if self._home is not None:
            self._home.stopping = True
        self._task.cancel()
        await asyncio.wait([self._task])
        ended = asyncio.get_running_loop().run_in_executor(self._thread, time.monotonic)
        done, _ = await asyncio.wait([ended], timeout=_CLOSE_S)
        self._thread.shutdown(wait=False)
        if done:
            self._let_go()

    def _let_go(self) -> None:
        if self._remote is not None:
            self._remote.close()
        if self._lock is not None:
            self._lock.release()

    async def _run(self) -> None:
        tries, loop = 0, asyncio.get_running_loop()
        while True:
            try:
                if self._home is None or self._lock is None:
                    self._home = await loop.run_in_executor(self._thread, self._begin)
                    self._begun.set()
                    continue
                self._lock.check()
                moved = await loop.run_in_executor(self._thread, self._home.turn)
                self._turns += 1
                tries, self._failure = 0, None
                if not moved:
                    await self._news(self._home)
            except Exception as error:  # whatever it is, the site goes on trying
                cause, before = original(error), self._failure
                self._failure = f"{type(cause).__name__}: {cause}"
                again = isinstance(cause, Busy) or self._failure == before
                level = logging.INFO if again else logging.WARNING
                log.log(level, "site %s tries again: %s", self._name, self._failure)
                await asyncio.sleep(_BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)])
                tries += 1

    async def _news(self, home: HomeSite) -> None:
        """Until a slot is closed, or it is time to ask the aggregator again."""
        wait_s = max(_POLL_S, home.told["sites"] / _MOST_QUESTIONS_S)
        seen = home.closed
        asked = {"timeout_s": wait_s + 15.0}
        await self._actors.ask(handles.BUFFER, "wait_closed", seen, wait_s, **asked)
