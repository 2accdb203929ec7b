"""What an actor was made from: said by the actor itself, and the digest of the code it runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors import handles, logs
from forecast.config import Config

_ANSWER_S = 60
_OPTIONAL_ANSWER_S = 5
"""Of an actor that the fleet does without: a deploy waits no longer for it."""


def identified(actor: type, said: Mapping[str, Any]) -> type:
    """The shell plus a method that says what it was made from, and in which process it runs.

    Its process logs as JSON lines that name fleet, panel and role, from the constructor on.
    """
    fleet, panel = said["config"]["fleet"], said["config"]["panel"]["name"]

    def start(self: Any, **given: Any) -> None:
        logs.configure(fleet, panel, said["role"])
        actor.__init__(self, **given)  # type: ignore[misc]

    async def identity(self: Any) -> dict[str, Any]:
        return {**said, "pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()}

    made = {"__init__": start, "identity": identity, "__doc__": actor.__doc__}
    return type(actor.__name__, (actor,), made)


def code_digest() -> str:
    """Of the code that the actors run; the HTTP side is Serve's to redeploy."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for package in ("actors", "forecast", "train"):
        for path in sorted((root / package).rglob("*.py")):
            if path.parent.name != "http":
                digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Running:
    """An actor that is there, and what it says of itself."""

    actor: Any
    said: Mapping[str, Any]


def running_of(config: Config, role: str) -> Running | None:
    """The fleet's actor of a role, and what it says; None while there is none."""
    actor = handles.find(config.fleet, config.panel.name, role)
    if actor is None:
        return None
    try:
        timeout_s = _OPTIONAL_ANSWER_S if role in handles.OPTIONAL else _ANSWER_S
        return Running(actor, ray.get(actor.identity.remote(), timeout=timeout_s))
    except ray.exceptions.GetTimeoutError:
        # It hangs, or waits for resources that never come: whatever it is, another must replace it.
        return Running(actor, {"digest": None, "code": None, "config": None})
    except ray.exceptions.RayActorError:
        return None  # it died while it started, for good: its name is free


def digest_of(running: Running | None) -> str | None:
    """Of the configuration and code it was made from; None where it is not known."""
    return None if running is None else running.said["digest"]
