"""Find an actor by name. What Serve and the jobs use; it starts nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

REGISTRY, BUFFER, LEDGER, TRAINER, CONTROLLER = (
    "registry",
    "buffer",
    "ledger",
    "trainer",
    "controller",
)
ROLES = (REGISTRY, BUFFER, LEDGER, TRAINER, CONTROLLER)


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
