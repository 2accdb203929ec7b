"""The controller: the order of the system, once per closed slot.

    buffer ──closed slot s──►  step(s)
                                │ 1 score    ledger.score(s, buffer.actuals(s))     what matured
    buffer.draw ──windows──►    │ 2 learn    trainer.update(...) ──► challenger     when one is due
    buffer.holdout ─windows─►   │            trainer.judge ──► gate.decide ──► registry.promote
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

from actors.settings import Settings
from actors.state import ControllerState, Pending, StateFile
from forecast.errors import ArtifactError, FleetcastError
from forecast.members import SEASONAL_NAIVE, Members, blocks_of_record
from forecast.record import CHAMPION, Snapshot
from train.buffer import BufferStatus
from train.gate import decide
from train.trainer import BaseJob, Result, UpdateJob

log = logging.getLogger("fleetcast.controller")

_FORECASTABLE = ("active", "stale")
"""A silent server has its context still; its answer says that it is stale."""


class Controller:
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
    ) -> None:
        self._buffer, self._ledger = buffer, ledger
        self._trainer, self._registry = trainer, registry
        self._members, self.settings, self._now = members, settings, now
        self._file = state
        self._state = state.load()
        self.last_failure: str | None = None
        """Why the last update failed; None once one did not."""
        self._published: int | None = None
        self._learned_to = -1
        self._revision = -1
        self._refused: set[int] = set()
        self._training: asyncio.Future[Any] | None = None
        self._tables: tuple[int, Any] | None = None

    @property
    def state(self) -> ControllerState:
        """The state after the last finished step."""
        return self._state

    @property
    def training(self) -> asyncio.Future[Any] | None:
        """The training under way; None when there is none."""
        return self._training

    async def catch_up(self, status: BufferStatus) -> int:
        """Run every step that is due; the number of steps done."""
        await self._refresh_members()
        await self._publish_again()
        done = 0
        while (slot := self._next(status)) is not None:
            await self.step(slot)
            done += 1
        return done

    async def step(self, slot: int) -> None:
        """One slot: score, learn, issue, commit, publish."""
        await self._score(slot)
        state = await self._learn(replace(self._state, slot=slot))
        snapshot = await self._issue(slot)
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
            due = self._learned_to + 1
        if last is not None and last >= due - 1:
            return last + 1
        return min(closed, due)

    async def _score(self, slot: int) -> None:
        await self._ledger.score.remote(slot, self._buffer.actuals.remote(slot))

    async def _learn(self, state: ControllerState) -> ControllerState:
        """Start what is due, conclude what has come to its slot."""
        slot = state.slot
        assert slot is not None
        if state.pending is None and slot <= self._learned_to:
            # A base that was trained by hand has seen this: its first update comes a full period
            # after what it knows.
            return replace(state, last_update_slot=slot)
        if state.pending is None and (pending := await self._due(state)) is not None:
            log.info("%s is due", pending.update_id, extra={"update_id": pending.update_id})
            state = replace(state, pending=pending, last_update_slot=slot)
        if state.pending is None:
            return state
        if await self._registry.verdict.remote(state.pending.update_id) is not None:
            # Judged in a step that was cut short after the verdict: once is enough.
            self._training = None
            return replace(state, pending=None)
        work = self._work(state.pending)
        late = self.settings.when_late == "continue" and not work.done()
        if slot < state.pending.effect_slot or late:
            return state
        try:
            await self._conclude(state.pending, slot, await work)
        except (FleetcastError, ValueError, RuntimeError) as error:
            await self._give_up(state.pending, slot, error)
        finally:
            self._training = None
        return replace(state, pending=None)

    async def _due(self, state: ControllerState) -> Pending | None:
        slot, settings = state.slot, self.settings
        assert slot is not None
        last = state.last_update_slot
        if last is None and self._members.champion is not None:
            last = self._learned_to
        if last is not None and slot - last < settings.update_every:
            return None
        if not self._members.complete:
            status = await self._buffer.status.remote()
            if status.first_slot is None or slot < status.first_slot + settings.bootstrap:
                return None
            return Pending("base", f"base-{slot}", slot, slot + settings.latency, None)
        if not settings.learning or last is None:
            return None
        fresh = await self._buffer.new_rows_since.remote(last, slot)
        if fresh < settings.min_samples:
            return None
        parent = self._members.champion
        return Pending("update", f"update-{slot}", slot, slot + settings.latency, parent)

    def _work(self, pending: Pending) -> asyncio.Future[Any]:
        """The training of a pending update; submitted again after a restart."""
        if self._training is None:
            self._training = asyncio.ensure_future(self._train(pending))
        return self._training

    async def _train(self, pending: Pending) -> Any:
        settings, slot = self.settings, pending.asked_slot
        seed = settings.seed + slot
        draw = {"as_of": slot, "seed": seed, "holdout_hours": settings.holdout_hours}
        if pending.kind == "base":
            windows = self._buffer.draw.remote(
                hours=settings.history_hours, count=settings.base_windows, **draw
            )
            validation = self._holdout(slot)
            job = BaseJob(pending.update_id, slot, settings.seed)
            return await self._trainer.train_base.remote(job, windows, validation)
        assert pending.parent is not None
        windows = self._buffer.draw.remote(
            hours=settings.window_hours, count=settings.windows_per_update, **draw
        )
        update = UpdateJob(pending.update_id, slot, seed, pending.parent)
        champion = self._registry.load.remote(pending.parent)
        return await self._trainer.update.remote(update, champion, windows)

    def _holdout(self, slot: int) -> Any:
        settings = self.settings
        return self._buffer.holdout.remote(
            as_of=slot, hours=settings.holdout_hours, every=settings.horizon
        )

    async def _give_up(self, pending: Pending, slot: int, error: Exception) -> None:
        """An update that failed is put on record; the champion goes on."""
        self.last_failure = f"{pending.update_id} failed: {error}"
        log.warning("%s", self.last_failure)
        detail = {"update_id": pending.update_id, "reason": str(error)}
        await self._registry.note.remote("update_failed", slot=slot, detail=detail)

    async def _conclude(self, pending: Pending, slot: int, result: Result) -> None:
        """Gate the challenger and put the verdict on record."""
        champion = None if pending.parent is None else self._registry.load.remote(pending.parent)
        known, scores = await self._trainer.judge.remote(
            result.artifact, champion, self._holdout(slot)
        )
        decision = decide(known, scores, validate=self.settings.validate)
        report = {
            **decision.report,
            "training": dict(result.report),
            "asked_slot": pending.asked_slot,
            "effect_slot": slot,
            "parent": pending.parent,
        }
        record = {"slot": slot, "update_id": pending.update_id, "reasons": decision.reasons}
        version = await self._registry.register.remote(
            result.artifact, update_id=pending.update_id, slot=slot
        )
        verdict = self._registry.promote if decision.promote else self._registry.reject
        await verdict.remote(version, who="gate", report=report, **record)
        self.last_failure = None
        said = "promoted" if decision.promote else "rejected"
        log.info("%s %s: %s", pending.update_id, said, "; ".join(decision.reasons))

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
            self._members.swap(servable.version)
            self._revision = state.revision
            lineage = servable.artifact.manifest.get("lineage", {})
            self._learned_to = int(lineage.get("slot", -1))
            return

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
        blocks = await asyncio.to_thread(
            blocks_of_record,
            raw,
            slot=slot,
            members=self._members,
            tables=await self._baselines(slot),
            schema=settings.schema,
            levels=settings.levels,
            ready=ready,
        )
        champion = self._members.champion
        if champion is not None and slot > self._learned_to:
            # A step done again keeps what was issued first, whatever came in late since.
            blocks = await self._ledger.issue.remote(blocks) or blocks
        served = [CHAMPION if champion is not None and good else SEASONAL_NAIVE for good in ready]
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

    async def _baselines(self, slot: int) -> Any:
        """Residual tables, made anew each event hour: a function of the slot, not of the past."""
        hour = slot - slot % self.settings.per_hour
        if self._tables is None or self._tables[0] != hour:
            tables = await self._buffer.residuals.remote(
                as_of=hour, hours=self.settings.window_hours, levels=self.settings.levels
            )
            self._tables = (hour, tables)
        return self._tables[1]

    def _commit(self, state: ControllerState) -> None:
        self._file.save(state)
        self._state = state
