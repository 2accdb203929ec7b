"""Safety in the controller: the frozen twin, the circuit breaker, and who is told.

    audit log ──► rollbacks, pauses, resumes ──► breaker, notices
    score of slot s ──► gain against the twin ──► harm for days: the anchor again, promotion paused
    how a training ended ──► breaker: closed, open, half open

What is decided depends on the state, the slot and what was on record before it; what it does
carries the slot, so a step done again does it once.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, replace
from itertools import takewhile
from typing import Any

from actors.settings import Settings
from actors.state import ControllerState, StateFile
from connect.webhook import Notice, Outbox
from forecast.errors import ArtifactError, RegistryError, StateError
from forecast.log_reads import Change
from forecast.retention import promoted_at
from forecast.scoring import StepReport
from forecast.versions import RegistryState
from train.breaker import Breaker, Outcome
from train.gain import Gain, GainTracker

log = logging.getLogger("fleetcast.controller")


class Safety:
    """What guards learning; a part of the controller.

    Notices go to `outbox`; without one people are told by logs, API and metrics.
    """

    def __init__(
        self,
        *,
        buffer: Any,
        ledger: Any,
        registry: Any,
        file: StateFile,
        settings: Settings,
        outbox: Outbox | None,
    ) -> None:
        self._buffer, self._ledger, self._registry = buffer, ledger, registry
        self._file, self._settings, self._outbox = file, settings, outbox
        self._tracker: GainTracker | None = None
        self._changed = False
        self._notices: list[Notice] = []
        self._restores = 0
        self._harm: int | None = None
        """The last slot of what was found harmful in this step, and undone."""
        self.restored = False
        """Whether the last step let another version serve."""
        self._looked = self._looking = -1
        """The revision up to which nothing is left to take in: by the last commit, by this step."""

    def told(self, state: ControllerState) -> dict[str, Any]:
        """Where it stands, for people."""
        gain, box = {} if self._tracker is None else self._tracker.told(), self._outbox
        by_role = gain.get("gains", {})
        counts = None
        if box is not None:
            counts = {"waiting": len(box.waiting), "sent": box.sent, "failed": box.given_up}
        return {
            "breaker": self._breaker(state),
            "learning_gain": gain or None,
            "gain": {
                name: {role: one[name] for role, one in by_role.items()}
                for name in ("ratio", "lower", "upper")
            },
            "twin_restores": self._restores,
            "notices": counts,
        }

    async def step(
        self, report: StepReport, state: ControllerState, known: ControllerState
    ) -> ControllerState:
        """Before a slot's learning. `known` is the state that is committed."""
        self._notices, self._harm, self.restored = [], None, False
        registry: RegistryState = await self._registry.state.remote()
        state = await self._changes(registry, state)
        if self._settings.twin_share:
            state = await self._twin(report, registry, state, known)
        return self._quiet(registry, state)

    async def learned(self, outcome: Outcome | None, state: ControllerState) -> ControllerState:
        """After a slot's learning: how a training ended that came to its end in it."""
        slot, rules = _slot(state), self._settings.breaker
        if rules is None or outcome is None:
            return state
        if outcome.failure is None:
            breaker = state.breaker.succeeded(slot, rules)
        else:
            breaker = state.breaker.failed(slot, rules)
        return await self._turned(breaker, outcome.failure or "it succeeded", state)

    async def save(self, state: ControllerState) -> None:
        """Write what the state names, and what people are to be told, before it is committed."""
        if self._outbox is not None:
            self._outbox.put(self._notices)
        self._notices = []
        if self._tracker is not None and self._harm is not None:
            # Not before: a step that failed finds the harm once more, and tells of it.
            self._tracker.acted(self._harm)
            self._restores, self._harm = self._restores + 1, None
        if self._changed and self._tracker is not None and state.twin_slot is not None:
            data = await asyncio.to_thread(self._tracker.pack)
            await asyncio.to_thread(self._file.save_part, "twin", state.twin_slot, data)

    def committed(self, state: ControllerState) -> None:
        """The state is on disk: what an older one named is not needed any more."""
        self._looked = self._looking
        if self._changed and state.twin_slot is not None:
            self._file.drop_parts("twin", but=state.twin_slot)
            self._changed = False

    def _breaker(self, state: ControllerState) -> dict[str, Any]:
        rules, slot = self._settings.breaker, state.slot
        if rules is None or slot is None:
            return {"enabled": rules is not None, "state": "closed", "open": False}
        stands = state.breaker.state(slot, rules)
        until = None if state.breaker.opened is None else state.breaker.opened + rules.cooldown
        return {
            "enabled": True,
            "state": stands,
            "open": stands != "closed",
            "failures": len(state.breaker.failures),
            "opened_slot": state.breaker.opened,
            "probe_slot": until,
            **asdict(rules),
        }

    async def _changes(self, registry: RegistryState, state: ControllerState) -> ControllerState:
        """Take in what was changed by hand, or undone, before this slot."""
        slot, seen = _slot(state), state.seen_revision
        if seen is None:
            return replace(state, seen_revision=registry.revision)
        since = self._looking = max(seen, self._looked)
        if registry.revision <= since:
            return state
        changes: list[Change] = await self._registry.changes.remote(since)
        # What this very step changed before it was cut short is for the next one, as it ever was.
        taken = list(takewhile(lambda one: one.slot < slot, changes))
        for change in taken:
            state = replace(await self._change(change, state), seen_revision=change.revision)
        if len(taken) == len(changes):
            self._looking = registry.revision
        return state

    async def _change(self, change: Change, state: ControllerState) -> ControllerState:
        slot, rules = _slot(state), self._settings.breaker
        said = f"by {change.who}: {change.reason}"
        if change.kind == "resume":
            self._tell("resumed", slot, f"learning goes on, {said}")
            return await self._turned(state.breaker.reset(), said, state)
        if change.kind == "pause":
            self._tell("promotion_paused", slot, f"promotion is paused {said}")
            return state
        if change.who != "twin":
            self._tell("rollback", slot, f"version {change.champion} serves again, {said}")
        if rules is None:
            return state
        return await self._turned(state.breaker.failed(slot, rules), f"rollback {said}", state)

    async def _turned(self, breaker: Breaker, why: str, state: ControllerState) -> ControllerState:
        """The state with this breaker; people are told when it opened or closed."""
        slot, was = _slot(state), state.breaker
        if breaker == was:
            return state
        rules = self._settings.breaker
        if breaker.opened is not None and breaker.opened != was.opened:
            hours = 0 if rules is None else rules.cooldown // self._settings.per_hour
            text = f"learning stops for {hours} h after repeated failures, the last one: {why}"
            log.error("circuit breaker open: %s", text, extra={"slot": slot})
            await self._note("breaker_open", slot, text)
        elif breaker.opened is None and was.opened is not None:
            text = f"learning goes on: {why}"
            log.info("circuit breaker closed: %s", text, extra={"slot": slot})
            await self._note("breaker_closed", slot, text)
        return replace(state, breaker=breaker)

    async def _note(self, kind: str, slot: int, text: str) -> None:
        await self._registry.note.remote(kind, slot=slot, detail={"reason": text})
        self._tell(kind, slot, text)

    def _tell(self, kind: str, slot: int, text: str) -> None:
        settings = self._settings
        self._notices.append(Notice(kind, slot, text, settings.fleet, settings.schema.panel))

    def _quiet(self, registry: RegistryState, state: ControllerState) -> ControllerState:
        """Tell, once a day, of learning that gave no version for a day or two of its turns."""
        slot, settings = _slot(state), self._settings
        promoted = [promoted_at(one) for one in registry.versions if one.promotion is not None]
        last = max((at for at in promoted if at < slot), default=None)
        if last is None or not settings.learning:
            return state
        turn = settings.update_every if settings.online else settings.retrain_every
        since = last if state.quiet_slot is None else max(last, state.quiet_slot)
        day = 24 * settings.per_hour
        if slot - last < max(day, 2 * turn) or slot - since < day:
            return state
        hours = (slot - last) // settings.per_hour
        text = f"no update was accepted for {hours} h"
        log.warning("%s", text, extra={"slot": slot})
        self._tell("no_accepted_update", slot, text)
        return replace(state, quiet_slot=slot)

    async def _twin(
        self,
        report: StepReport,
        registry: RegistryState,
        state: ControllerState,
        known: ControllerState,
    ) -> ControllerState:
        """Take in what the slot's score says of champion and twin; undo what did harm for days."""
        tracker, slot = self._tracker, report.slot
        if tracker is None:
            tracker = self._tracker = await self._begun(slot, known)
        tracker.of(registry.aliases.get("base"))
        tracker.add(report)
        if not tracker.ends(slot):
            return state
        await self._close(tracker, slot)
        self._changed = True
        gain = tracker.harmful(slot) if self._settings.twin_hours else None
        if gain is not None:
            await self._restore(gain, registry, _slot(state))
            self._harm = slot
        return replace(state, twin_slot=slot)

    async def _close(self, tracker: GainTracker, slot: int) -> None:
        roles = {one.name: one.role for one in await self._buffer.servers.remote(slot)}
        await asyncio.to_thread(tracker.close, slot, roles)

    async def _restore(self, gain: Gain, registry: RegistryState, slot: int) -> None:
        """Let the anchor serve again; the base where it serves already, or is damaged."""
        hours, base = self._settings.twin_hours, registry.aliases.get("base")
        anchor = registry.anchor if registry.anchor != registry.champion else base
        reason = (
            f"for {hours} h the champion erred {-gain.ratio:.1%} more than the base, "
            f"{-gain.upper:.1%} at least"
        )
        record = {"slot": slot, "who": "twin", "reason": reason, "key": f"twin-{slot}"}
        failed = []
        # With one key: done again, it stays with the version that it was.
        for to in dict.fromkeys((anchor, base)):
            try:
                after = await self._registry.rollback.remote(to, **record, pause=True)
            except (RegistryError, ArtifactError) as error:
                failed.append(f"version {to} cannot be restored ({error})")
                log.error("%s", failed[-1], extra={"slot": slot})
            else:
                text = f"version {after.champion} is restored and promotion is paused: {reason}"
                break
        else:
            await self._registry.pause.remote(**record)
            text = f"{', '.join(failed)}, promotion is paused: {reason}"
        self.restored = True
        log.error("%s", text, extra={"slot": slot})
        self._tell("twin_restored", slot, text)

    async def _begun(self, slot: int, known: ControllerState) -> GainTracker:
        """What was known before a slot: from the file, and the reports that the ledger keeps."""
        rules = self._settings.gain()
        tracker = GainTracker(rules)
        data = None
        if known.twin_slot is not None:
            data = await asyncio.to_thread(self._file.part, "twin", known.twin_slot)
        if data is not None:
            try:
                tracker = GainTracker.unpack(data, rules)
            except StateError as error:
                # What it says is for people, and begins again by itself.
                log.error("the gain against the twin begins anew: %s", error)
        if known.slot is None:
            return tracker
        first = max(slot - slot % rules.block, tracker.slot + 1)
        for since in range(first, slot):
            try:
                scored = await self._ledger.score.remote(since, self._buffer.actuals.remote(since))
            except StateError:  # it was never scored, or is older than what is kept
                continue
            tracker.add(scored)
        return tracker


def _slot(state: ControllerState) -> int:
    assert state.slot is not None
    return state.slot
