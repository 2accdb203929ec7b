"""Rollout in the controller: what is on its way to everyone, compared live, moved on or back.

    score of slot s ──► Trial.added ──► decide ──► registry.advance | promote | back
    blocks of slot s ─► a challenger whose numbers are no numbers is back before it is recorded

The controller's third line. The registry says what is in flight and since when; the state holds the
comparison alone. What is done at a slot carries it, and what begins at a slot is decided on from
the next one on: a step done again finds it done.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from actors.settings import Settings
from actors.state import ControllerState
from forecast.errors import ArtifactError
from forecast.issued import CALIBRATED, TRIAL_CALIBRATED, block_of
from forecast.members import Members
from forecast.record import CHAMPION, ForecastBlock
from forecast.rollout import CHALLENGER, Flight
from forecast.scoring import StepReport
from forecast.seat import Seat
from forecast.versions import RegistryState
from train.rollout import Trial, Verdict, decide

log = logging.getLogger("fleetcast.controller")


class RolloutLine:
    """Moves what is in flight; somebody's own table stays until they change it."""

    def __init__(self, *, buffer: Any, registry: Any, members: Members, settings: Settings) -> None:
        self._buffer, self._registry = buffer, registry
        self._members, self._settings = members, settings
        self._told: dict[str, Any] = {}

    def told(self) -> dict[str, Any]:
        """How what is in flight compares so far, and what was decided last; for people."""
        return {"enabled": self._settings.rollout is not None, **self._told}

    async def step(self, report: StepReport, state: ControllerState) -> ControllerState:
        """Take in what a slot's score says of the version in flight, and do what follows."""
        slot = state.slot
        assert slot is not None
        registry: RegistryState = await self._registry.state.remote()
        flight = registry.rollout.flight
        if flight is None:
            self._told = {}
            return replace(state, trial=None)
        trial = await self._compared(report, state, flight)
        if flight.since >= slot:  # decided in a step that was cut short, or by somebody just now
            return replace(state, trial=trial)
        verdict = self._verdict(trial, flight, registry, slot)
        self._told = {
            "slot": slot,
            "version": flight.version,
            "comparison": trial.to_json(),
            "verdict": verdict.move,
            "reasons": list(verdict.reasons),
        }
        if verdict.move != "hold":
            await self._move(verdict, flight, slot, trial.to_json())
        return replace(state, trial=trial)

    def settled(self, state: ControllerState, registry: RegistryState | None) -> ControllerState:
        """The state as the slot leaves it: its comparison is of what is in flight now."""
        flight = None if registry is None else registry.rollout.flight
        return replace(state, trial=None if flight is None else _trial_of(state, flight))

    async def sound(
        self, blocks: Sequence[ForecastBlock], registry: RegistryState | None, slot: int
    ) -> bool:
        """Whether the version in flight gave numbers wherever the champion did.

        One that did not is back at once. A person's own table, and what may go back by hand only,
        stay: where such a version has no numbers the champion answers.
        """
        flight = None if registry is None else registry.rollout.flight
        own, champion = block_of(blocks, CHALLENGER), block_of(blocks, CHAMPION)
        if flight is None or own is None or champion is None or own.version != flight.version:
            return True
        broken = np.isfinite(champion.values) & ~np.isfinite(own.values)
        series = int(broken.any(axis=(1, 3)).sum())
        if not series or not self._goes_back(flight):
            return True
        why = f"its forecasts of {series} series are not finite"
        await self._move(Verdict("back", (why,)), flight, slot, {})
        return False

    def seat(self, registry: RegistryState | None, servers: Sequence[str]) -> Seat | None:
        """Who stands in the champion's place for these servers; None for itself."""
        if registry is None or self._members.champion is None:
            return None
        live = self._members.issuing.values()
        return Seat.of(registry.rollout.table, self._members.champion, servers, tuple(live))

    async def _compared(self, report: StepReport, state: ControllerState, flight: Flight) -> Trial:
        roles = {one.name: one.role for one in await self._buffer.servers.remote(state.slot)}
        return _trial_of(state, flight).added(
            report.slot,
            report.loss_of(TRIAL_CALIBRATED),
            report.loss_of(CALIBRATED),
            [roles.get(server, "") for server in report.servers],
            self._settings.horizon,
        )

    def _verdict(self, trial: Trial, flight: Flight, registry: RegistryState, slot: int) -> Verdict:
        rules = self._settings.rollout
        if flight.stage == "operator":
            return Verdict("hold", ("somebody's own table",))
        if rules is None:
            return Verdict("back", ("rollouts are switched off",))
        if self._members.issuing.get(CHALLENGER) != flight.version:
            return Verdict("back", ("it cannot be loaded",))
        found = decide(trial, flight, rules, slot=slot)
        if found.move == "back" and not self._goes_back(flight):
            return Verdict("hold", ("it goes back by hand only", *found.reasons))
        if found.move in ("advance", "promote") and registry.paused is not None:
            return Verdict("hold", (str(registry.paused), *found.reasons))
        return found

    def _goes_back(self, flight: Flight) -> bool:
        """Whether there is an automatic way back: of what answers nobody there always is."""
        rules = self._settings.rollout
        if flight.stage == "operator":
            return False
        return flight.stage == "shadow" or rules is None or rules.automatic

    async def _move(
        self, verdict: Verdict, flight: Flight, slot: int, report: dict[str, Any]
    ) -> None:
        version = flight.version
        record = {"slot": slot, "who": "rollout", "reasons": verdict.reasons, "report": report}
        told = {"slot": slot, "version": version}
        try:
            if verdict.move == "promote":
                await self._registry.arrive.remote(version, **record)
            elif verdict.move == "advance":
                await self._registry.advance.remote(version, **record)
            else:
                await self._registry.back.remote(version, **record)
        except ArtifactError as error:
            # Ray's text of an actor's error holds its traceback; the error itself is its cause.
            why = getattr(error, "cause", None) or error
            damaged = {**record, "reasons": (f"its files are damaged: {why}",)}
            await self._registry.back.remote(version, **damaged)
        said = "; ".join(verdict.reasons)
        log.info("version %d, %s: %s: %s", version, flight.stage, verdict.move, said, extra=told)


def _trial_of(state: ControllerState, flight: Flight) -> Trial:
    """The comparison of what is in flight, as far as it is known."""
    known = state.trial
    return known if known is not None and known.of(flight) else Trial.fresh(flight)
