"""What the cheap members lost on a real stream, slot by slot: what drift detection watches.

The least-squares expert stands for the served forecast: it is fitted anew each hour, as in
production, and needs no network. Forecasts and losses are made by the product's own code.

W slots, S servers, T targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from actors import arguments
from actors.settings import Settings
from bench.configs import LAPTOP
from bench.scenarios import Scenario
from bench.whole_stream import filled, issued
from forecast.config import Config
from forecast.config_files import load
from forecast.ledger import Ledger, StepReport
from forecast.metrics import Float64Array
from train.buffer import Buffer
from train.drift import Drift

SERVED, NAIVE = "least_squares", "seasonal_naive"


@dataclass(frozen=True, slots=True)
class Losses:
    """Actuals and both members' losses, [W, S, T], from `first_slot` on; NaN is unknown.

    Before `start_slot` nothing was forecast.
    """

    servers: tuple[str, ...]
    first_slot: int
    start_slot: int
    actuals: Float64Array
    served: Float64Array
    naive: Float64Array

    @property
    def start(self) -> int:
        """The row with which forecasts begin."""
        return self.start_slot - self.first_slot

    def watched(self, drift: Drift) -> Drift:
        """The same drift detection once it has seen all of it."""
        zones = dict.fromkeys(self.servers, "UTC")
        for at in range(len(self.actuals)):
            drift.update(
                slot=self.first_slot + at,
                servers=self.servers,
                actuals_NT=self.actuals[at],
                served_NT=self.served[at],
                naive_NT=self.naive[at],
                timezones=zones,
            )
        return drift


def config_of(stream: Scenario) -> Config:
    """The product's configuration for a stream."""
    return load([LAPTOP], data=stream.replay.config(), overrides=stream.config).config


def losses_of(stream: Scenario, *, forecasts: bool = True) -> Losses:
    """Forecast and score every streamed slot; the history before has actuals only.

    Without `forecasts` the stream has actuals only, too: what drift detection sees of the inputs.
    """
    config = config_of(stream)
    replay, settings = stream.replay, arguments.settings(config)
    buffer = filled(config, replay)
    servers = tuple(state.name for state in buffer.servers(replay.end_slot - 1))
    shape = (replay.end_slot - replay.first_slot, len(servers), len(settings.schema.targets))
    made = np.full((3, *shape), np.nan)
    place = {name: at for at, name in enumerate(servers)}
    known = replay.start_slot if forecasts else replay.end_slot
    for slot in range(replay.first_slot, known):
        names, values = buffer.actuals(slot)
        made[0, slot - replay.first_slot, [place[name] for name in names]] = values
    for report in _reports(buffer, config, settings, known, replay.end_slot):
        at, rows = report.slot - replay.first_slot, [place[name] for name in report.servers]
        made[0, at, rows] = report.actuals
        made[1, at, rows], made[2, at, rows] = report.loss_of(SERVED), report.loss_of(NAIVE)
    return Losses(servers, replay.first_slot, replay.start_slot, *made)


def _reports(
    buffer: Buffer, config: Config, settings: Settings, start: int, end: int
) -> Iterator[StepReport]:
    """The score of every slot from `start` on, each forecast at the slots before."""
    given = arguments.ledger(config)
    kept = {name: given[name] for name in ("targets", "levels", "horizon", "step_seconds")}
    ledger = Ledger(path=None, retain_slots=settings.horizon, save_every=1, **kept)
    for slot, _, blocks in issued(buffer, settings, settings.members(), range(start, end)):
        yield ledger.score(slot, *buffer.actuals(slot))
        ledger.issue([block for block in blocks if block.member in (SERVED, NAIVE)])
    ledger.close()
