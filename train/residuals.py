"""What the baselines' residual tables are made of: a stretch of the grid, masked slots as gaps."""

from __future__ import annotations

import numpy as np

from forecast.baselines import BaselineTables, residual_tables
from train.cuts import Masker
from train.intake import Intake


def residuals_of(
    intake: Intake,
    *,
    as_of: int,
    slots: int,
    levels: tuple[float, ...],
    horizon: int,
    masker: Masker | None = None,
) -> BaselineTables:
    """The residual quantiles of the last `slots` up to `as_of`, and the day before them."""
    schema, day = intake.schema, intake.roster.day
    names = [state.name for state in intake.roster.states(as_of)]
    read = np.arange(as_of - slots - day + 1, as_of + 1)
    history = intake.grid.gather(intake.roster.rows(names), read)
    if masker is not None:
        history[masker(names, read)] = np.nan
    return residual_tables(
        history[:, :, schema.target_columns],
        as_of=as_of,
        servers=names,
        targets=schema.targets,
        levels=levels,
        horizon=horizon,
        season=day,
    )
