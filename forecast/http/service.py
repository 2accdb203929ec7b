"""What the HTTP routes need of the system behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from forecast.accuracy import AccuracyReport
from forecast.audit import AuditCheck, AuditRecord
from forecast.events import Event, EventReport, Told
from forecast.http.api import IngestAnswer
from forecast.http.federated_service import FederatedService
from forecast.record import Snapshot
from forecast.registry import UpdateRecord
from forecast.rolling_out import Action
from forecast.rollout import Table
from forecast.touched import Touched
from forecast.versions import RegistryState
from forecast.windows import RawWindows


class ServerLike(Protocol):
    """A server's lifecycle, as the snapshot and the buffer both tell it."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def timezone(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def first_slot(self) -> int: ...
    @property
    def last_slot(self) -> int: ...
    @property
    def missing_slots(self) -> int: ...


class Service(FederatedService, Protocol):
    """One fleet, seen from its HTTP side. Every call may raise a `RequestError`."""

    async def snapshot(self) -> Snapshot | None:
        """The newest published snapshot; None before the first."""
        ...

    async def compute(
        self, raw: RawWindows, version: int | None
    ) -> tuple[int, NDArray[np.float32]]:
        """The version that answered and its quantiles [N, H, T, Q]; None asks the champion.

        Raises UnknownVersion when there is no such version, or no champion yet.
        """
        ...

    async def compute_newest(
        self, snapshot: Snapshot, rows: Sequence[int], version: int | None
    ) -> tuple[int, NDArray[np.float32]]:
        """The same of these rows of a snapshot's windows."""
        ...

    async def compute_at(
        self, servers: tuple[str, ...], slot: int, version: int | None
    ) -> tuple[int, NDArray[np.float32], RawWindows]:
        """The same of known servers as they stood at a slot, and the windows that were read."""
        ...

    async def ingest(
        self, body: bytes, content_type: str, content_encoding: str, request_id: str
    ) -> IngestAnswer:
        """Keep rows; the same request id again changes nothing."""
        ...

    async def events(self) -> Sequence[Told]:
        """The events that stand, by start and id."""
        ...

    async def tell_events(
        self, events: Sequence[Event], who: str
    ) -> Sequence[tuple[EventReport, Touched | None]]:
        """Keep events; of one that masks closed slots, which versions have learned from them."""
        ...

    async def withdraw_event(self, event_id: str) -> Told | None:
        """Forget an event from now on; None for one that is not known."""
        ...

    async def rollout(
        self, limit: int
    ) -> tuple[RegistryState, Mapping[str, object] | None, Sequence[AuditRecord]]:
        """Who answers for whom, how what is in flight compares (None: unknown), last changes."""
        ...

    async def steer(
        self,
        action: Action,
        *,
        version: int | None = None,
        table: Table | None = None,
        keep: bool = True,
        reason: str,
        who: str,
        request_id: str,
        expected: str,
        dry_run: bool,
    ) -> RegistryState:
        """Change who answers for whom; the same request id again changes nothing.

        Raises UnknownVersion, PreconditionFailed where `expected` does not stand any more, Conflict
        for what cannot be, with the gate's report for a version that it did not let pass.
        """
        ...

    async def rollback(
        self,
        to: int | None,
        reason: str,
        who: str,
        request_id: str,
        *,
        expected: str | None = None,
        dry_run: bool = False,
    ) -> RegistryState:
        """Move the champion back; the same request id again changes nothing.

        Raises UnknownVersion, and Conflict for a version that never was champion.
        """
        ...

    async def champion_at(self, slot: int) -> int:
        """The version that was champion after the step of a slot.

        Raises Conflict when there was none, UnknownVersion when its files are gone.
        """
        ...

    async def pause(self, reason: str, who: str, request_id: str) -> RegistryState:
        """Start no training and promote nothing; the same request id again changes nothing."""
        ...

    async def resume(self, reason: str, who: str, request_id: str) -> RegistryState:
        """Let learning and promotion go on; the same request id again changes nothing."""
        ...

    async def audit(
        self, *, limit: int, before: int | None, since: int | None, kinds: Sequence[str]
    ) -> Sequence[AuditRecord]:
        """Records before number `before`, of slot `since` or later, newest first; all kinds: ()."""
        ...

    async def verify_audit(self, head: str | None) -> AuditCheck:
        """Check the whole log, which must hold `head`; raises Conflict saying what is wrong."""
        ...

    async def decision(self, update_id: str) -> tuple[AuditRecord, bytes]:
        """A verdict's record and its packed evidence; raises UnknownUpdate, Conflict."""
        ...

    async def backup(self, name: str) -> Mapping[str, Any]:
        """Write a backup into a new folder; raises Conflict where there is one."""
        ...

    async def models(self) -> RegistryState:
        """Versions and aliases."""
        ...

    async def model(self, name: str) -> Mapping[str, object]:
        """The manifest behind a version or alias; raises UnknownVersion."""
        ...

    async def updates(self, limit: int, since: int | None) -> Sequence[UpdateRecord]:
        """The gate's verdicts of slot `since` or later, newest first."""
        ...

    async def accuracy(
        self, since_slot: int | None, server: str | None, target: str | None
    ) -> AccuracyReport:
        """Errors per member and horizon."""
        ...

    async def learning(self) -> Mapping[str, Any] | None:
        """Where breaker and twin stand, times as slots; None while the controller is silent."""
        ...

    async def drift(self) -> Mapping[str, object]:
        """Where drift detection stands, as plain JSON values; times are slots."""
        ...

    async def servers(self) -> Sequence[ServerLike]:
        """Lifecycle of every server."""
        ...

    async def status(self) -> Mapping[str, object]:
        """Where the system stands, as plain JSON values."""
        ...

    async def metrics(self) -> str:
        """The same as Prometheus text."""
        ...
