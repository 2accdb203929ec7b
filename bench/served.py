"""A thousand servers behind HTTP: brought up with a champion and a history, moved on by slots."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from actors import handles
from actors.embedded import Embedded
from bench.callers import Caller, request
from bench.thousand import HISTORY, Thousand
from forecast.errors import FleetcastError
from forecast.http.tokens import Token
from forecast.model import Model
from serve_app import build

_PIECE = 15
"""Slots of history that go to the buffer at once."""
_PATIENCE_S = 120.0
EMPTY = "/empty"


class Empty:
    """A bare Serve handler: what nothing at all costs over HTTP."""

    async def __call__(self, _: Request) -> Response:
        return Response()


class Served:
    """A context manager around the fleet; beside it the empty handler, in the same Serve."""

    def __init__(self, fleet: Thousand, folder: Path, *, port: int, **sizes: int) -> None:
        """`sizes` are other keys of `[serve]`."""
        token = Token.make("bench", ["read"])
        token.append(folder / "tokens.toml")
        self.headers = {
            "Authorization": f"Bearer {token.secret}",
            "Content-Type": "application/json",
        }
        self.port, self._fleet = port, fleet
        self.config = fleet.config(
            folder / "state", port=port, tokens_file=str(folder / "tokens.toml"), **sizes
        )
        self._embedded = Embedded(self.config, build(self.config))
        self._slot = HISTORY

    def __enter__(self) -> Self:
        self._embedded.__enter__()
        try:
            empty = serve.deployment(
                max_ongoing_requests=256,
                ray_actor_options={"num_cpus": 0.05},
                logging_config={"encoding": "JSON", "enable_access_log": False},
            )(Empty)
            serve.run(empty.bind(), name="empty", route_prefix=EMPTY)
        except BaseException:
            self._embedded.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._embedded.__exit__(kind, error, trace)

    @property
    def closed_slot(self) -> int:
        """The newest slot that is closed; one later is still open."""
        return self._fleet.stream.first_slot + self._slot - 2

    def begin(self, model: Model) -> None:
        """Register and promote the model, then bring the history in; wait for its forecasts."""
        schema = self.config.panel.schema_of()
        probe = self._fleet.stream.windows(
            self._fleet.spec.window.context, self._fleet.spec.window.horizon, 8
        )
        artifact = self._fleet.artifact(model, probe, schema.fingerprint())
        told: dict[str, Any] = {"update_id": "bench", "slot": self._fleet.stream.first_slot}
        version = self._ask(handles.REGISTRY, "register", artifact, **told)
        self._ask(
            handles.REGISTRY, "promote", version, reasons=("for the bench",), who="bench", **told
        )
        for first in range(0, HISTORY, _PIECE):
            block = self._fleet.samples(first, min(first + _PIECE, HISTORY))
            self._ask(handles.BUFFER, "append", f"history-{first}", block)
        self._wait()

    def advance(self) -> None:
        """A new slot's rows go to the buffer; wait until its forecasts of record are published."""
        block = self._fleet.samples(self._slot, self._slot + 1)
        self._ask(handles.BUFFER, "append", f"slot-{self._slot}", block)
        self._slot += 1
        self._wait()

    def _ask(self, role: str, method: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        actor = handles.find(self.config.fleet, self.config.panel.name, role)
        return ray.get(getattr(actor, method).remote(*args, **kwargs), timeout=_PATIENCE_S)

    def _wait(self) -> None:
        """Until the gateway answers from the newest closed slot."""
        path = f"/api/v1/forecast?server={self._fleet.stream.servers[0]}"
        sent, deadline = request("GET", path, headers=self.headers), time.monotonic() + _PATIENCE_S
        with Caller(self.port) as caller:
            while True:
                try:
                    found = json.loads(caller.call(sent))["revision"]
                except FleetcastError as error:  # nothing is forecast yet
                    found = str(error)
                if found == self.closed_slot:
                    return
                if time.monotonic() > deadline:
                    raise FleetcastError(f"no forecast of {self.closed_slot} yet, but {found}")
                time.sleep(0.02)
