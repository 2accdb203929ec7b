"""AggregatorActor: merges what sites send into one global model. The only writer of its state."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from actors.commits import Commits
from forecast.errors import Busy
from forecast.storage import DISK, HANDOVER_S, Disk, OwnerLock
from train.federated.aggregator import Aggregator
from train.federated.partial import Partial
from train.federated.partition import Layout
from train.federated.report import RoundReport
from train.federated.settings import AggregatorSettings
from train.federated.state import save
from train.federated.store import AggregatorStore
from train.federated.update import Receipt, UpdateMeta, Verdict

log = logging.getLogger("fleetcast.aggregator")

T = TypeVar("T")


class AggregatorActor:
    """Shell around `train.federated.aggregator.Aggregator`, holding the lock on its state.

    What it answers is on disk before: calls that wait at the same time share one write. The
    constructor, which Ray runs again, reads it back. Any call may be repeated: an update, a partial
    or a verdict that was taken before is known by its number. Deltas come by object reference and
    are only read.

    Calls that change something raise Busy when the disk does not take it; what was changed is
    written with the next call that can be, so the caller just calls again.
    """

    def __init__(
        self,
        *,
        directory: Path,
        owner: str,
        layout: Layout,
        start: np.ndarray,
        settings: AggregatorSettings,
        version: int = 0,
        sites: Collection[str] | None = None,
        node: str = "root",
        acknowledge: Literal["write", "fsync"] = "fsync",
        disk: Disk = DISK,
    ) -> None:
        """`start` and `version` are where it begins when nothing is stored."""
        lock = directory.with_name(f"{directory.name}.lock")
        self._lock = OwnerLock(lock, owner, patience_s=HANDOVER_S)
        try:
            self._aggregator = Aggregator(
                layout, start, settings=settings, version=version, sites=sites, node=node
            )
            self._store = AggregatorStore(directory, acknowledge=acknowledge, disk=disk)
            dropped = self._store.load(self._aggregator)
        except BaseException:
            self._lock.release()
            raise
        # A write packs the state in its own thread, and an offer must not change it meanwhile.
        self._still = threading.Lock()
        self._commits = Commits(self._write)
        self._changes = self._written = 0
        """How often the state was changed, and at which of these it was last written."""
        at = {"version": self._aggregator.version, "round": self._aggregator.round}
        if dropped:
            log.warning("the rule is another one: %d updates were dropped", dropped, extra=at)
        log.info("the aggregator is open at version %d", at["version"], extra=at)

    async def offer(self, meta: UpdateMeta, delta: np.ndarray) -> Receipt:
        """Take a site's delta, or say why not; see `Aggregator.offer`."""
        receipt = await self._change(lambda: self._aggregator.offer(meta, delta), told_something)
        return replace(receipt, durable=True)

    async def merge(self, partial: Partial) -> Receipt:
        """Take what a leaf of the tree collected; see `Aggregator.merge`."""
        receipt = await self._change(lambda: self._aggregator.merge(partial), told_something)
        return replace(receipt, durable=True)

    async def step(self, now_s: float) -> RoundReport | None:
        """End the round when it is due; see `Aggregator.maybe_step`."""
        report = await self._change(lambda: self._aggregator.maybe_step(now_s), _is_there)
        if report is not None:
            said = {"round": report.round, "version": report.version, "sites": len(report.sites)}
            log.info("round %d: %s", report.round, report.outcome, extra=said)
        return report

    async def accept(self, version: int) -> None:
        """The candidate of this number is the global version now."""
        await self._change(lambda: self._aggregator.accept_step(version))

    async def reject(self, version: int) -> None:
        """The candidate of this number is dropped."""
        await self._change(lambda: self._aggregator.reject_step(version))

    async def partial(self) -> Partial | None:
        """What was collected, for the aggregator above; see `Aggregator.partial`."""
        return await self._change(self._aggregator.partial, _is_there)

    async def confirm(self, sequence: int) -> None:
        """The partial of this number arrived above."""
        await self._change(lambda: self._aggregator.confirm(sequence))

    async def adopt(self, version: int, shared: Mapping[str, np.ndarray]) -> None:
        """Go on from a version that the aggregator above accepted; again, nothing happens."""
        if version not in self._aggregator.history.accepted:
            await self._change(lambda: self._aggregator.adopt(version, shared))

    async def shared(self, role: str = "") -> tuple[int, np.ndarray]:
        """The last accepted version, and its vector for sites of this role."""
        return self._aggregator.version, self._aggregator.shared(role)

    async def candidate(self, role: str = "") -> tuple[int, np.ndarray] | None:
        """Number and vector of the step that waits for its verdict, if one does."""
        return self._aggregator.candidate(role)

    async def last(self) -> RoundReport | None:
        """The report of the round before, also when the call that made it was lost."""
        return self._aggregator.last

    async def status(self) -> dict[str, Any]:
        """The open round and the version, as plain values."""
        one = self._aggregator
        return {
            "version": one.version,
            "round": one.round,
            "updates": one.open.updates,
            "sites": len(one.open.sites),
            "verdicts": dict(one.open.verdicts),
            "pending": one.history.given if one.history.pending else None,
            "quarantined": list(one.admission.sites.quarantined(one.round)),
            "roles": list(one.roles),
            "unwritten": self._changes - self._written,
        }

    async def close(self) -> None:
        """Write what is not yet written, and let go of the lock."""
        try:
            if self._written < self._changes:
                await self._durable()
        finally:
            self._lock.release()

    async def _change(
        self, call: Callable[[], T], changed: Callable[[T], bool] = lambda _: True
    ) -> T:
        """Make a call, and answer when what it changed, and what was before it, is on disk."""
        self._lock.check()
        with self._still:
            answer = call()
            self._changes += changed(answer)
        if self._written < self._changes:
            await self._durable()
        return answer

    async def _durable(self) -> None:
        try:
            await self._commits.wait()
        except OSError as error:
            log.warning("the state cannot be written: %s", error)
            raise Busy("the aggregator cannot write now", retry_after_s=5) from error

    def _write(self) -> None:
        with self._still:
            changes, saved = self._changes, save(self._aggregator)
        self._store.write(saved)
        self._written = changes


_QUIET = {
    Verdict.DUPLICATE,
    Verdict.STALE,
    Verdict.LIMITED,
    Verdict.UNAUTHORISED,
    Verdict.QUARANTINED,
}
"""After these nothing is to be remembered: nobody can make us write by sending what is refused."""


def told_something(receipt: Receipt) -> bool:
    return receipt.verdict not in _QUIET and not receipt.again


def _is_there(answer: object | None) -> bool:
    return answer is not None
