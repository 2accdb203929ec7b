"""Which actors exist, with which name, resources and restart rule; `ensure` makes it so.

    registry ─ buffer ─ ledger ─ trainer ─ controller (holds handles to the other four)
    aggregator, with `federated.enabled`, and site, with `federated.home` (find others by name)

All are detached, named, restarted for ever and idempotent, so that a call may be retried. CPU and
memory are what each one needs on a laptop; together with Serve they ask for at most two CPUs.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from actors import arguments, federated_arguments, handles
from actors.buffer import BufferActor
from actors.federation import FederationActor
from actors.identity import Running, code_digest, digest_of, identified, running_of
from actors.ledger import LedgerActor
from actors.loop import ControllerActor
from actors.registry import RegistryActor
from actors.site_actor import SiteActor
from actors.trainer import TrainerActor
from forecast.config import Config
from forecast.config_files import leaves
from forecast.errors import StateError

log = logging.getLogger("fleetcast.topology")

_START_S = 180
_CLOSE_S = 30


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """One actor: what it is made from and what it asks of the cluster."""

    role: str
    actor: type
    arguments: Mapping[str, Any]
    num_cpus: float
    memory_mib: int
    options: Mapping[str, Any]
    num_gpus: float = 0.0

    def digest(self, code: str) -> str:
        """Of everything that decides how the actor behaves; handles to others do not."""
        given = {key: value for key, value in self.arguments.items() if key not in handles.ROLES}
        asked = [self.num_cpus, self.num_gpus, self.memory_mib, self.options]
        said = repr([self.role, sorted(given.items()), asked, code])
        return hashlib.sha256(said.encode()).hexdigest()


def specs(config: Config, *, trainer: type = TrainerActor) -> tuple[ActorSpec, ...]:
    """The actors of one fleet but the controller, which needs their handles."""
    kept = _keeping(config)
    return (
        ActorSpec(handles.REGISTRY, RegistryActor, arguments.registry(config), 0.1, 300, kept),
        ActorSpec(handles.BUFFER, BufferActor, arguments.buffer(config), 0.15, 600, kept),
        ActorSpec(handles.LEDGER, LedgerActor, arguments.ledger(config), 0.1, 400, kept),
        # The trainer keeps nothing on disk: it may run wherever its device is.
        ActorSpec(
            handles.TRAINER,
            trainer,
            arguments.trainer_actor(config),
            memory_mib=2000,
            options={},
            **arguments.trainer_resources(config),
        ),
        *_federated(config, kept),
    )


def _federated(config: Config, kept: Mapping[str, Any]) -> Iterator[ActorSpec]:
    there, registry = handles.roles_of(config), handles.Actors(config.fleet, config.panel.name)
    if handles.AGGREGATOR in there:
        given = {**federated_arguments.aggregator(config), handles.REGISTRY: registry}
        yield ActorSpec(handles.AGGREGATOR, FederationActor, given, 0.1, 600, kept)
    if handles.SITE in there:
        # Its thread gives way to all others, so it asks for no CPU of its own.
        yield ActorSpec(handles.SITE, SiteActor, federated_arguments.home(config), 0.0, 1200, kept)


def ensure(
    config: Config, *, who: str = "bootstrap", trainer: type = TrainerActor
) -> dict[str, Any]:
    """Make every actor of the fleet exist and answer; their handles by role.

    `trainer` is what a trainer that is not there yet is made of.

    An actor that runs with another configuration or code is closed, which makes its state durable,
    and made anew from it; the controller, which holds the others' handles, ends first and starts
    last, but for its site, which nobody waits for. Such a change goes on the audit record, with the
    keys that changed; so does another config than that of the last start. Meanwhile the replicas
    answer from memory. Raises StateError with the cause when an actor cannot start.
    """
    code = code_digest()
    planned = specs(config, trainer=trainer)
    running = {role: running_of(config, role) for role in (*handles.ROLES, *handles.FEDERATED)}
    wanted = {spec.role: spec.digest(code) for spec in planned}
    # One that is not there counts too: whoever holds handles to the one before must let go of them.
    anew = [role for role, digest in wanted.items() if digest_of(running[role]) != digest]
    actors = {role: found.actor for role, found in running.items() if found is not None}
    last = _controller(config, {}).digest(code)  # handles are no part of it
    if running[handles.CONTROLLER] is not None and (
        set(anew) & set(handles.ROLES) or digest_of(running[handles.CONTROLLER]) != last
    ):
        _end(actors.pop(handles.CONTROLLER), handles.CONTROLLER)
        anew.append(handles.CONTROLLER)
    for role in sorted((actors.keys() & handles.FEDERATED) - wanted.keys()):
        _end(actors.pop(role), role)
    for spec in reversed(planned):
        if spec.role in anew and spec.role in actors:
            log.info("the %s runs with another configuration or code; made anew", spec.role)
            _end(actors.pop(spec.role), spec.role)
    _make_needed(config, planned, actors, code)
    _make_optional(config, planned, actors, code)
    if handles.CONTROLLER not in actors:
        held = [role for role in handles.ROLES if role != handles.CONTROLLER]
        controller = _controller(config, {role: actors[role] for role in held})
        actors[handles.CONTROLLER] = _make(config, controller, code)
        _wait({handles.CONTROLLER: actors[handles.CONTROLLER]})
    registry, told = actors[handles.REGISTRY], leaves(config.model_dump(mode="json"))
    ray.get(registry.configured.remote(told, who), timeout=_START_S)
    replaced = [role for role in anew if running[role] is not None]
    if replaced:
        _audit(config, registry, running, replaced, code, who)
    return actors


def ensure_optional(config: Config) -> None:
    """Make what the fleet does without and that is not there; nobody waits, a failure is told."""
    wanted = [role for role in handles.roles_of(config) if role in handles.OPTIONAL]
    found = {role: handles.find(config.fleet, config.panel.name, role) for role in wanted}
    if None in found.values():
        actors = {role: actor for role, actor in found.items() if actor is not None}
        _make_optional(config, list(specs(config)), actors, code_digest())


def ensure_registry(config: Config) -> Any:
    """The registry alone, for a job that registers a version before the fleet is deployed.

    One that is there is taken as it is: a job never changes what serves. Raises StateError when it
    cannot start.
    """
    found = running_of(config, handles.REGISTRY)
    if found is not None:
        return found.actor
    registry = next(spec for spec in specs(config) if spec.role == handles.REGISTRY)
    actor = _make(config, registry, code_digest())
    _wait({handles.REGISTRY: actor})
    return actor


def stop(config: Config) -> None:
    """End this fleet's actors, the controller first; nothing else of the cluster is touched."""
    for role in reversed((*handles.ROLES, *handles.FEDERATED)):
        _end_if_there(config, role)


