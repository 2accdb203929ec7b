"""Which versions issue forecasts of record: loaded beside what serves, and swapped in together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from actors.learning import Learning
from actors.settings import Settings
from forecast.errors import ArtifactError, UnknownVersion
from forecast.members import Members
from forecast.versions import RegistryState

log = logging.getLogger("fleetcast.controller")


class Loading:
    """The part of the controller that loads versions."""

    _registry: Any
    _members: Members
    _learning: Learning
    _revision: int
    _known: RegistryState | None
    _refused: set[int]
    settings: Settings

    async def _refresh_members(self) -> None:
        """Load what should serve beside the old version and swap.

        A version that cannot be loaded is refused by name, and the last good one is asked for.
        """
        while True:
            pulled = await self._registry.pull_if_newer.remote(self._revision, tuple(self._refused))
            if pulled is None:
                return
            state, servable = pulled
            try:
                await asyncio.to_thread(self._members.load, servable.version, servable.artifact)
            except ArtifactError as error:
                log.error("version %s refused: %s", servable.version, error)
                self._refused.add(servable.version)
                continue
            beside = await self._beside(state, servable.version)
            twin = await self._twin(state, (servable.version, *beside.values()))
            self._members.swap(servable.version, beside, twin)
            self._revision, self._known = state.revision, state
            self._learning.champion_is(servable.artifact.manifest.get("lineage", {}))
            return

    async def _beside(self, state: RegistryState, champion: int) -> dict[str, int]:
        """The versions that issue beside this champion, loaded; one that cannot be is left out."""
        found: dict[str, int] = {}
        beside = state.beside(champion, self.settings.beside)
        beside |= state.rollout.trials(champion, beside.values())
        for member, version in beside.items():
            if await self._loaded(version, "the ensemble", (champion, *found.values())):
                found[member] = version
        return found

    async def _twin(self, state: RegistryState, issuing: Sequence[int]) -> int | None:
        """The base, to issue on a few servers; None where it issues on all, or cannot be loaded."""
        base = state.aliases.get("base")
        if base is None or base in issuing or not self.settings.twin_share:
            return None
        return base if await self._loaded(base, "the comparison", issuing) else None

    async def _loaded(self, version: int, what: str, held: Sequence[int]) -> bool:
        """Load a version beside those that are held; one that cannot be is left out of `what`."""
        if version in self._refused:
            return False
        try:
            if not self._members.loaded(version):
                artifact = await self._registry.load.remote(version)
                await asyncio.to_thread(self._members.load, version, artifact, holding=held)
        except (ArtifactError, UnknownVersion) as error:
            log.error("version %s is left out of %s: %s", version, what, error)
            self._refused.add(version)
            return False
        return True
