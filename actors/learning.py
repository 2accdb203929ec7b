"""Learning: which training is due at a slot, and what becomes of it.

    due ──► train (in the trainer actor) ──► judge on later windows ──► gate ──► promote or reject

The controller's second line. A training asked for at one slot takes effect at a later one; what is
decided depends on the state and the slot alone, so a replay decides what the live run decided.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

from ray.exceptions import RayActorError

from actors.drawing import Drawing
from actors.from_home import FromHome, outcome_of
from actors.settings import Settings
from actors.state import ControllerState, Pending
from forecast.errors import FleetcastError, NothingNew
from forecast.hours import Hours
from forecast.members import Members
from forecast.versions import RegistryState
from train.breaker import Outcome
from train.evidence import decided_from, pack
from train.gate import decide
from train.jobs import BaseJob, Result, UpdateJob

log = logging.getLogger("fleetcast.controller")

_FULL = ("base", "retrain")
"""Trainings that start from nothing."""
_BASE_AGAIN_HOURS = 3
"""After so long at most a first model that failed is tried once more."""


class Learning(Drawing, FromHome):
    """Starts trainings and concludes them; keeps only the one under way."""

    def __init__(
        self,
        *,
        buffer: Any,
        trainer: Any,
        registry: Any,
        members: Members,
        settings: Settings,
        home: Any = None,
    ) -> None:
        """`home` has an `ask` as `handles.Actors`, and reaches the home site; None: none is."""
        self._buffer, self._trainer, self._registry = buffer, trainer, registry
        self._members, self._settings, self._home = members, settings, home
        self._schedule = settings.schedule()
        self._quiet: tuple[int, Hours | None] | None = None
        self.last_failure: str | None = None
        """Why the last training failed; None once one did not."""
        self.learned_to = -1
        """The slot at which the champion's training was asked for; -1 without one."""
        self.training: asyncio.Future[Any] | None = None
        """The training under way; None when there is none."""
        self.outcome: Outcome | None = None
        """How the training ended that came to its end in the last step; None where none did."""
        self._full_slot: int | None = None
        self._asked_to = -1
        self._waits = False

    def champion_is(self, lineage: dict[str, Any]) -> None:
        """Another version serves from now on."""
        self.learned_to = int(lineage.get("slot", -1))
        self._full_slot = self.learned_to if lineage.get("kind") in _FULL else None
        # A global version takes no update's turn.
        self._asked_to = -1 if lineage.get("kind") == "federated" else self.learned_to

    async def step(self, state: ControllerState) -> ControllerState:
        """Start what is due at the state's slot, conclude what has come to its slot.

        After a confirmed drift a training waits for nothing but the one under way.
        """
        slot, self.outcome = state.slot, None
        assert slot is not None
        state = self._counted(state)
        if state.pending is None and slot <= self.learned_to:
            # A base that was trained by hand has seen this: its first update comes a full period
            # after what it knows, and a drift of before is no news to it.
            return replace(state, last_update_slot=slot, drift_due=None)
        if state.pending is None and (pending := await self._startable(state)) is not None:
            told = {"update_id": pending.update_id, "slot": slot}
            log.info("%s is due", pending.update_id, extra=told)
            state = replace(state, pending=pending)
            if pending.kind == "federated":
                return replace(state, global_version=pending.global_version)
            state = replace(state, last_update_slot=slot, drift_due=None)
            if pending.kind in _FULL:
                state = replace(state, last_full_slot=slot)
        if state.pending is None:
            return state
        verdict = await self._registry.verdict.remote(state.pending.update_id)
        if verdict is not None:
            # Judged in a step that was cut short after the verdict: once is enough.
            self.training = None
            self.outcome = outcome_of(state.pending, verdict.report)
            return replace(state, pending=None)
        work = self._work(state.pending)
        # A site never holds up the fleet's step.
        may_wait = self._settings.when_late == "wait" and state.pending.kind != "federated"
        late = not may_wait and not work.done()
        if slot < state.pending.effect_slot or late:
            return state
        try:
            await self._conclude(state.pending, slot, await work)
        except (FleetcastError, ValueError, RuntimeError, OSError, RayActorError) as error:
            await self._give_up(state.pending, slot, error)
        finally:
            self.training = None
        return replace(state, pending=None)

    def _counted(self, state: ControllerState) -> ControllerState:
        """The state with the last training from nothing in it, also one that was done by hand."""
        known, found = state.last_full_slot, self._full_slot
        if found is None and known is None and self._members.champion is not None:
            found = state.slot  # not known any more: the period starts now
        if found is None or (known is not None and found <= known):
            return state
        return replace(state, last_full_slot=found)

    async def _startable(self, state: ControllerState) -> Pending | None:
        """What is due, unless learning is held back or the disk too full for another version."""
        pending = await self._due(state)
        if pending is None:
            return None
        rules = self._settings.breaker
        if pending.kind != "base":
            probe, slot = pending.kind != "federated", pending.asked_slot
            if rules is not None and not state.breaker.allows(slot, rules, probe=probe):
                return None
            paused = (await self._registry.state.remote()).paused
            if paused is not None and paused.learning:
                return None
        full = not (await self._buffer.status.remote()).may_learn
        if full and not self._waits:
            told = {"update_id": pending.update_id}
            log.warning("%s waits for free space", pending.update_id, extra=told)
        self._waits = full
        return None if full else pending

    async def _due(self, state: ControllerState) -> Pending | None:
        slot, settings = state.slot, self._settings
        assert slot is not None
        last = state.last_update_slot
        if self._members.champion is not None:
            # One trained by hand may know more than the last update did.
            last = max(self.learned_to if last is None else last, self._asked_to)
        drift = state.drift_due if settings.learning and self._members.complete else None
        if not self._members.complete:
            status = await self._buffer.status.remote()
            begun = None if status.first_slot is None else status.first_slot + settings.bootstrap
            again = min(settings.update_every, _BASE_AGAIN_HOURS * settings.per_hour)
            early = last is not None and slot - last < again
            if early or begun is None or slot < begun:
                return None
            return self._pending("base", slot, None)
        if not settings.learning:
            return None
        learned, urgent = await self._quiet_hours(slot), drift is not None
        full = state.last_full_slot
        kind = self._schedule.due(slot, last=last, last_full=full, learned=learned, urgent=urgent)
        if kind == "update":
            fresh = await self._buffer.new_rows_since.remote(last, slot)
            if not self._schedule.enough(fresh, urgent=urgent):
                kind = None
        if kind is None:
            quiet = self._schedule.quiet(slot, learned)
            return await self._from_home(state) if quiet and not urgent else None
        pending = self._pending(kind, slot, self._members.champion)
        # A retrain too: updates since a drift have learned from what is usually held out.
        hours = settings.holdout_since(slot - settings.label_delay, state.drift_since)
        return replace(pending, drift=drift, holdout_hours=hours)

    async def _quiet_hours(self, slot: int) -> Hours | None:
        """The hours found quiet before the slot's day; None for any, or where none are learned."""
        if self._schedule.hours != "learned":
            return None
        as_of = self._schedule.day_of(slot)
        if self._quiet is None or self._quiet[0] != as_of:
            self._quiet = (as_of, await self._buffer.quiet_hours.remote(as_of))
        return self._quiet[1]

    def _pending(self, kind: Any, slot: int, parent: int | None) -> Pending:
        return Pending(kind, f"{kind}-{slot}", slot, slot + self._settings.latency, parent)

    def _work(self, pending: Pending) -> asyncio.Future[Any]:
        """The training that is pending; submitted again after a restart."""
        if self.training is None:
            self.training = asyncio.ensure_future(self._train(pending))
        return self.training

    async def _train(self, pending: Pending) -> Any:
        settings, slot = self._settings, pending.asked_slot
        seed, known = settings.seed + slot, slot - settings.label_delay
        held = self._held(pending)
        if pending.kind == "federated":
            return await self._taken(pending)
        if pending.kind == "base":
            history, count = settings.history_hours, settings.base_windows
            windows = self._draw(slot, known, history, count, seed, held)
            job = BaseJob(pending.update_id, slot, settings.seed)
            exams = self._holdout(slot, known, held)
            return await self._trainer.train_base.remote(job, windows, exams)
        if pending.kind == "retrain":
            # Its weights are chosen on validation windows, which therefore come before those on
            # which it is compared with the champion, and a horizon before.
            before = settings.before_holdout(known, held)
            lookback, count = settings.lookback_hours, settings.base_windows
            windows = self._draw(slot, before, lookback, count, seed, held)
            job = BaseJob(pending.update_id, slot, seed, "retrain", pending.parent)
            start = await self._start(pending.parent)
            exams = self._holdout(slot, before, held)
            return await self._trainer.train_base.remote(job, windows, exams, start)
        assert pending.parent is not None
        windows = self._lessons(pending, known, seed, held)
        drifted = pending.drift is not None
        update = UpdateJob(pending.update_id, slot, seed, pending.parent, drifted)
        champion = self._registry.load.remote(pending.parent)
        return await self._trainer.update.remote(update, champion, windows)

    async def _give_up(self, pending: Pending, slot: int, error: Exception) -> None:
        """A training that failed or was skipped is put on record; the champion goes on."""
        told = {"update_id": pending.update_id, "slot": slot}
        if pending.kind == "federated":
            kind = "federated_skipped"  # no failure of the fleet's own learning
            log.warning("%s is given up: %s", pending.update_id, error, extra=told)
        elif isinstance(error, NothingNew):
            kind, self.last_failure = "update_skipped", None
            log.info("%s skipped: %s", pending.update_id, error, extra=told)
        else:
            kind, self.last_failure = "update_failed", f"{pending.update_id} failed: {error}"
            log.warning("%s", self.last_failure, extra=told)
            self.outcome = Outcome(self.last_failure)
        detail = {"update_id": pending.update_id, "reason": str(error)}
        await self._registry.note.remote(kind, slot=slot, detail=detail)

    async def _conclude(self, pending: Pending, slot: int, result: Result) -> None:
        """Gate the challenger and put the verdict on record."""
        if pending.kind == "update" and self._settings.replay_ratio:
            # Before the verdict: a step that is cut short after it does not come back here.
            await self._buffer.reprioritize.remote(pending.update_id, result.window_losses)
        # What serves now: a job may have promoted another version than the parent meanwhile.
        # One that lacks a target of today's schema is no match for a new base.
        serves = self._members.champion if self._members.complete else pending.parent
        if serves is None and pending.kind == "federated":
            raise NothingNew("nothing serves that a global version could be compared with")
        registry = await self._registry.state.remote()
        if pending.kind == "update" and _withdrawn(registry, pending.parent):
            # Somebody rolled it back: what learned on from it would bring that back.
            reasons = (f"version {pending.parent}, which it learned on from, was withdrawn",)
            told = {"slot": slot, "update_id": pending.update_id, "reasons": reasons}
            await self._registry.reject.remote(None, who="gate", **told)
            log.info("%s rejected: %s", pending.update_id, reasons[0])
            return
        anchor = None if serves is None else registry.anchor
        evidence = await self._trainer.judge.remote(
            result.artifact,
            self._holdout(slot, slot - self._settings.label_delay, self._held(pending)),
            None if serves is None else self._registry.load.remote(serves),
            None if anchor == serves else await self._readable(anchor),
            pending.kind == "update" and serves == pending.parent,
        )
        digest = await self._registry.keep_evidence.remote(pack(evidence), slot=slot)
        rules, seed = self._settings.rules(), self._settings.seed + slot
        held = (await self._registry.state.remote()).held
        asked: dict[str, Any] = {"champion": serves, "anchor": anchor, "seed": seed}
        decision = decide(evidence, rules, **asked).held(held)
        report = {
            **decision.report,
            "decided_from": decided_from(digest, rules, **asked, held=held),
            "kind": pending.kind,
            "training": dict(result.report),
            "asked_slot": pending.asked_slot,
            "effect_slot": slot,
            "parent": pending.parent,
            "drift_slot": pending.drift,
            "holdout_hours": pending.holdout_hours,
        }
        record = {"slot": slot, "update_id": pending.update_id, "reasons": decision.reasons}
        version = None
        if evidence.fault is None:
            version = await self._registry.register.remote(
                result.artifact, update_id=pending.update_id, slot=slot
            )
        becomes = decision.anchor_of(champion=serves, challenger=version)
        verdict, said = self._registry.reject, "rejected"
        if decision.promote:
            verdict, said = self._registry.promote, "promoted"
            way = self._settings.way(report["champion"], fast=pending.drift is not None)
            if way is not None:
                verdict, said = self._registry.accept, "accepted"
                record |= way
        await verdict.remote(version, who="gate", report=report, anchor=becomes, **record)
        self.outcome = outcome_of(pending, report)
        if pending.kind != "federated":
            self.last_failure = None
        told = {"update_id": pending.update_id, "slot": slot, "version": version}
        log.info("%s %s: %s", pending.update_id, said, "; ".join(decision.reasons), extra=told)


def _withdrawn(state: RegistryState, version: int | None) -> bool:
    return any(one.version == version and one.status == "withdrawn" for one in state.versions)
