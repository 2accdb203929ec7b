"""Drift in the controller: fed with every score, kept on disk, and what a confirmed one asks for.

    score of slot s ──► Drift.update ──► alarm ──► note in the audit log, training due at once
                            │ at the end of a block
                            ▼
                        drift-<slot>.fcar, named by the committed state

Between two blocks nothing is written: a start reads the file that the state names and is told the
slots since once more, from the reports that the ledger keeps. So the state after a kill is the same
to the bit, and a step writes little.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import numpy as np

from actors.settings import Settings
from actors.state import ControllerState, StateFile
from forecast.errors import StateError
from forecast.members import SEASONAL_NAIVE
from forecast.record import CHAMPION, ENSEMBLE
from forecast.scoring import StepReport
from train.drift import Drift
from train.drift_rules import Alarm

log = logging.getLogger("fleetcast.controller")

_HISTORY_DAYS = 7
"""So much of the stream from before the first forecast tells what the inputs usually do."""


class DriftWatch:
    """The controller's drift detection; without rules in the settings it does nothing."""

    def __init__(
        self, *, buffer: Any, ledger: Any, registry: Any, file: StateFile, settings: Settings
    ) -> None:
        self._buffer, self._ledger, self._registry = buffer, ledger, registry
        self._file, self._settings = file, settings
        self._drift: Drift | None = None
        self._changed = False
        self._told: dict[str, Any] = {}

    def told(self) -> dict[str, Any]:
        """Where it stands, for people."""
        return {"enabled": self._settings.drift is not None, **self._told}

    async def step(
        self, report: StepReport, state: ControllerState, known: ControllerState
    ) -> ControllerState:
        """Take in what a slot's score says; the state with what a confirmed drift asks for.

        `known` is the state that is committed. The same report again changes nothing.
        """
        if self._settings.drift is None:
            return state
        if self._drift is None:
            self._drift = await self._begun(report.slot, known)
        self._changed |= await self._update(self._drift, report)
        if self._changed:
            state = replace(state, drift_slot=self._drift.slot)
        alarm = next((one for one in self._drift.alarms if one.slot == report.slot), None)
        return state if alarm is None else await self._confirmed(alarm, state)

    async def save(self, state: ControllerState) -> None:
        """Write what the state names, before it is committed."""
        if self._changed and self._drift is not None and state.drift_slot is not None:
            data = await asyncio.to_thread(self._drift.pack)
            await asyncio.to_thread(self._file.save_part, "drift", state.drift_slot, data)

    def committed(self, state: ControllerState) -> None:
        """The state is on disk: what an older one named is not needed any more."""
        if self._changed and state.drift_slot is not None:
            self._file.drop_parts("drift", but=state.drift_slot)
            self._changed = False
        if self._drift is not None and (not self._told or self._drift.block_ended):
            self._told = self._drift.to_json()

    async def _confirmed(self, alarm: Alarm, state: ControllerState) -> ControllerState:
        slot = state.slot
        if alarm.acts:
            told = {"slot": slot, "servers": len(alarm.servers)}
            where = "the fleet" if alarm.fleet_wide else ", ".join(alarm.servers[:3])
            log.info("drift of %s is confirmed", where, extra=told)
            await self._registry.note.remote("drift", slot=slot, detail=alarm.to_json())
            # A retrain is long and learns the fleet: for a few servers it waits for its turn.
            if self._settings.online or alarm.fleet_wide:
                state = replace(state, drift_due=alarm.slot)
        if alarm.fleet_wide:
            state = replace(state, drift_since=alarm.fleet_since)
        return state

    async def _begun(self, slot: int, known: ControllerState) -> Drift:
        """What was known before a slot: from the file, or from the stream's history."""
        rules = self._settings.drift
        assert rules is not None
        if known.drift_slot is None or known.slot is None:
            return await self._from_history(slot)
        data = await asyncio.to_thread(self._file.part, "drift", known.drift_slot)
        if data is None:
            return await self._from_history(slot)
        try:
            drift = Drift.unpack(data, rules)
        except StateError as error:
            # It is worked out from the stream: forecasts need not wait for somebody to repair it.
            log.error("drift detection begins anew from the stream: %s", error)
            return await self._from_history(slot)
        if not drift.servers:  # it was told by other rules
            begun = await self._from_history(slot)
            begun.alarms = drift.alarms
            return begun
        for since in range(known.drift_slot + 1, slot):
            try:
                report = await self._ledger.score.remote(since, self._buffer.actuals.remote(since))
            except StateError:  # the settings changed, or it is older than what is kept
                continue
            await self._update(drift, report)
        return drift

    async def _from_history(self, slot: int) -> Drift:
        """Drift detection that has seen the days before a slot, of which nothing was forecast."""
        settings, rules = self._settings, self._settings.drift
        assert rules is not None
        drift, first = Drift(rules), (await self._buffer.status.remote()).first_slot
        for at in range(max(slot - 24 * _HISTORY_DAYS * settings.per_hour, first or 0), slot):
            servers, actuals = await self._buffer.actuals.remote(at)
            masked = await self._buffer.masked.remote(at, slot)
            actuals = np.where(np.isin(servers, masked)[:, None], np.nan, actuals)
            nothing = np.full(actuals.shape, np.nan)
            await self._seen(drift, at, servers, (actuals, nothing, nothing))
        self._changed = True
        return drift

    async def _update(self, drift: Drift, report: StepReport) -> bool:
        if report.actuals.shape[1] != len(drift.rules.targets):
            return False  # scored before the targets were others
        served = ENSEMBLE if ENSEMBLE in report.members else CHAMPION
        values = (report.actuals, report.loss_of(served), report.loss_of(SEASONAL_NAIVE))
        return await self._seen(drift, report.slot, report.servers, values)

    async def _seen(
        self, drift: Drift, slot: int, servers: tuple[str, ...], values: tuple[Any, Any, Any]
    ) -> bool:
        zones: dict[str, str] = {}
        held: tuple[str, ...] = ()
        if (slot + 1) % drift.rules.block == 0:
            known = await self._buffer.servers.remote(slot)
            zones = {one.name: one.timezone for one in known}
            held = await self._buffer.held.remote(slot)
        return await asyncio.to_thread(
            drift.update,
            slot=slot,
            servers=servers,
            actuals_NT=values[0],
            served_NT=values[1],
            naive_NT=values[2],
            timezones=zones,
            held=held,
        )
