"""How busy a fleet is by hour of the day: what quiet hours are learned from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train.intake import Intake

_DAYS = 7
_FEWEST_DAYS = 2


def load_by_hour(intake: Intake, *, as_of: int) -> NDArray[np.float64] | None:
    """The fleet's mean load in each UTC hour [24] as a share of the day's, from the last 7 days.

    Each target counts alike, whatever its unit: its mean over servers, divided by its mean over
    the whole day. None before there are two whole days up to `as_of`, or without any load.
    """
    schema, day = intake.schema, intake.roster.day
    begin = intake.roster.first_slot()
    if begin is None or as_of - begin + 1 < _FEWEST_DAYS * day:
        return None
    days = min(_DAYS, (as_of - begin + 1) // day)
    slots = np.arange(as_of - days * day + 1, as_of + 1)
    hours = slots * schema.step_seconds // 3600 % 24
    targets = schema.target_columns
    sums, counts = np.zeros((2, 24, len(targets)))
    for row in range(intake.grid.capacity):  # row by row: the whole stretch at once would be large
        values = intake.grid.gather(np.array([row]), slots)[0][:, targets].astype(np.float64)
        seen = ~np.isnan(values)
        np.add.at(sums, hours, np.where(seen, np.abs(values), 0.0))
        np.add.at(counts, hours, seen)
    if not counts.all():
        return None
    means = sums / counts
    whole = means.mean(axis=0)
    if not (whole > 0).any():
        return None
    share: NDArray[np.float64] = (means[:, whole > 0] / whole[whole > 0]).mean(axis=1)
    return share
