"""What learning brought, as HTTP tells it: the champion next to the frozen base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forecast.http.api import AccuracyAnswer, Answer
from forecast.http.series import begin_of, end_of
from forecast.record import Snapshot


class GainAnswer(Answer):
    """What learning brought a role: how far the champion's WQL lies below the frozen base's."""

    role: str
    """`all`: the whole fleet."""
    ratio: float
    """0.03 is 3 % less error; below zero learning did harm."""
    lower: float
    upper: float
    """One-sided bounds, each at 95 %, by resampled blocks of a horizon."""
    cells: int
    blocks: int


class LearningGain(Answer):
    """The champion next to the frozen base, on the servers that have such a twin."""

    version: int | None
    """The base."""
    since: str | None
    until: str | None
    restores_after_seconds: int
    """Below zero for so long, beyond noise, the anchor is restored; 0: it is only told."""
    gains: list[GainAnswer]


class GainedAccuracy(AccuracyAnswer):
    """Errors of the forecasts of record, and what learning brought."""

    learning_gain: LearningGain | None
    """Of the whole fleet and by role, over the last two weeks at most."""


def gain_of(told: Mapping[str, Any] | None, snapshot: Snapshot | None) -> LearningGain | None:
    """What learning brought, by what the controller tells; None where it tells nothing."""
    found = None if told is None else told.get("learning_gain")
    if found is None:
        return None
    return LearningGain(
        version=found["version"],
        since=begin_of(found["since_slot"], snapshot),
        until=end_of(found["through_slot"], snapshot),
        restores_after_seconds=3600 * found["hours"],
        gains=[GainAnswer(role=role, **gain) for role, gain in found["gains"].items()],
    )
