"""A made-up fleet for tests of drift: busy by day, less so at weekends, in local time."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np

from train.drift import Drift
from train.drift_rules import DriftRules

STEP_S, DAY = 1200, 72
BEGIN = DAY * 4 * 365
"""Some day of 1974."""


def rules(**changes):
    usual = {
        "detector": "cusum",
        "targets": ("cpu",),
        "resolutions": (0.001,),
        "step_seconds": STEP_S,
        "block": 3,
    }
    return DriftRules(**{**usual, **changes})


def hours_of(slots, zone):
    """The local hour, with its fraction, and the local weekday of each slot."""
    there = [datetime.fromtimestamp(slot * STEP_S, ZoneInfo(zone)) for slot in slots]
    hours = np.array([one.hour + one.minute / 60 for one in there])
    return hours, np.array([one.weekday() for one in there])


class Scene:
    """So many servers for so many days; change `cpu`, `served`, `naive` [W, N] as you like."""

    def __init__(self, *, servers=8, days=18, zone="UTC", begin=BEGIN, seed=1):
        rng = np.random.default_rng(seed)
        self.zone, self.first = zone, begin
        slots = range(begin, begin + days * DAY)
        self.hours, self.weekdays = hours_of(slots, zone)
        shape = (len(self.hours), servers)
        self.busy = np.exp(-np.square((self.hours - 14) / 4))[:, None]
        load = self.busy * np.where(self.weekdays < 5, 1.0, 0.2)[:, None]
        self.cpu = 0.2 + 0.4 * load + 0.03 * rng.standard_normal(shape)
        self.naive = 0.05 * np.exp(0.3 * rng.standard_normal(shape))
        self.served = 0.6 * self.naive * np.exp(0.2 * rng.standard_normal(shape))

    def watched(self, drift=None, *, copies=1, upto=None, **how):
        """Drift detection after all of it; each server so many times under names of its own."""
        drift = Drift(rules()) if drift is None else drift
        servers = self.cpu.shape[1]
        names = [f"c{copy:03d}-s{one}" for copy in range(copies) for one in range(servers)]
        for at in range(len(self.cpu) if upto is None else upto):
            parts = [
                np.tile(one[at], copies)[:, None] for one in (self.cpu, self.served, self.naive)
            ]
            drift.update(
                slot=self.first + at,
                servers=names,
                actuals_NT=parts[0],
                served_NT=parts[1],
                naive_NT=parts[2],
                timezones=dict.fromkeys(names, self.zone),
                **how,
            )
        return drift

    def fleet_alarms(self, drift):
        """The fleet-wide alarms: when, and since when, in days from the begin."""
        return [
            ((one.slot - self.first) / DAY, (one.fleet_since - self.first) / DAY)
            for one in drift.alarms
            if one.fleet_wide
        ]
