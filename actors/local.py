"""Plain objects behind the shape of an actor handle: `handle.method.remote(...)`.

It keeps the two properties of Ray that code may lean on by accident: arguments and results are
copied, and a pending result passed as an argument is resolved before the call. So the whole loop
runs in one process, in milliseconds, through the production controller.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import time
from collections.abc import Callable
from typing import Any

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
        return copy.deepcopy(result)


async def _resolve(value: Any) -> Any:
    return copy.deepcopy(await value if isinstance(value, asyncio.Task) else value)


class LocalFleet:
    """One fleet's actors and controller in this process, on the same state as the real ones.

    Build and use it inside one event loop. `append` feeds a block and steps through every slot
    that it closed, so a replay is one call after the other.
    """

    def __init__(self, config: Config, *, now: Callable[[], float] = time.time) -> None:
        config.panel_dir.mkdir(parents=True, exist_ok=True)
        self.registry = LocalHandle(RegistryActor(**arguments.registry(config)))
        self.buffer = LocalHandle(BufferActor(**arguments.buffer(config)))
        self.ledger = LocalHandle(LedgerActor(**arguments.ledger(config)))
        self.trainer = LocalHandle(TrainerActor(**arguments.trainer(config)))
        given = arguments.controller(config)
        settings = given["settings"]
        self.controller = Controller(
            buffer=self.buffer,
            ledger=self.ledger,
            trainer=self.trainer,
            registry=self.registry,
            members=settings.members(),
            state=StateFile(given["state_path"]),
            settings=settings,
            now=now,
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
