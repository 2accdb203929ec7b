"""A site's side of a federation over HTTP: what it asks, fetches, sends and tells.

Every call waits out a busy or restarting aggregator, and may be made again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray

from connect.stream import Client
from forecast.errors import ConfigError, Conflict, StateError
from forecast.http.auth import is_loopback
from forecast.tensors import MEDIA_TYPE, load

_PREFIX = "/api/v1/federated"
_WRITE = {"X-Fleetcast": "1", "Content-Type": MEDIA_TYPE}


class SiteClient(Client):
    """The calls of `fleetcast site`; see `Client`."""

    @classmethod
    def of_fleet(cls, aggregator: str, *, patience_s: float) -> Self:
        """A fleet's own way to another process's aggregator.

        FLEETCAST_FEDERATION_TOKEN holds the token: what a fleet's own programs are let in by is
        sent to nobody else. FLEETCAST_CA_FILE names whom to trust. Raises ConfigError where the
        token would be sent over a network without encryption.
        """
        token, where = os.environ.get("FLEETCAST_FEDERATION_TOKEN") or None, httpx.URL(aggregator)
        if token is not None and where.scheme != "https" and not is_loopback(where.host):
            raise ConfigError(
                f"federated.home.aggregator = {aggregator!r}: a token goes over https only, or to "
                "this machine"
            )
        named = os.environ.get("FLEETCAST_CA_FILE")
        trusted = Path(named) if named else None
        return cls(aggregator, token=token, ca_file=trusted, patience_s=patience_s)

    def current(self, site: str) -> Mapping[str, Any]:
        """The open round and the version, for one site."""
        answer: Mapping[str, Any] = self.get(f"{_PREFIX}/rounds/current", site=site)
        return answer

    def model(self, version: int, *, schema_hash: str, role: str = "") -> NDArray[np.float32]:
        """The shared vector of a version or candidate.

        Raises Conflict when it is neither, or no more; StateError for another layout.
        """
        params = {"role": role} if role else None
        try:
            sent = self._send("GET", f"{_PREFIX}/global/{version}", params=params)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == Conflict.status:
                raise Conflict(error.response.text) from error
            raise
        try:
            header, arrays = load(sent.content)
        except ValueError as error:
            raise StateError(f"version {version}: {error}") from error
        if (header.get("version"), header.get("schema_hash")) != (version, schema_hash):
            raise other_schema(version, str(header.get("schema_hash")), schema_hash)
        found: NDArray[np.float32] = arrays["shared"]
        return found

    def send(self, site: str, round: int, update: bytes) -> Mapping[str, Any]:
        """Send an update, `tensors.dump` of it; the receipt."""
        path = f"{_PREFIX}/rounds/{round}/updates/{quote(site, safe='')}"
        answer: Mapping[str, Any] = self._send("PUT", path, content=update, headers=_WRITE).json()
        return answer

    def tell(self, score: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tell a score, `SiteScore.to_json` of it; what became of the candidate so far."""
        body = {name: each for name, each in score.items() if name not in ("site", "version")}
        path = f"{_PREFIX}/global/{score['version']}/scores/{quote(score['site'], safe='')}"
        answer: Mapping[str, Any] = self.change("PUT", path, body)
        return answer


def other_schema(version: int, told: str, wanted: str) -> StateError:
    """That a version has not the schema of the site that asked for it."""
    return StateError(
        f"version {version} is of schema {told[:12]}, this site's is {wanted[:12]}: "
        "the same metrics, roles and [model] are needed"
    )
