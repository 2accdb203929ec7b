"""GET /drift: who is watched for drift, who is nearest to an alarm, and the last alarms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forecast.http.api import Answer
from forecast.http.series import begin_of, end_of
from forecast.record import Snapshot


class NearestAnswer(Answer):
    """A server, and how far it is on its way to an alarm: 1 is there."""

    server: str
    level: float


class AlarmedAnswer(Answer):
    """A server that drifted, since when, and what said so: `loss`, or `level of cpu`."""

    server: str
    since: str | None
    channel: str


class AlarmAnswer(Answer):
    """Drift that was confirmed at one time."""

    confirmed: str | None
    count: int
    """How many servers; the first of them are in `servers`."""
    servers: list[AlarmedAnswer]
    share: float
    """Of the fleet, that drifted within a day."""
    fleet_wide: bool
    fleet_since: str | None
    update_due: bool
    """Whether it asked for an update at once; where there are no updates, the fleet's for a
    retrain."""


class DriftAnswer(Answer):
    """Where drift detection stands; `detector` is null while nothing is watched."""

    enabled: bool
    detector: str | None
    as_of: str | None
    servers: int
    watching: int
    """Servers that have had their warm-up."""
    fleet_since: str | None
    """Since when the fleet is another, by its last drift."""
    nearest: list[NearestAnswer]
    alarms: list[AlarmAnswer]
    """The newest first."""


def answer(told: Mapping[str, Any], snapshot: Snapshot | None) -> DriftAnswer:
    """What the controller told, with times for slots."""
    alarms = [
        AlarmAnswer(
            confirmed=end_of(one["slot"], snapshot),
            count=one["count"],
            servers=[
                AlarmedAnswer(server=server, since=begin_of(since, snapshot), channel=channel)
                for server, since, channel in zip(
                    one["servers"], one["since"], one["channels"], strict=True
                )
            ],
            share=one["share"],
            fleet_wide=one["fleet_wide"],
            fleet_since=begin_of(one["fleet_since"], snapshot),
            update_due=one["acts"],
        )
        for one in told.get("alarms", ())
    ]
    return DriftAnswer(
        enabled=told["enabled"],
        detector=told.get("detector"),
        as_of=end_of(told.get("slot"), snapshot),
        servers=told.get("servers", 0),
        watching=told.get("watching", 0),
        fleet_since=begin_of(told.get("fleet_since"), snapshot),
        nearest=[NearestAnswer(**one) for one in told.get("nearest", ())],
        alarms=alarms,
    )
