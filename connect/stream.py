"""Feed a fleet over HTTP: its history in bulk, then slot by slot, never far ahead.

A replay runs as fast as the system steps. It holds back when it is more than a few slots ahead of
the controller, so that an update takes effect at the same slot as it would live.
"""

from __future__ import annotations

import json
import os
import ssl
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, Self

import httpx

from connect.wire import Row
from forecast.errors import ConfigError, FleetcastError

_CHUNK_ROWS = 2000
_ANSWER_S = 60.0
_JSON = "application/json"
_HEADERS = {"X-Fleetcast": "1", "Content-Type": "application/x-ndjson"}


class Source(Protocol):
    """Where the rows come from: the demo fleet or the user's file."""

    def rows_by_slot(self, from_slot: int, to_slot: int) -> Iterator[tuple[int, list[Row]]]:
        """(slot, its wire rows) for the slots of [from_slot, to_slot), in order."""
        ...


@dataclass(slots=True)
class Client:
    """The few calls a feeder makes; every call waits out a busy or restarting system.

    A POST that is tried again carries the same idempotency key, so nothing is kept twice. Over
    https the server must prove who it is: by a certificate the system trusts, or one in `ca_file`,
    which may hold the server's own. Raises ConfigError when that file holds none.
    """

    base_url: str
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    patience_s: float = 120.0
    accepted: int = 0
    rejected: int = 0
    retries: int = 0
    _http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        verify: ssl.SSLContext | bool = True if self.ca_file is None else _trusting(self.ca_file)
        self._http = httpx.Client(
            base_url=self.base_url, headers=headers, timeout=_ANSWER_S, verify=verify
        )

    @classmethod
    def from_environment(
        cls,
        base_url: str,
        *,
        token: str | None = None,
        ca_file: Path | None = None,
        patience_s: float = 120.0,
    ) -> Self:
        """The environment says what is not given, the token, or goes first: whom to trust.

        FLEETCAST_TOKEN holds the token, FLEETCAST_CA_FILE names the file.
        """
        named = os.environ.get("FLEETCAST_CA_FILE")
        return cls(
            base_url,
            token=token or os.environ.get("FLEETCAST_TOKEN") or None,
            ca_file=Path(named) if named else ca_file,
            patience_s=patience_s,
        )

    def status(self) -> Mapping[str, Any]:
        """GET /api/v1/status."""
        answer: Mapping[str, Any] = self._send("GET", "/api/v1/status").json()
        return answer

    def get(self, path: str, **params: str | int | list[str]) -> Any:  # noqa: ANN401 - JSON
        """GET a path and return its JSON."""
        return self._send("GET", path, params=params).json()

    def post(
        self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = _ANSWER_S
    ) -> Any:  # noqa: ANN401 - JSON
        """POST JSON and return the JSON of the answer; tried again, it is the same request.

        `timeout_s` None waits for the answer as long as it takes.
        """
        return self.change("POST", path, body, timeout_s=timeout_s)

    def change(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        *,
        if_match: str | None = None,
        timeout_s: float | None = _ANSWER_S,
    ) -> Any:  # noqa: ANN401 - JSON
        """The same by any method; `if_match` is the tag of what is to be changed."""
        headers = {**_HEADERS, "Content-Type": _JSON, "Idempotency-Key": uuid.uuid4().hex}
        if if_match is not None:
            headers["If-Match"] = if_match
        content = json.dumps(body).encode()
        return self._send(
            method, path, content=content, headers=headers, timeout_s=timeout_s
        ).json()

    def ingest(self, rows: Iterable[Mapping[str, Any]], *, key: str) -> Mapping[str, Any]:
        """POST rows as NDJSON under an idempotency key."""
        body = "\n".join(json.dumps(row) for row in rows).encode()
        headers = {**_HEADERS, "Idempotency-Key": key}
        sent = self._send("POST", "/api/v1/ingest", content=body, headers=headers)
        answer: Mapping[str, Any] = sent.json()
        self.accepted += answer["accepted"]
        self.rejected += answer["rejected_count"]
        return answer

    def computes(self) -> bool:
        """Whether a loaded version computes forecasts now; one on record does not count."""
        sent = self._send(
            "POST", "/api/v1/forecast", content=b"{}", headers={**_HEADERS, "Content-Type": _JSON}
        )
        if sent.status_code != 200 or sent.json()["warnings"]:
            return False
        members = [member for one in sent.json()["series"] for member in one["members"]]
        return any(member["version"] is not None for member in members)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int | list[str]] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = _ANSWER_S,
    ) -> httpx.Response:
        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                response = self._http.request(
                    method,
                    path,
                    params=params,
                    content=content,
                    headers=headers,
                    timeout=timeout_s,
                )
                if response.status_code < 500:
                    return response.raise_for_status()
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
            else:
                if time.monotonic() > deadline:
                    response.raise_for_status()
            self.retries += 1
            time.sleep(0.5)


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca_file}: no certificate to trust: {error}") from error
    # The file may hold the server's certificate instead of the authority that signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class Feeder:
    """Posts a source's rows in event-time order and keeps within reach of the controller."""

    def __init__(
        self,
        client: Client,
        source: Source,
        *,
        name: str,
        max_ahead: int = 3,
        patience_s: float = 900.0,
    ) -> None:
        self._client, self._source, self._name = client, source, name
        self._max_ahead, self._patience_s = max_ahead, patience_s

    def history(self, from_slot: int, to_slot: int) -> Iterator[int]:
        """Post slots [from_slot, to_slot) in bulk; yields the rows posted so far."""
        slots = self._source.rows_by_slot(from_slot, to_slot)
        rows, posted = (row for _, rows in slots for row in rows), 0
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            self._client.ingest(chunk, key=f"{self._name}-{from_slot}-{posted}")
            posted += len(chunk)
            yield posted

    def stream(self, from_slot: int, to_slot: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Post slot by slot, holding back for the controller; yields (slot, status)."""
        for slot, rows in self._source.rows_by_slot(from_slot, to_slot):
            if rows:  # nobody spoke: there is nothing to send
                self._client.ingest(rows, key=f"{self._name}-{slot}")
            yield slot, self.hold()

    def hold(self, *, poll_s: float = 0.02) -> Mapping[str, Any]:
        """Wait until the controller is close behind the closed slots; the status then.

        Raises FleetcastError with what the controller last said when it stays behind.
        """
        deadline = time.monotonic() + self._patience_s
        while True:
            status = self._client.status()
            controller = status.get("controller") or {}
            closed = (status.get("buffer") or {}).get("closed_slot")
            stepped = controller.get("stepped_slot")
            if closed is None or (stepped is not None and closed - stepped <= self._max_ahead):
                return status
            if time.monotonic() > deadline:
                raise FleetcastError(
                    f"slot {closed} is closed, no step past {stepped} in {self._patience_s:.0f} s: "
                    f"{controller.get('error') or 'no error was reported'}"
                )
            time.sleep(poll_s)
