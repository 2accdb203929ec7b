"""What a gateway asks of the aggregator when a site asks, sends or scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from actors import handles


class FederatedCalls:
    """The part of a `Service` about a federation; `_actors` has an `ask`, as `handles.Actors`."""

    _actors: Any

    async def federated_current(self, site: str) -> Mapping[str, Any]:
        """The open round and the version, for one site."""
        found: Mapping[str, Any] = await self._of_aggregator("current", site)
        return found

    async def federated_rounds(self, limit: int) -> Mapping[str, Any]:
        """The open round and the last ones, newest first."""
        found: Mapping[str, Any] = await self._of_aggregator("rounds", limit)
        return found

    async def federated_update(
        self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> Mapping[str, Any]:
        """Offer an update; the receipt."""
        found: Mapping[str, Any] = await self._of_aggregator("send", header, arrays)
        return found

    async def federated_model(self, version: int, role: str) -> tuple[str, np.ndarray] | None:
        """Schema hash and vector of the last accepted version or the candidate; None: neither."""
        found: tuple[str, np.ndarray] | None = await self._of_aggregator("model", version, role)
        return found

    async def federated_score(self, told: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tell a score; what became of the candidate so far."""
        found: Mapping[str, Any] = await self._of_aggregator("score", told)
        return found

    async def _of_aggregator(self, method: str, *args: Any) -> Any:
        return await self._actors.ask(handles.AGGREGATOR, method, *args)
