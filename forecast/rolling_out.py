"""Changes of the registry that roll a version out, or take it back: the controller's and people's.

The controller's carry their slot, so that a step done again changes nothing; a person's carry the
request, and may say what they saw: `expected`, the tag of the table that they decided by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

from forecast.artifact import Artifact
from forecast.audit import AuditLog, AuditRecord
from forecast.errors import Conflict, PreconditionFailed, RegistryError
from forecast.rollout import MOST_TRIALS, Flight, Stage, Table
from forecast.versions import RegistryState

Action = Literal["put", "promote", "pin", "shadow", "retire"]


class RollingOut:
    """The part of a registry that rolls versions out; see `forecast.registry.Registry`."""

    _state: RegistryState
    _audit: AuditLog
    _done: Callable[[str], AuditRecord | None]
    _commit: Callable[..., None]
    load: Callable[[int], Artifact]
    promote: Callable[..., RegistryState]

    def accept(
        self,
        version: int,
        *,
        slot: int,
        reasons: Sequence[str],
        who: str,
        update_id: str,
        stage: Stage = "shadow",
        canary_share: float,
        fast: bool = False,
        report: Mapping[str, Any] | None = None,
        anchor: int | None = None,
    ) -> RegistryState:
        """Let a version that the gate let pass begin its way to everyone, or wait for its turn.

        `anchor` names the version that is the anchor from now on. Raises UnknownVersion,
        ArtifactError, and RegistryError without a champion or while promotion is paused.
        """
        key = f"accept:{update_id}"
        if self._done(key) is None:
            state = self._state
            if state.champion is None:
                raise RegistryError(f"version {version}: there is no champion to go beside")
            if state.held is not None:
                raise RegistryError(f"version {version} is not rolled out: {state.held}")
            verdict = self._passed(version, update_id, reasons, report)
            flight = Flight(version, stage, slot, slot, canary_share, fast)
            rollout = state.rollout.accept(flight, slot=slot, champion=state.champion)
            detail = {"version": version, "beside": state.champion, **verdict}
            after = state.rolled(rollout, slot=slot).anchored(anchor)
            self._commit("accept", key, after, slot=slot, who=who, detail=detail)
        return self._state

    def advance(
        self,
        version: int,
        *,
        slot: int,
        who: str,
        reasons: Sequence[str],
        report: Mapping[str, Any],
    ) -> RegistryState:
        """Let the version in flight serve its canary cohort; nothing for another one."""
        state, key = self._state, f"rollout:advance:{version}:{slot}"
        if self._done(key) is None and _flies(state, version) and state.champion is not None:
            rollout = state.rollout.advance(slot=slot, champion=state.champion)
            detail = {
                "action": "advance",
                "version": version,
                "reasons": list(reasons),
                "report": report,
            }
            after = state.rolled(rollout, slot=slot)
            self._commit("rollout", key, after, slot=slot, who=who, detail=detail)
        return self._state

    def arrive(
        self,
        version: int,
        *,
        slot: int,
        who: str,
        reasons: Sequence[str],
        report: Mapping[str, Any],
    ) -> RegistryState:
        """Promote the version in flight; nothing for another one.

        Raises ArtifactError, and RegistryError while promotion is paused.
        """
        update_id = next(
            (one.update_id for one in self._state.versions if one.version == version), None
        )
        if update_id is None or not _flies(self._state, version):
            return self._state
        told = {"reasons": reasons, "report": report, "update_id": update_id}
        return self.promote(version, slot=slot, who=who, key=update_id, **told)

    def back(
        self,
        version: int,
        *,
        slot: int,
        who: str,
        reasons: Sequence[str],
        report: Mapping[str, Any],
    ) -> RegistryState:
        """Refuse the version in flight: the champion has every seat again, what waited begins."""
        state, key = self._state, f"rollout:back:{version}:{slot}"
        if self._done(key) is None and _flies(state, version):
            flight = state.rollout.flight
            assert flight is not None
            if flight.stage == "operator":  # a test says nothing of a version's past
                rollout = state.rollout.end(slot=slot, champion=state.champion)
                after = state.rolled(rollout, slot=slot)
            else:
                after = state.rejected(version, slot=slot)
            detail = {
                "action": "back",
                "version": version,
                "stage": flight.stage,
                "reasons": list(reasons),
                "report": report,
            }
            self._commit("rollout", key, after, slot=slot, who=who, detail=detail)
        return self._state

    def steer(
        self,
        action: Action,
        version: int | None = None,
        *,
        table: Table | None = None,
        keep: bool = True,
        slot: int,
        who: str,
        reason: str,
        key: str,
        dry_run: bool = False,
    ) -> RegistryState:
        """What a person asks for; the state after it. With `dry_run` it is told and not made.

        The same `key` again changes nothing. `keep` off takes a pin or a shadow away. Raises
        Conflict with the gate's report for a version that it did not let pass, UnknownVersion,
        ArtifactError, and RegistryError for what cannot be.
        """
        key = f"{action}:{key}"
        if self._done(key) is not None:
            return self._state
        state = self._asked(action, version, table=table, keep=keep, slot=slot)
        detail: dict[str, Any] = {"action": action, "version": version, "reason": reason}
        if action == "promote" and version is not None:
            detail |= {"replaces": self._state.champion}
            detail |= self._passed(version, None, [reason], None)
        if not dry_run:
            kind = "promote" if action == "promote" else "rollout"
            self._commit(kind, key, state, slot=slot, who=who, detail=detail)
        return state if dry_run else self._state

    def expect(self, expected: str | None, key: str) -> None:
        """Raise PreconditionFailed where `expected`, as If-Match has it, is not what stands.

        A request that was done before has nothing to expect.
        """
        if expected is None or self._audit.find(key) is not None or stands(self._state, expected):
            return
        raise PreconditionFailed(
            f"what was seen is {expected:.80}, what stands is {tag_of(self._state)}: look again"
        )

    def rollouts(self, limit: int) -> list[AuditRecord]:
        """The last changes of who answers for whom, newest first."""
        kinds = ("accept", "promote", "rollout", "rollback")
        return [*islice(self._audit.records(kinds=kinds, newest_first=True), limit)]

    def _passed(
        self,
        version: int,
        update_id: str | None,
        reasons: Sequence[str],
        report: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """What is recorded of a version that may serve; raises UnknownVersion, ArtifactError.

        Its files are verified first. `update_id` is the one that it was registered for, where it is
        None.
        """
        lineage = self.load(version).manifest.get("lineage", {})
        return {
            "update_id": update_id or self._state.info(version).update_id,
            "reasons": list(reasons),
            "report": report or {},
            "lineage": lineage,
        }

    def _asked(
        self, action: Action, version: int | None, *, table: Table | None, keep: bool, slot: int
    ) -> RegistryState:
        """The state with what was asked for."""
        state = self._state
        if action == "put":
            assert table is not None
            return self._with_table(table, slot)
        if version is None:
            raise RegistryError(f"{action}: which version?")
        if action == "promote":
            self._check_judged(version)
            if state.held is not None:
                raise RegistryError(f"version {version} is not promoted: {state.held}")
            return state.promoted(version, slot=slot)
        if action == "pin":
            return state.aliased(f"pin-{version}", version if keep else None)
        state.info(version)
        if action == "shadow":
            return _shadowed(state, version, keep, slot)
        return state.retired(version, slot=slot)

    def _with_table(self, table: Table, slot: int) -> RegistryState:
        state = self._state
        if state.champion is None:
            raise RegistryError("there is no champion yet: nothing can be rolled out beside it")
        for version in table.versions:
            self._check_judged(version)
        others = {*table.versions, *state.rollout.shadows} - {state.champion}
        _check_number(len(others))
        return state.rolled(state.rollout.put(table, slot=slot, champion=state.champion), slot=slot)

    def _check_judged(self, version: int) -> None:
        """Raise Conflict for a version that the gate, or its rollout, did not let pass."""
        state = self._state
        known = next((one.status for one in state.versions if one.version == version), None)
        if known in ("promoted", "withdrawn") or version in state.rollout.accepted:
            return
        kinds = ("promote", "accept", "reject", "rollout")
        for record in self._audit.records(kinds=kinds, newest_first=True):
            told = record.detail
            if told.get("version") != version or record.kind == "promote" or "reasons" not in told:
                continue
            said = "was refused: " + "; ".join(told["reasons"])
            if record.kind == "accept" or told.get("action") == "advance":
                said = "passed the gate, and was superseded or dropped before it was champion"
            raise Conflict(f"version {version} {said}", report=told["report"])
        state.info(version)
        raise Conflict(f"version {version} was not judged by the gate yet")


def _shadowed(state: RegistryState, version: int, keep: bool, slot: int) -> RegistryState:
    """With a version computed and scored beside the others, or no longer."""
    others = tuple(one for one in state.rollout.shadows if one != version)
    if keep and version == state.champion:
        raise RegistryError(f"version {version} is the champion: it is computed already")
    shadows = (*others, version) if keep else others
    if keep:
        _check_number(len({*state.rollout.versions, *shadows} - {state.champion}))
    return state.rolled(replace(state.rollout, shadows=shadows), slot=slot)


def _check_number(others: int) -> None:
    if others > MOST_TRIALS:
        raise RegistryError(f"{others} versions beside the champion, at most {MOST_TRIALS} can be")


def tag_of(state: RegistryState) -> str:
    """What says that champion and table are the same as before: an entity tag.

    >>> tag_of(RegistryState())
    '"0-0"'
    """
    return f'"{state.champion or 0}-{state.rollout.changed}"'


def stands(state: RegistryState, expected: str) -> bool:
    """Whether a list of tags, as If-Match has it, names what stands; `*` names whatever does.

    The champion's number alone stands for any table of its.
    """
    known = {"*", tag_of(state), f'"{state.champion or 0}"'}
    return any(tag.strip().removeprefix("W/") in known for tag in expected.split(","))


def _flies(state: RegistryState, version: int) -> bool:
    return state.rollout.flight is not None and state.rollout.flight.version == version
