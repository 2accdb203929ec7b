"""A site's lines within the cluster: windows from the buffer, rounds from the aggregator.

A site works in a thread; each question is put on its actor's event loop, and waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors import handles
from connect.federated import other_schema
from forecast.errors import Conflict, StateError
from forecast.tensors import load
from forecast.windows import RawWindows
from train.status import BufferStatus

_TIMEOUT_S = 60.0


class Line:
    """Calls of other actors from a thread; `actors` has an `ask`, as `handles.Actors`."""

    def __init__(self, actors: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._actors, self._loop = actors, loop

    def ask(self, role: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """The answer; raises Busy while the actor cannot give one, RuntimeError after the loop."""
        asked = self._actors.ask(role, method, *args, timeout_s=_TIMEOUT_S, **kwargs)
        try:
            answer = asyncio.run_coroutine_threadsafe(asked, self._loop)
        except RuntimeError:  # the loop is closed
            asked.close()
            raise
        return answer.result()


class BufferSource:
    """The fleet's own buffer as a site's source; see `train.federated.frame.Source`."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def draw(
        self,
        *,
        as_of: int,
        hours: int,
        count: int,
        seed: int,
        holdout_hours: int,
        only: Sequence[str] | None = None,
    ) -> RawWindows:
        """Training windows; see `Buffer.draw`."""
        asked = {"hours": hours, "count": count, "seed": seed, "holdout_hours": holdout_hours}
        return self._windows("draw", as_of=as_of, only=only, **asked)

    def holdout(
        self, *, as_of: int, hours: int, every: int, only: Sequence[str] | None = None
    ) -> RawWindows:
        """Held-out windows; see `Buffer.holdout`."""
        return self._windows("holdout", as_of=as_of, hours=hours, every=every, only=only)

    def status(self) -> BufferStatus:
        """Since when there is data, and which slot is closed."""
        found: BufferStatus = self._line.ask(handles.BUFFER, "status")
        return found

    def servers(self) -> tuple[str, ...]:
        """The servers that are not retired, by name."""
        found = self._line.ask(handles.BUFFER, "servers")
        return tuple(one.name for one in found if one.state != "retired")

    def _windows(self, method: str, **query: Any) -> RawWindows:
        found: RawWindows = self._line.ask(handles.BUFFER, method, **query)
        return found


class ClusterCentre:
    """This cluster's aggregator as a site's centre; vectors go by object reference."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def current(self, site: str) -> Mapping[str, Any]:
        """The open round and the version."""
        found: Mapping[str, Any] = self._line.ask(handles.AGGREGATOR, "current", site)
        return found

    def model(self, version: int, *, schema_hash: str, role: str = "") -> NDArray[np.float32]:
        """The shared vector of a version or candidate.

        Raises Conflict when it is neither, or no more; StateError for another layout.
        """
        found = self._line.ask(handles.AGGREGATOR, "model", version, role)
        if found is None:
            raise Conflict(f"version {version} is neither the last accepted one nor the candidate")
        told, vector = found
        if told != schema_hash:
            raise other_schema(version, told, schema_hash)
        shared: NDArray[np.float32] = vector
        return shared

    def send(self, site: str, round: int, update: bytes) -> Mapping[str, Any]:
        """Send an update, as it lies in the site's outbox; the receipt.

        The aggregator knows an update by its site and number, whatever round is open.
        """
        del round
        header, arrays = load(update)
        if header.get("site") != site:
            raise StateError(f"the update is of {header.get('site')!r}, not of {site!r}")
        found: Mapping[str, Any] = self._line.ask(handles.AGGREGATOR, "send", header, arrays)
        return found

    def tell(self, score: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tell a score; what became of the candidate so far."""
        found: Mapping[str, Any] = self._line.ask(handles.AGGREGATOR, "score", dict(score))
        return found
