"""What people change in the registry by hand: aliases, and pauses of promotion and learning."""

from __future__ import annotations

from collections.abc import Callable

from forecast.audit import AuditRecord
from forecast.pauses import Pause
from forecast.versions import RegistryState


class ByHand:
    """The part of a registry that is asked by people; see `forecast.registry.Registry`."""

    _state: RegistryState
    _done: Callable[[str], AuditRecord | None]
    _commit: Callable[..., None]

    def set_alias(
        self,
        name: str,
        version: int | None,
        *,
        slot: int,
        who: str,
        reason: str,
        key: str | None = None,
    ) -> RegistryState:
        """Let an alias (`challenger`, `anchor`, a pin) name a version, or drop it (None).

        Raises UnknownVersion, and RegistryError for an alias that only a promotion moves.
        """
        key = f"alias:{key or f'{slot}:{name}:{version}'}"
        if self._done(key) is None:
            state = self._state.aliased(name, version)
            detail = {"alias": name, "version": version, "reason": reason}
            self._commit("alias", key, state, slot=slot, who=who, detail=detail)
        return self._state

    def pause(
        self, *, reason: str, who: str, slot: int, learning: bool = False, key: str | None = None
    ) -> RegistryState:
        """Let nothing be promoted from now on; with `learning` no training starts either."""
        key = f"pause:{key or slot}"
        if self._done(key) is None:
            state = self._state.pausing(Pause(who, reason, slot, learning))
            assert state.paused is not None
            detail = {"reason": reason, "learning": state.paused.learning}
            self._commit("pause", key, state, slot=slot, who=who, detail=detail)
        return self._state

    def resume(self, *, reason: str, who: str, slot: int, key: str | None = None) -> RegistryState:
        """Let learning and promotion go on; an open circuit breaker closes by it too."""
        key = f"resume:{key or slot}"
        if self._done(key) is None:
            paused = self._state.paused
            detail = {"reason": reason, "paused": None if paused is None else str(paused)}
            self._commit("resume", key, self._state.resuming(), slot=slot, who=who, detail=detail)
        return self._state
