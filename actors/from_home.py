"""What the home site has learned with others, as a training that is due: judged as every other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from actors import handles
from actors.settings import Settings
from actors.state import ControllerState, Pending
from forecast.artifact import Artifact
from forecast.errors import NothingNew
from forecast.http.problems import original
from train.breaker import Outcome, fault_of
from train.jobs import Result

log = logging.getLogger("fleetcast.controller")

_ASK_S = 5.0
_FETCH_S = 60.0


class FromHome:
    """The part of `Learning` that takes global versions; `_home` has an `ask`, None: no site."""

    _home: Any
    _settings: Settings
    _pending: Callable[..., Pending]
    _silent_to = -1
    """Before this slot a site that did not answer is not asked again."""

    async def _from_home(self, state: ControllerState) -> Pending | None:
        """The global version that answers at home, where it was not taken before.

        One that learned from later slots than this step's waits for its slot. What is held out
        for the gate is what an update now would be judged on: the site learns from nothing of it.
        """
        slot, settings = state.slot, self._settings
        assert slot is not None
        if self._home is None or slot < self._silent_to:
            return None
        try:
            asked = {"timeout_s": _ASK_S}
            offer = await self._home.ask(handles.SITE, "offer", state.global_version, **asked)
        except Exception as error:  # whatever it is: a site never holds up the fleet's step
            self._silent_to = slot + settings.per_hour
            log.warning("the home site is asked again in an hour: %s", original(error))
            return None
        if offer is None or offer["slot"] > slot:
            return None
        hours = settings.holdout_since(slot - settings.label_delay, state.drift_since)
        due = replace(self._pending("federated", slot, None), global_version=offer["version"])
        # The number is kept, with this step, before anything is fetched.
        effect = max(due.effect_slot, slot + 1)
        return replace(due, effect_slot=effect, holdout_hours=hours)

    async def _taken(self, pending: Pending) -> Result:
        """The version that is pending.

        Raises NothingNew when the site has it no more, is away, or was taken out of the config.
        """
        if self._home is None:
            raise NothingNew(f"global version {pending.global_version}: this fleet is no site now")
        try:
            asked = {"timeout_s": _FETCH_S}
            got = await self._home.ask(handles.SITE, "offered", pending.global_version, **asked)
            lineage = {**got.manifest["lineage"], "update_id": pending.update_id}
            artifact = Artifact({**got.manifest, "lineage": lineage}, got.weights)
            return Result(pending.update_id, "federated", artifact, lineage["federated"])
        except NothingNew:
            raise
        except Exception as error:  # whatever it is: a site never holds up the fleet's step
            cause = original(error)
            told = f"{type(cause).__name__}: {cause}"
            raise NothingNew(f"global version {pending.global_version}: {told}") from error


def outcome_of(pending: Pending, report: Mapping[str, Any] | None) -> Outcome | None:
    """How a training ended that was judged, for the breaker; `report` is the gate's.

    None for a global version: what other sites made says nothing of this fleet's own learning.
    """
    if pending.kind == "federated" or not report:
        return None
    return Outcome(fault_of(report))
