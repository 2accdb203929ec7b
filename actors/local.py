"""Plain objects behind the shape of an actor handle: `handle.method.remote(...)`.

It keeps the two properties of Ray that code may lean on by accident: arguments and results are
copied, with arrays that cannot be written to, and a pending result passed as an argument is
resolved before the call. So the whole loop runs in one process, in milliseconds, through the
production controller.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import operator
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np

from actors import arguments
from actors.buffer import BufferActor
from actors.controller import Controller
from actors.ledger import LedgerActor
from actors.registry import RegistryActor
from actors.state import StateFile
from actors.trainer import TrainerActor
from forecast.config import Config
from forecast.schema import SampleBlock


class LocalHandle:
    """An actor handle over a plain object in this process.

    >>> class Counter:
    ...     def add(self, n: int) -> int:
    ...         return n + 1
    >>> async def main() -> int:
    ...     counter = LocalHandle(Counter())
    ...     return await counter.add.remote(counter.add.remote(1))
    >>> asyncio.run(main())
    3
    """

    def __init__(self, actor: object) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> _LocalMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        return _LocalMethod(getattr(self._actor, name))


class _LocalMethod:
    def __init__(self, method: Any) -> None:
        self._method = method

    def remote(self, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(self._call(args, kwargs))

    async def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        resolved = [await _resolve(value) for value in args]
        named = {key: await _resolve(value) for key, value in kwargs.items()}
        result = self._method(*resolved, **named)
        if inspect.isawaitable(result):
            result = await result
        return copied(result)


async def _resolve(value: Any) -> Any:
    return copied(await value if isinstance(value, asyncio.Task) else value)


_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
"""Types whose values never change."""


def copied(value: Any) -> Any:
    """The value as another process would see it: nothing of it changes when the sender's does.

    What cannot change is not copied, and numeric arrays come read-only, as from Ray's object store.

    >>> array = np.zeros(2)
    >>> once = copied((array, "name"))
    >>> once[0] is array, once[0].flags.writeable, copied(once) is once
    (False, False, True)
    """
    kind: Any = type(value)
    if kind in _PLAIN or isinstance(value, np.generic):
        return value
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return _frozen(value)
    if kind is tuple:
        parts = tuple([part if type(part) in _PLAIN else copied(part) for part in value])
        return value if all(map(operator.is_, parts, value)) else parts
    if kind is list:
        return [copied(part) for part in value]
    if kind is dict:
        return {copied(key): copied(part) for key, part in value.items()}
    if (names := _fields_of_frozen(kind)) is not None:
        return _copied_message(value, names)
    return copy.deepcopy(value)


@cache
def _fields_of_frozen(kind: Any) -> tuple[str, ...] | None:
    """The fields of a frozen dataclass; None for any other type, a plain subclass of one too."""
    settings = vars(kind).get("__dataclass_params__")
    if settings is None or not settings.frozen:
        return None
    return tuple(field.name for field in fields(kind))


def _frozen(array: np.ndarray) -> np.ndarray:
    """The array itself where it owns its numbers and they cannot change, else such a copy."""
    if array.flags.owndata and not array.flags.writeable:
        return array
    made = array.copy()
    made.flags.writeable = False
    return made


def _copied_message(value: Any, names: tuple[str, ...]) -> Any:
    """A frozen dataclass: itself where no field has anything that could change."""
    before = [getattr(value, name) for name in names]
    after = [part if type(part) in _PLAIN else copied(part) for part in before]
    if all(map(operator.is_, after, before)):
        return value
    made = object.__new__(type(value))
    for name, part in zip(names, after, strict=True):
        object.__setattr__(made, name, part)
    return made


class LocalFleet:
    """One fleet's actors and controller in this process, on the same state as the real ones.

    Build and use it inside one event loop. `append` feeds a block and steps through every slot
    that it closed, so a replay is one call after the other. `buffer`, `ledger` and `trainer` make
    those actors of their usual arguments; `label_delay` is in slots. With `keep_state` off the
    controller's state is in memory only.
    """

    def __init__(
        self,
        config: Config,
        *,
        now: Callable[[], float] = time.time,
        buffer: Callable[..., Any] = BufferActor,
        ledger: Callable[..., Any] = LedgerActor,
        trainer: Callable[..., Any] = TrainerActor,
        label_delay: int = 0,
        keep_state: bool = True,
        home: Any = None,
    ) -> None:
        config.panel_dir.mkdir(parents=True, exist_ok=True)
        self.registry = LocalHandle(RegistryActor(**arguments.registry(config)))
        self.buffer = LocalHandle(buffer(**arguments.buffer(config)))
        self.ledger = LocalHandle(ledger(**arguments.ledger(config)))
        self.trainer = LocalHandle(trainer(**arguments.trainer_actor(config)))
        given = arguments.controller(config)
        settings = replace(given["settings"], label_delay=label_delay)
        self.controller = Controller(
            buffer=self.buffer,
            ledger=self.ledger,
            trainer=self.trainer,
            registry=self.registry,
            members=settings.members(),
            state=StateFile(given["state_path"] if keep_state else None),
            settings=settings,
            now=now,
            home=home,
        )

    async def append(self, request_id: str, block: SampleBlock) -> int:
        """Keep a block, then step; the number of steps done."""
        await self.buffer.append.remote(request_id, block)
        return await self.controller.catch_up(await self.buffer.status.remote())

    async def close(self) -> None:
        """Let go of the files, so that the state can be opened again."""
        await self.buffer.close.remote()
        await self.ledger.close.remote()
        await self.registry.close.remote()
