"""What alarms are worth: how many incidents they meet, and how many meet none.

An alarm of a server lasts while any of its targets is in an episode (`forecast.alarms`). It is true
when it begins within an incident, give or take `TOLERANCE` slots, and then meets every incident
that it overlaps, give or take as much; begun in any other labelled slot it is false. So an alarm
that never ends, which overlaps everything, is worth nothing. Sums are kept by day.

W slots, S servers, T targets, X band widths, D days, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast.alarms import Episodes
from forecast.metrics import BoolArray, Float64Array

TOLERANCE = 6
"""Slots of five minutes before and after an incident in which an alarm meets it."""
HOLD, CLEAR = 1, 6
"""Slots outside after which an alarm begins, and inside after which it ends. Of the labelled
incidents of SMD every second one is over within 8 minutes: a longer hold time would hide them."""
WIDTHS = np.geomspace(0.5, 256.0, 145)
"""Half widths of the calibrated band of .1 to .9 that are swept: steps of 4.4 %."""
RECALLS = (0.5, 0.6, 0.7)

_RESAMPLES = 2000
_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums by day: incidents [D], those met [X, D], false alarms [X, D], labelled server-days [D].

    Several sets of days stand one behind the other.
    """

    incidents: Float64Array
    met: Float64Array
    false: Float64Array
    server_days: Float64Array


def alarms_of(
    deviations_WST: NDArray[np.float32], widths: Float64Array, *, hold: int = HOLD
) -> BoolArray:
    """Which servers are in an alarm [W, S, X] at each width, from the slot that tells it on."""
    slots, servers, targets = deviations_WST.shape
    names = tuple(map(str, range(servers)))
    episodes = Episodes.none((targets, len(widths)), hold=hold, clear=CLEAR)
    firing = np.zeros((slots, servers, len(widths)), bool)
    for slot, found in enumerate(deviations_WST):
        known = np.broadcast_to(np.isfinite(found)[..., None], (servers, targets, len(widths)))
        episodes = episodes.after(slot, names, found[..., None] > widths, known)
        firing[slot] = episodes.firing.any(axis=1)
    return firing


def counts(
    firing_WSX: BoolArray, labels_WS: NDArray[np.int8], *, first_slot: int, day_slots: int
) -> Counts:
    """What alarms met, by day; slots labelled -1 count nowhere."""
    days = (first_slot + np.arange(len(labels_WS))) // day_slots
    days -= days[0]
    width, last = firing_WSX.shape[2], int(days[-1]) + 1
    incidents, labelled = np.zeros(last), np.zeros(last)
    met, false = np.zeros((width, last)), np.zeros((width, last))
    np.add.at(labelled, days, (labels_WS >= 0).sum(axis=1))
    for server in range(labels_WS.shape[1]):
        label = labels_WS[:, server]
        spans = runs_of(label == 1)
        reach = [slice(max(0, begin - TOLERANCE), end + TOLERANCE) for begin, end in spans]
        near = np.zeros(len(label), bool)
        for (begin, _), place in zip(spans, reach, strict=True):
            incidents[days[begin]] += 1
            near[place] = True
        for at in range(width):
            true = np.zeros(len(label), bool)
            for begin, end in runs_of(firing_WSX[:, server, at]):
                if near[begin]:
                    true[begin:end] = True
                elif label[begin] >= 0:
                    false[at, days[begin]] += 1
            for (begin, _), place in zip(spans, reach, strict=True):
                met[at, days[begin]] += true[place].any()
    kept = labelled > 0
    return Counts(incidents[kept], met[:, kept], false[:, kept], labelled[kept] / day_slots)


def runs_of(flags: BoolArray) -> list[tuple[int, int]]:
    """[begin, end) of each run of True.

    >>> runs_of(np.array([True, False, True, True]))
    [(0, 1), (2, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(one), int(two)) for one, two in edges.reshape(-1, 2)]


def at_recall(
    systems: Sequence[Sequence[Counts]], recall: float, *, seed: int
) -> tuple[Float64Array, Float64Array]:
    """False alarms per server-day, and the recall reached, of each system [Y, 1 + B].

    A system is told on several data sets; in each it has the width with the fewest false alarms
    whose recall is at least `recall`. NaN where no width reaches it. Days are drawn anew, the same
    ones for all systems; the first column is the sample itself.
    """
    rates, reached = [], []
    for sets in systems:
        rng = np.random.default_rng(seed)
        false, days, met, incidents = np.zeros((4, 1 + _RESAMPLES))
        for one in sets:
            count = len(one.server_days)
            drawn = rng.integers(0, count, (_RESAMPLES, count))
            times = np.stack([np.bincount(each, minlength=count) for each in drawn])
            times_BD = np.concatenate([np.ones((1, count)), times])
            asked = times_BD @ one.incidents
            found_BX, wrong_BX = times_BD @ one.met.T, times_BD @ one.false.T
            enough = found_BX >= recall * np.maximum(asked, 1)[:, None]
            best = np.where(enough, wrong_BX, np.inf)
            at = best.argmin(axis=1)
            rows = np.arange(len(at))
            lost = np.where(enough.any(axis=1), 0.0, np.nan)
            false = false + best[rows, at] + lost
            days = days + times_BD @ one.server_days
            met, incidents = met + found_BX[rows, at], incidents + asked
        rates.append(np.where(np.isfinite(false), false, np.nan) / days)
        reached.append(met / np.maximum(incidents, 1))
    return np.stack(rates), np.stack(reached)


def reduction(rates_Y: Float64Array) -> tuple[float | None, float | None, float | None]:
    """1 - second / first of rates [2, 1 + B], with the ends of its interval of 95 %."""
    frozen, online = rates_Y
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 1 - online / frozen
    known = found[1:][np.isfinite(found[1:])]
    if not np.isfinite(found[0]) or not len(known):
        return None, None, None
    low, high = np.quantile(known, _INTERVAL)
    return float(found[0]), float(low), float(high)
