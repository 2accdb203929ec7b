"""Which actors exist, with which name, resources and restart rule; `ensure` makes it so.

    registry ─ buffer ─ ledger ─ trainer ─ controller (holds handles to the other four)

All are detached, named, restarted for ever and idempotent, so that a call may be retried. CPU and
memory are what each one needs on a laptop; together with Serve they ask for at most two CPUs.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from actors import arguments, handles
from actors.buffer import BufferActor
from actors.ledger import LedgerActor
from actors.loop import ControllerActor
from actors.registry import RegistryActor
from actors.trainer import TrainerActor
from forecast.config import Config
from forecast.errors import StateError

log = logging.getLogger("fleetcast.topology")

_MIB = 1 << 20
_START_S = 180


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """One actor: what it is made from and what it asks of the cluster."""

    role: str
    actor: type
    arguments: Mapping[str, Any]
    num_cpus: float
    memory_bytes: int


def specs(config: Config) -> tuple[ActorSpec, ...]:
    """The actors of one fleet but the controller, which needs their handles."""
    return (
        ActorSpec(handles.REGISTRY, RegistryActor, arguments.registry(config), 0.1, 300 * _MIB),
        ActorSpec(handles.BUFFER, BufferActor, arguments.buffer(config), 0.2, 600 * _MIB),
        ActorSpec(handles.LEDGER, LedgerActor, arguments.ledger(config), 0.1, 400 * _MIB),
        ActorSpec(handles.TRAINER, TrainerActor, arguments.trainer(config), 1.0, 2000 * _MIB),
    )


def ensure(config: Config) -> dict[str, Any]:
    """Make every actor of the fleet exist and answer; their handles by role.

    An actor that runs with another configuration or code is closed and made anew from its state on
    disk; then the controller is too, for it holds the others' handles. The registry comes first: it
    takes the lock on the state. Raises StateError with the cause when one cannot start.
    """
    config.panel_dir.mkdir(parents=True, exist_ok=True)
    code = _code()
    registry, *others = specs(config)
    found = [_ensure(config, registry, code)]
    _wait(found)
    found += [_ensure(config, spec, code) for spec in others]
    _wait(found)
    actors = {one.role: one.actor for one in found}
    given = {**actors, **arguments.controller(config)}
    controller = ActorSpec(handles.CONTROLLER, ControllerActor, given, 0.3, 1200 * _MIB)
    if any(one.new for one in found):
        _end_if_there(config, handles.CONTROLLER)
    last = _ensure(config, controller, code)
    _wait([last])
    return {**actors, last.role: last.actor}


def stop(config: Config) -> None:
    """End this fleet's actors, the controller first; nothing else of the cluster is touched."""
    for role in reversed(handles.ROLES):
        _end_if_there(config, role)


@dataclass(frozen=True, slots=True)
class _Found:
    """An actor that was there, or that was just made."""

    role: str
    actor: Any
    new: bool


def _ensure(config: Config, spec: ActorSpec, code: str) -> _Found:
    digest = _digest(config, spec, code)
    name = handles.actor_name(config.panel.name, spec.role)
    actor = handles.find(config.fleet, config.panel.name, spec.role)
    if actor is not None:
        if ray.get(actor.identity.remote(), timeout=_START_S)["digest"] == digest:
            return _Found(spec.role, actor, new=False)
        log.info("%s runs with another configuration or code; made anew", name)
        _end(actor, spec.role)
    options = {
        "name": name,
        "namespace": handles.namespace(config.fleet),
        "lifetime": "detached",
        "max_restarts": -1,
        "max_task_retries": -1,
        "num_cpus": spec.num_cpus,
        "memory": spec.memory_bytes,
        "max_concurrency": 1000,
    }
    shell: Any = ray.remote(_identified(spec.actor, digest))
    return _Found(spec.role, shell.options(**options).remote(**spec.arguments), new=True)


def _wait(found: Sequence[_Found]) -> None:
    """Until every actor's constructor is through; raises StateError saying why one is not."""
    for one in found:
        try:
            ray.get(one.actor.identity.remote(), timeout=_START_S)
        except ray.exceptions.GetTimeoutError as error:
            raise StateError(
                f"the {one.role} did not start in {_START_S} s; does the cluster have the CPUs and "
                "the memory it asks for?"
            ) from error
        except ray.exceptions.RayActorError as error:
            raise StateError(f"the {one.role} cannot start: {error}") from error


def _end_if_there(config: Config, role: str) -> None:
    actor = handles.find(config.fleet, config.panel.name, role)
    if actor is not None:
        _end(actor, role)


def _end(actor: Any, role: str) -> None:
    """Let an actor close its files, then end it for good."""
    if hasattr(actor, "close"):
        try:
            ray.get(actor.close.remote(), timeout=30)
        except ray.exceptions.RayError as error:
            log.warning("%s did not close: %s", role, error)
    ray.kill(actor, no_restart=True)


def _identified(actor: type, digest: str) -> type:
    """The shell plus a method that says which configuration it runs with, and in which process."""

    async def identity(self: Any) -> dict[str, Any]:
        return {"digest": digest, "pid": os.getpid()}

    return type(actor.__name__, (actor,), {"identity": identity, "__doc__": actor.__doc__})


def _digest(config: Config, spec: ActorSpec, code: str) -> str:
    """Of everything that decides how the actor behaves."""
    said = f"{spec.role} {config.model_dump_json()} {code}"
    return hashlib.sha256(said.encode()).hexdigest()


def _code() -> str:
    """Of the code that the actors run."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for package in ("actors", "forecast", "train"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
