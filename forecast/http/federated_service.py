"""What the routes of a federation need of the system behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class FederatedService(Protocol):
    """A federation, seen from its HTTP side."""

    async def federated_current(self, site: str) -> Mapping[str, Any]:
        """The open round and the version, for one site."""
        ...

    async def federated_rounds(self, limit: int) -> Mapping[str, Any]:
        """The open round and the last ones, newest first."""
        ...

    async def federated_update(
        self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Mapping[str, Any]:
        """Offer an update; the receipt."""
        ...

    async def federated_model(
        self, version: int, role: str
    ) -> tuple[str, NDArray[np.float32]] | None:
        """Schema hash and vector of the last accepted version or the candidate; None: neither."""
        ...

    async def federated_score(self, told: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tell a score; what became of the candidate so far."""
        ...
