"""Find an actor by name. What Serve and the jobs use; it starts nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import ray

from forecast.config import Config
from forecast.errors import Busy

log = logging.getLogger("fleetcast.handles")

REGISTRY, BUFFER, LEDGER, TRAINER, CONTROLLER = (
    "registry",
    "buffer",
    "ledger",
    "trainer",
    "controller",
)
AGGREGATOR, SITE = "aggregator", "site"
_TIMEOUT_S = 15.0
ROLES = (REGISTRY, BUFFER, LEDGER, TRAINER, CONTROLLER)
"""What every fleet has; `federated` adds the others."""
FEDERATED = (AGGREGATOR, SITE)
OPTIONAL = (SITE,)
"""What a fleet does without, when it cannot be had."""


def roles_of(config: Config) -> tuple[str, ...]:
    """The actors that a fleet of this config has."""
    asked = config.federated
    there = (asked.enabled, asked.home.site is not None)
    return (*ROLES, *(role for role, wanted in zip(FEDERATED, there, strict=True) if wanted))


def namespace(fleet: str) -> str:
    """The Ray namespace of one fleet, so that two fleets share a cluster."""
    return f"fleetcast-{fleet}"


def actor_name(panel: str, role: str) -> str:
    """The name of one panel's actor within its fleet."""
    return f"{panel}/{role}"


def find(fleet: str, panel: str, role: str) -> Any | None:
    """The actor's handle, or None while it does not exist."""
    try:
        return ray.get_actor(actor_name(panel, role), namespace=namespace(fleet))
    except ValueError:
        return None


async def wait_for(fleet: str, panel: str, role: str, *, poll_s: float = 0.5) -> Any:
    """The actor's handle, polled for until it exists."""
    while (handle := find(fleet, panel, role)) is None:
        await asyncio.sleep(poll_s)
    return handle


class Actors:
    """One fleet's actors as a replica reaches them: looked up by name, never started."""

    def __init__(self, fleet: str, panel: str) -> None:
        self._fleet, self._panel = fleet, panel
        self._known: dict[str, Any] = {}

    async def ask(
        self,
        role: str,
        method: str,
        *args: Any,
        timeout_s: float | None = _TIMEOUT_S,
        **kwargs: Any,
    ) -> Any:
        """Call an actor's method; raises Busy while the actor cannot answer.

        `timeout_s` None waits for as long as it takes.
        """
        _, answer = await self.refer(role, method, *args, timeout_s=timeout_s, **kwargs)
        return answer

    async def refer(
        self,
        role: str,
        method: str,
        *args: Any,
        timeout_s: float | None = _TIMEOUT_S,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """Ask, and get the answer's reference too: what is large is passed on by it, uncopied."""
        try:
            async with asyncio.timeout(timeout_s):
                if role not in self._known:
                    self._known[role] = await wait_for(self._fleet, self._panel, role)
                reference = getattr(self._known[role], method).remote(*args, **kwargs)
                return reference, await reference
        except TimeoutError as error:
            raise Busy(f"the {role} does not answer", retry_after_s=5) from error
        except ray.exceptions.RayActorError as error:
            # Made anew under the same name: look it up again next time.
            self._known.pop(role, None)
            raise Busy(f"the {role} is restarting", retry_after_s=5) from error


async def first(pull: Callable[[], Awaitable[None]], *, patience_s: float = 60.0) -> None:
    """Pull once, with patience for actors that are still starting, before a replica is ready.

    When none answers for so long the replica starts all the same: a fallback is better than nobody.
    """
    try:
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    return await pull()
                except Busy as error:
                    log.info("not yet: %s", error)
                    await asyncio.sleep(0.2)
    except TimeoutError:
        log.warning("no actor answered within %d s; going on without", patience_s)


async def follow(role: str, pull: Callable[[], Awaitable[None]]) -> NoReturn:
    """Pull from an actor again and again; each pull waits for news by itself."""
    while True:
        try:
            await pull()
        except Exception as error:  # whatever it is, this replica must go on following
            log.warning("%s: %s: %s", role, type(error).__name__, error)
            await asyncio.sleep(1.0)
