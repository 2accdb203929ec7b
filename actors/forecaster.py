"""The Forecaster: a Serve replica that computes forecasts by any kept version, in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from actors import handles, logs
from forecast.config import Config
from forecast.errors import ArtifactError, UnknownVersion
from forecast.windows import RawWindows

if TYPE_CHECKING:
    import numpy as np

    from forecast.members import Request

log = logging.getLogger("fleetcast.forecaster")

_POLL_S = 10.0

Given = RawWindows | list[Any]
"""Windows, or in a list the reference to them: Serve would resolve one that stands alone."""


class Forecaster:
    """Computes forecasts by the champion or any kept version, in batches.

    A new champion is loaded beside the one that serves, proved by its probe, then swapped in. A
    replica is ready when it has the champion of this moment, or knows that there is none yet.
    """

    async def __init__(self, config: Config) -> None:  # type: ignore[misc]
        from forecast.members import Members  # imports torch, which the other replicas do without

        logs.configure(config.fleet, config.panel.name, "forecaster")
        self._members = Members(
            schema=config.panel.schema_of(),
            context=config.panel.context_slots,
            horizon=config.panel.horizon_slots,
            levels=config.panel.quantiles,
            precision=config.serve.precision,
            # What Ray assigned, not what the machine has: others may own its GPUs.
            device="cuda" if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu",
        )
        self._actors = handles.Actors(config.fleet, config.panel.name)
        self._loading = asyncio.Lock()
        most = config.serve.forecaster_max_batch
        batched = serve.batch(
            max_batch_size=most,
            batch_wait_timeout_s=0.002,
            # Work is counted in windows; a request of more than a batch is a batch by itself.
            batch_size_fn=lambda requests: min(most, sum(len(one.raw) for one in requests)),
        )
        self._predict_batch = batched(self._predict_all)
        self._reading = asyncio.Lock()
        self._newest: tuple[ray.ObjectRef[Any], RawWindows] | None = None
        self._seen = -1
        self._refused: set[int] = set()
        await handles.first(self._pull)
        # Without an answer it goes on with the last good version.
        following = handles.follow(handles.REGISTRY, partial(self._pull, "wait_newer", _POLL_S))
        self._watching = asyncio.get_running_loop().create_task(following)

    async def forecast(
        self, given: Given, version: int | None, rows: Sequence[int] | None = None
    ) -> tuple[int, np.ndarray]:
        """The version that answered and its quantiles [N, H, T, Q], natural units.

        `given` are windows, or a list of one reference to them or to a snapshot, whose windows are
        meant; `rows` are those to forecast, None for all.

        Raises UnknownVersion when there is no such version, or no champion yet.
        """
        if version is None and self._members.champion is None:
            await self._pull()  # the first one may be there, and its loading still under way
        chosen = self._members.champion if version is None else version
        if chosen is None:
            raise UnknownVersion("no champion yet")
        raw = await self._windows(given)
        if rows is not None:
            raw = raw.select(rows)
        async with self._loading:
            if not self._members.loaded(chosen):
                artifact = await self._actors.ask(handles.REGISTRY, "load", chosen)
                await asyncio.to_thread(self._members.load, chosen, artifact)
            request = self._members.request(raw, chosen)
        values: np.ndarray = await self._predict_batch(request)
        return chosen, values

    async def champion(self) -> int | None:
        """The version loaded as champion."""
        return self._members.champion

    async def _windows(self, given: Given) -> RawWindows:
        if isinstance(given, RawWindows):
            return given
        [reference] = given
        async with self._reading:  # the parts of a fleet's answer read one snapshot together
            if self._newest is None or self._newest[0] != reference:
                found = await reference
                if isinstance(found, RawWindows):
                    return found
                self._newest = (reference, found.raw)
            return self._newest[1]

    async def _predict_all(self, requests: list[Request]) -> list[np.ndarray]:
        return await asyncio.to_thread(self._members.predict, requests)

    async def _pull(self, method: str = "pull_if_newer", *wait_s: float) -> None:
        """Take over what should serve now; a version that cannot be loaded is asked past."""
        while True:
            pulled = await self._actors.ask(
                handles.REGISTRY, method, self._seen, *wait_s, tuple(self._refused),
                timeout_s=2 * _POLL_S,
            )  # fmt: skip
            if pulled is None:
                return
            state, servable = pulled
            if await self._follow(servable):
                self._seen = state.revision
                return
            self._refused.add(servable.version)

    async def _follow(self, servable: Any) -> bool:
        """Load a version beside the serving one and swap; False when it cannot be loaded."""
        try:
            async with self._loading:
                await asyncio.to_thread(self._members.load, servable.version, servable.artifact)
                self._members.swap(servable.version)
        except ArtifactError as error:
            log.error("version %s refused: %s", servable.version, error)
            return False
        return True
