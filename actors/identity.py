"""What an actor was made from: said by the actor itself, and the digest of the code it runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from actors import logs


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
