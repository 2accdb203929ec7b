"""The fleet of the bench of federated learning: real servers in sites, cut in event time.

Sites learn from the first days and are scored on the later ones, one forecast an hour. New sites
are other servers, of which nothing is known before the last day of learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from actors.federated_arguments import spec_of
from bench.configs import LAPTOP
from bench.losses import TARGETS
from bench.whole_stream import filled
from connect.files import FileSource
from connect.grid import GridSource
from connect.replay import Replay
from forecast.clock import slots_per_day
from forecast.config import Config
from forecast.config_files import load
from forecast.errors import DataError
from forecast.model import ModelSpec
from forecast.schema import Schema
from forecast.windows import RawWindows
from train.buffer import Buffer


@dataclass(frozen=True, slots=True)
class Plan:
    """How many sites, how long, how much is learned. Every method makes the same steps in all."""

    sites: int
    servers: int
    """Of each site."""
    new_sites: int = 0
    train_days: int = 14
    test_days: int = 8
    rounds: int = 10
    steps: int = 6
    """Of each site in a round."""
    batch: int = 32
    """Windows of a step; of the central training twice as many."""
    local_steps: int = 100
    """Of the network that a site trains alone: at most, as training stops early."""
    central_steps: int = 150

    @property
    def name(self) -> str:
        """Sites times servers."""
        return f"{self.sites}x{self.servers}"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The streams of all sites, and which slots are for what."""

    plan: Plan
    config: Config
    schema: Schema
    spec: ModelSpec
    buffer: Buffer
    """Of every site, as it stands at the end of learning; each reads its own servers alone."""
    newcomers: Buffer
    """Of the new sites: it begins on the last day of learning."""
    later: Buffer
    """Of every site, to the end: what is scored is read here, and nothing is learned from it. A
    server that was silent for a day has a new life after it, which hides the one before."""
    later_newcomers: Buffer
    sites: tuple[tuple[str, ...], ...]
    new_sites: tuple[tuple[str, ...], ...]
    end: int
    """The last slot of learning."""
    last: int
    """The last slot that is scored."""

    @property
    def hours(self) -> int:
        """Of learning."""
        return self.plan.train_days * 24

    @property
    def first(self) -> int:
        """The first slot of the days that are scored."""
        return self.last - self.plan.test_days * slots_per_day(self.schema.step_seconds) + 1

    def tested(self, servers: Sequence[str] | None, *, new: bool = False) -> RawWindows:
        """Windows that are scored, an hour apart."""
        hours, horizon = self.plan.test_days * 24, self.spec.window.horizon
        buffer = self.later_newcomers if new else self.later
        return buffer.holdout(as_of=self.last, hours=hours, every=horizon, only=servers)


def fleet(data: Path, plan: Plan) -> Fleet:
    """The first servers of the file by name, in sites of neighbours.

    Raises DataError when the file has too few servers or days.
    """
    count = plan.sites * plan.servers
    named = count + plan.new_sites * plan.servers
    days = plan.train_days + plan.test_days
    source = FileSource.read(data, targets=TARGETS, servers=named, days=days)
    grid, day = GridSource.of(source), slots_per_day(source.schema.step_seconds)
    if len(grid.servers) < named or len(grid.values) < days * day:
        raise DataError(
            f"{data}: {len(grid.servers)} servers and {len(grid.values) // day} days, need "
            f"{named} and {days}"
        )
    config = _config(grid, source.infos[0].role)
    old = _part(grid, 0, count, 0)
    new = _part(grid, count, named, (plan.train_days - 1) * day) if plan.new_sites else old
    groups = [grid.servers[at : at + plan.servers] for at in range(0, named, plan.servers)]
    end = grid.first_slot + plan.train_days * day - 1
    role = source.infos[0].role
    last = grid.first_slot + days * day - 1
    return Fleet(
        plan=plan,
        config=config,
        schema=config.panel.schema_of(),
        spec=spec_of(config, (role,) if role else ()),
        buffer=_filled(config, old, end),
        newcomers=_filled(config, new, end),
        later=_filled(config, old, last),
        later_newcomers=_filled(config, new, last),
        sites=tuple(groups[: plan.sites]),
        new_sites=tuple(groups[plan.sites :]),
        end=end,
        last=last,
    )


def _part(grid: GridSource, start: int, stop: int, from_slot: int) -> GridSource:
    """Some servers of a fleet, from a slot on; nothing before it is known to anybody."""
    values = grid.values[from_slot:, start:stop]
    return replace(
        grid,
        servers=grid.servers[start:stop],
        infos=grid.infos[start:stop],
        first_slot=grid.first_slot + from_slot,
        values=np.ascontiguousarray(values),
    )


def _replay(grid: GridSource, last: int) -> Replay:
    """The fleet up to a slot."""
    end = last + 1
    return Replay("federated", grid, grid.schema, grid.first_slot, end, end)


def _config(grid: GridSource, role: str) -> Config:
    known = {"model": {"roles": [role]}} if role else {}
    data = _replay(grid, grid.last_slot).config()
    return load([LAPTOP], data=data, overrides=known).config


def _filled(config: Config, grid: GridSource, last: int) -> Buffer:
    """A buffer in memory that was given everything up to a slot."""
    return filled(config, _replay(grid, last))
