"""The controller: the order of the system, once per closed slot.

    buffer ──closed slot s──►  step(s)
                                │ 1 score    ledger.score(s, actuals, masked)       what came; drift
    buffer.draw ──windows──►    │ 2 learn    trainer.update(...) ──► challenger     when one is due
    buffer.holdout ─windows─►   │            trainer.judge ──► gate.decide ──► registry.accept
    registry ──in flight──►     │   roll out   paired live losses ──► registry.advance, back
    registry ──champion──►      │ 3 issue    members ──► blocks of record ──► ledger.issue
                                │ 4 commit   one state file; from here on the slot is done
                                ▼ 5 publish  ledger.publish ──► gateway, forecasters

Only the controller holds handles; the other actors know nobody. What travels between them are
references. `step(s)` is a function of the state after s-1 and of slot s: each side effect carries
its slot, is idempotent, and a step killed anywhere is simply done again, with the same result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from actors.drift import DriftWatch
from actors.learning import Learning
from actors.loading import Loading
from actors.rollout import RolloutLine
from actors.safety import Safety
from actors.settings import Settings
from actors.state import ControllerState, StateFile
from actors.tables import ExpertTables
from connect.webhook import Outbox
from forecast.errors import StateError
from forecast.members import SEASONAL_NAIVE, Members, blocks_of_record
from forecast.record import CHAMPION, ENSEMBLE, Snapshot
from forecast.scoring import StepReport
from forecast.versions import RegistryState
from train.buffer import BufferStatus

log = logging.getLogger("fleetcast.controller")

_FORECASTABLE = ("active", "stale")
"""A silent server has its context still; its answer says that it is stale."""


class Controller(Loading):
    """Runs `step` over every closed slot. Handles are Ray actors or `LocalHandle`s alike."""

    def __init__(
        self,
        *,
        buffer: Any,
        ledger: Any,
        trainer: Any,
        registry: Any,
        members: Members,
        state: StateFile,
        settings: Settings,
        now: Callable[[], float],
        outbox: Outbox | None = None,
        home: Any = None,
    ) -> None:
        """`home` reaches the home site, where the fleet is one; see `Learning`."""
        self._buffer, self._ledger = buffer, ledger
        self._registry = registry
        self._members, self.settings, self._now = members, settings, now
        self._learning = Learning(
            buffer=buffer,
            trainer=trainer,
            registry=registry,
            members=members,
            settings=settings,
            home=home,
        )
        self._drift = DriftWatch(
            buffer=buffer, ledger=ledger, registry=registry, file=state, settings=settings
        )
        self._rollout = RolloutLine(
            buffer=buffer, registry=registry, members=members, settings=settings
        )
        self._safety = Safety(
            buffer=buffer,
            ledger=ledger,
            registry=registry,
            file=state,
            settings=settings,
            outbox=outbox,
        )
        self._file = state
        self._state = state.load()
        self._published: int | None = None
        self._revision = -1
        self._known: RegistryState | None = None
        self._refused: set[int] = set()
        self._tables = ExpertTables(buffer=buffer, settings=settings)

    @property
    def state(self) -> ControllerState:
        """The state after the last finished step."""
        return self._state

    @property
    def training(self) -> asyncio.Future[Any] | None:
        """The training under way; None when there is none."""
        return self._learning.training

    @property
    def outside(self) -> int:
        """Windows since the start with an input beyond the serving form's tables."""
        return self._members.outside

    @property
    def drift(self) -> dict[str, Any]:
        """Where drift detection stands, for people."""
        return self._drift.told()

    @property
    def rollout(self) -> dict[str, Any]:
        """How the version in flight compares so far, for people."""
        return self._rollout.told()

    @property
    def safety(self) -> dict[str, Any]:
        """Where twin, breaker and notices stand, for people."""
        return self._safety.told(self._state)

    @property
    def last_failure(self) -> str | None:
        """Why the last training failed; None once one did not."""
        return self._learning.last_failure

    async def catch_up(self, status: BufferStatus) -> int:
        """Run every step that is due; the number of steps done.

        Raises StateError when the buffer knows nothing of what was stepped: its state is missing,
        and going on would quietly begin anew.
        """
        self._check_buffer(status)
        await self._refresh_members()
        await self._publish_again()
        done = 0
        while (slot := self._next(status)) is not None:
            await self.step(slot)
            done += 1
        return done

    def _check_buffer(self, status: BufferStatus) -> None:
        slot, known = self._state.slot, status.first_slot
        if slot is not None and (known is None or known > slot):
            raise StateError(
                f"slot {slot} was stepped, but the buffer "
                f"{'is empty' if known is None else f'begins at slot {known}'}: is its folder the "
                f"right one, and mounted? To begin anew, remove {self._file}"
            )

    async def step(self, slot: int) -> None:
        """One slot: score, guard, learn, issue, commit, publish."""
        report = await self._score(slot)
        state = replace(self._state, slot=slot)
        if self._members.champion is not None and slot > self._learning.learned_to:
            state = await self._drift.step(report, state, self._state)
        if self._members.champion is not None:
            state = await self._rollout.step(report, state)
            # A step done again finds the new champion: this one must, too.
            await self._refresh_members()
        state = await self._safety.step(report, state, self._state)
        if self._safety.restored:
            await self._refresh_members()  # a step done again finds the other champion, too
        state = await self._learning.step(state)
        state = await self._safety.learned(self._learning.outcome, state)
        snapshot = await self._issue(slot)
        state = self._rollout.settled(state, self._known)
        await self._drift.save(state)
        await self._safety.save(state)
        self._commit(state)
        await self._ledger.publish.remote(snapshot)
        self._published = slot

    async def _publish_again(self) -> None:
        """After a start: the last slot may have been committed and not published."""
        if self._published is None and (slot := self._state.slot) is not None:
            latest = await self._ledger.latest.remote()
            if latest is None or latest.slot < slot:
                await self._ledger.publish.remote(await self._issue(slot))
            self._published = slot

    def _next(self, status: BufferStatus) -> int | None:
        """The slot to step now, or None.

        Before the first model, and up to what a champion trained by hand has seen, nothing is of
        record: steps skip to the newest closed slot, but never past the one at which the first
        model becomes due.
        """
        closed, last = status.closed_slot, self._state.slot
        if closed is None or status.first_slot is None or (last is not None and closed <= last):
            return None
        if self._members.champion is None and self._state.pending is None:
            due = status.first_slot + self.settings.bootstrap
        else:
            due = self._learning.learned_to + 1
        if last is not None and last >= due - 1:
            return last + 1
        return min(closed, due)

    async def _score(self, slot: int) -> StepReport:
        due = slot - self.settings.label_delay
        masked = self._buffer.masked.remote(due, slot)
        actuals = self._buffer.actuals.remote(due)
        report: StepReport = await self._ledger.score.remote(due, actuals, masked)
        return report

    async def _issue(self, slot: int) -> Snapshot:
        """The fleet's forecasts of record for this slot, on the ledger, and their snapshot."""
        settings = self.settings
        await self._refresh_members()
        raw = await self._buffer.fleet.remote(slot)
        known = {state.name: state for state in await self._buffer.servers.remote(slot)}
        servers = tuple(known[name] for name in raw.servers)
        ready = np.array(
            [one.state in _FORECASTABLE and one.missing_slots == 0 for one in servers], dtype=bool
        )
        of_record = slot > self._learning.learned_to
        while True:
            blocks = await asyncio.to_thread(
                blocks_of_record,
                raw,
                slot=slot,
                members=self._members,
                tables=await self._tables.at(slot),
                schema=settings.schema,
                levels=settings.levels,
                ready=ready,
                twin_share=settings.twin_share,
            )
            if not of_record or await self._rollout.sound(blocks, self._known, slot):
                break
            await self._refresh_members()
        champion = self._members.champion
        if champion is not None and of_record:
            # A step done again keeps what was issued first, whatever came in late since.
            seat = self._rollout.seat(self._known, raw.servers)
            blocks = await self._ledger.issue.remote(blocks, seat)
        issued = {block.member for block in blocks}
        answers = ENSEMBLE if ENSEMBLE in issued else CHAMPION
        served = [answers if champion is not None and good else SEASONAL_NAIVE for good in ready]
        return Snapshot(
            revision=slot,
            slot=slot,
            fleet=settings.fleet,
            panel=settings.schema.panel,
            step_seconds=settings.schema.step_seconds,
            horizon=settings.horizon,
            version=champion,
            targets=settings.schema.targets,
            units=tuple(settings.schema.metric(name).unit for name in settings.schema.targets),
            levels=settings.levels,
            servers=servers,
            served=tuple(served),
            blocks=blocks,
            raw=raw,
            published_at=self._now(),
        )

    def _commit(self, state: ControllerState) -> None:
        self._file.save(state)
        self._state = state
        self._drift.committed(state)
        self._safety.committed(state)