def _controller(config: Config, actors: Mapping[str, Any]) -> ActorSpec:
    given = {**actors, **arguments.controller(config)}
    kept = _keeping(config)
    return ActorSpec(handles.CONTROLLER, ControllerActor, given, 0.25, 1200, kept)


def _make(config: Config, spec: ActorSpec, code: str) -> Any:
    options = {
        "name": handles.actor_name(config.panel.name, spec.role),
        "namespace": handles.namespace(config.fleet),
        "lifetime": "detached",
        "max_restarts": -1,
        "max_task_retries": -1,
        "num_cpus": spec.num_cpus,
        "num_gpus": spec.num_gpus,
        "memory": spec.memory_mib << 20,
        "max_concurrency": 1000,
        **spec.options,
    }
    said = {
        "role": spec.role,
        "digest": spec.digest(code),
        "code": code,
        "config": config.model_dump(mode="json"),
    }
    shell: Any = ray.remote(identified(spec.actor, said))
    try:
        return shell.options(**options).remote(**spec.arguments)
    except ValueError as error:
        raise StateError(
            f"the {spec.role} was just made by somebody else, a job or another deploy: try again"
        ) from error


def _make_needed(
    config: Config, planned: Sequence[ActorSpec], actors: dict[str, Any], code: str
) -> None:
    """Make those that are not there among `actors`, and wait until each answers."""
    for spec in planned:
        if spec.role in handles.OPTIONAL:
            continue
        if spec.role not in actors:
            actors[spec.role] = _make(config, spec, code)
        if spec.role == handles.REGISTRY:
            _wait({spec.role: actors[spec.role]})  # it takes the lock that the others rely on
    _wait({role: actor for role, actor in actors.items() if role not in handles.OPTIONAL})


def _make_optional(
    config: Config, planned: Sequence[ActorSpec], actors: dict[str, Any], code: str
) -> None:
    """The same of those that the fleet does without: nobody waits, and one that fails is told."""
    for spec in planned:
        if spec.role not in handles.OPTIONAL or spec.role in actors:
            continue
        try:
            actors[spec.role] = _make(config, spec, code)
        except (StateError, ray.exceptions.RayError) as error:
            log.warning("the fleet goes on without its %s: %s", spec.role, error)


def _keeping(config: Config) -> dict[str, Any]:
    """Options that hold an actor where its state is: a folder of one node is on that node only."""
    if config.state_node == "any":
        return {}
    if config.state_node == "head":
        # Ray gives each head this resource: the pin outlives the head it was made on.
        return {"resources": {"node:__internal_head__": 0.001}}
    return {"label_selector": dict(config.state_node)}


def _audit(
    config: Config,
    registry: Any,
    running: Mapping[str, Running | None],
    replaced: Sequence[str],
    code: str,
    who: str,
) -> None:
    """Put on record which actors were replaced, and which keys of the config had changed."""
    before = [found.said for role in replaced if (found := running[role]) is not None]
    now = leaves(config.model_dump(mode="json"))
    changed: dict[str, Any] = {}
    for said in before:
        if said["config"] is None:
            continue  # it did not answer
        was = leaves(said["config"])
        keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
        changed.update((key, [was.get(key), now.get(key)]) for key in keys)
    detail = {
        "actors": sorted(replaced),
        "config": changed,
        "code": None if all(said["code"] in (code, None) for said in before) else code,
    }
    note = registry.note.remote("redeploy", detail=detail, who=who, key=uuid.uuid4().hex)
    ray.get(note, timeout=_START_S)
    log.info("redeployed %s", ", ".join(sorted(replaced)), extra=detail)


def _wait(actors: Mapping[str, Any]) -> None:
    """Until every actor's constructor is through; raises StateError saying why one is not."""
    for role, actor in actors.items():
        try:
            ray.get(actor.identity.remote(), timeout=_START_S)
        except ray.exceptions.GetTimeoutError as error:
            raise StateError(
                f"the {role} did not start in {_START_S} s; does the cluster have the CPUs, the "
                "memory and, for state_node, the node it asks for?"
            ) from error
        except ray.exceptions.RayActorError as error:
            raise StateError(f"the {role} cannot start: {error}") from error


def _end_if_there(config: Config, role: str) -> None:
    actor = handles.find(config.fleet, config.panel.name, role)
    if actor is not None:
        _end(actor, role)


def _end(actor: Any, role: str) -> None:
    """Let an actor close its files, then end it for good."""
    if hasattr(actor, "close"):
        try:
            ray.get(actor.close.remote(), timeout=_CLOSE_S)
        except ray.exceptions.RayError as error:
            log.warning("%s did not close: %s", role, error)
    ray.kill(actor, no_restart=True)
