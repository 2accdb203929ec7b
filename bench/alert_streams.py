"""The streams of the bench of alerts: labelled servers, replayed twice, and what was forecast.

Both systems are the production controller on the same stream and base model; one never learns. What
is kept of a run is, for each slot, what each member had said of it `lead` slots before. The labels
are read here, and by nothing that forecasts.

W slots, S servers, T targets, L leads, K members.
"""

from __future__ import annotations

import asyncio
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from actors.backtest import play
from bench.online_base import cached_base
from bench.online_runs import Wishes
from bench.scenarios import Scenario
from connect.files import FileSource
from connect.grid import GridSource
from connect.replay import Replay
from forecast.clock import slots_per_day
from forecast.config import seconds
from forecast.places import aligned
from forecast.record import ForecastBlock

Float32Array = NDArray[np.float32]

_FILE = Path(__file__).with_name("alerts.toml")
_QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A stream and its labels: -1 unlabelled, 0 normal, 1 incident."""

    name: str
    scenario: Scenario
    servers: tuple[str, ...]
    labels: NDArray[np.int8] = field(repr=False)
    """[W, S] of the streamed slots."""
    hide_hours: float
    """So many last hours of each day are partly determined by the earlier ones; 0: none."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What one run said of every streamed slot: `bands` [K, L, W, S, T, 3] are quantiles of .1, .5
    and .9, NaN where nothing was said; `actuals` [W, S, T]."""

    data: str
    run: str
    members: tuple[str, ...]
    leads: tuple[int, ...]
    bands: Float32Array = field(repr=False)
    actuals: Float32Array = field(repr=False)
    promoted: int
    rejected: int
    last_failure: str | None
    seconds: float


def names() -> tuple[str, ...]:
    """The labelled streams there are."""
    return tuple(tomllib.loads(_FILE.read_text(encoding="utf-8")))


def labelled(name: str, folder: Path, *, days: float | None = None) -> Labelled:
    """The named stream from its file in a folder; `days` streams only so many.

    Raises DataError naming the file when it cannot be read.
    """
    plan = tomllib.loads(_FILE.read_text(encoding="utf-8"))[name]
    path, step = folder / plan["file"], seconds(plan["step"])
    source = FileSource.read(
        path,
        targets=tuple(plan["targets"]),
        from_day=float(plan.get("from_day", 0)),
        step_seconds=step,
    )
    grid = _targets_alone(GridSource.of(source))
    day = slots_per_day(step)
    start = grid.first_slot + round(plan["history_days"] * day)
    end = grid.last_slot + 1
    if days is not None:
        end = min(end, start + round(days * day))
    made = Replay(f"alerts-{name}", grid, grid.schema, grid.first_slot, start, end)
    return Labelled(
        name,
        Scenario(f"alerts-{name}", plan["what"], made, {}, None, ()),
        grid.servers,
        _labels(path, grid, start, end),
        float(plan.get("hide_hours", 0)),
    )


def _targets_alone(grid: GridSource) -> GridSource:
    """The grid without what is no target: dozens of covariates would drown a handful of targets."""
    schema = grid.schema
    places = [schema.names.index(target) for target in schema.targets]
    slim = replace(schema, metrics=tuple(schema.metrics[at] for at in places))
    return replace(grid, schema=slim, values=np.ascontiguousarray(grid.values[..., places]))


def _labels(path: Path, grid: GridSource, start: int, end: int) -> NDArray[np.int8]:
    """The worst label of each slot [W, S]; -1 where there is none."""
    frame = pd.read_parquet(path, columns=["server", "timestamp", "incident"])
    step_ms = grid.schema.step_seconds * 1000
    slots = (frame["timestamp"].astype("datetime64[ms, UTC]").astype("int64") // step_ms) - start
    rows = np.array([grid.servers.index(str(name)) for name in frame["server"]])
    inside = ((slots >= 0) & (slots < end - start)).to_numpy()
    labels = np.full((end - start, len(grid.servers)), -1, np.int8)
    at = (slots.to_numpy()[inside], rows[inside])
    np.maximum.at(labels, at, frame["incident"].to_numpy()[inside].astype(np.int8))
    return labels


def prepare(wishes: Wishes, data: Labelled, seed: int) -> None:
    """Train the base model of a stream, unless the cache has it."""
    torch.set_num_threads(1)
    config = wishes.config(data.scenario, run="frozen", seed=seed)
    cached_base(config, data.scenario.replay, wishes.cache)


def listen(wishes: Wishes, data: Labelled, run: str, seed: int, leads: Sequence[int]) -> Heard:
    """One replay, in this process: `run` is `frozen` or `default` as in `bench.online_runs`."""
    torch.set_num_threads(1)
    began, replay = time.monotonic(), data.scenario.replay
    config = wishes.config(data.scenario, run=run, seed=seed)
    base, _ = cached_base(config, replay, wishes.cache)
    ear = Ear(
        members=MEMBERS,
        leads=leads,
        servers=data.servers,
        targets=config.panel.targets,
        slots=(replay.start_slot, replay.end_slot),
    )
    told = asyncio.run(
        play(config, replay, [ear], stream_days=1000.0 * config.buffer.history_days, base=base)
    )
    return Heard(
        data=data.name,
        run=run,
        members=MEMBERS,
        leads=tuple(leads),
        bands=ear.bands,
        actuals=ear.actuals,
        promoted=told["promoted"] - 1,  # the base
        rejected=told["rejected"],
        last_failure=told["last_failure"],
        seconds=time.monotonic() - began,
    )


MEMBERS = ("champion_calibrated", "ensemble")
"""Who is listened to: the model under the calibrator, and what the product answers."""


class Ear:
    """A watcher of a replay that keeps what was said of each slot so many slots before."""

    def __init__(
        self,
        *,
        members: Sequence[str],
        leads: Sequence[int],
        servers: Sequence[str],
        targets: Sequence[str],
        slots: tuple[int, int],
    ) -> None:
        self._members, self._leads = tuple(members), tuple(leads)
        self._servers, self._first = tuple(servers), slots[0]
        shape = (slots[1] - slots[0], len(servers), len(targets))
        self.actuals = np.full(shape, np.nan, np.float32)
        self.bands = np.full((len(members), len(leads), *shape, 3), np.nan, np.float32)

    def issued(self, blocks: Sequence[ForecastBlock]) -> None:
        """Keep the wanted quantiles of the wanted steps."""
        for block in blocks:
            if block.member not in self._members:
                continue
            who = self._members.index(block.member)
            at = [block.levels.index(level) for level in _QUANTILES]
            values = aligned(block.values, block.servers, self._servers)
            for place, lead in enumerate(self._leads):
                slot = block.slot + lead - self._first
                if 0 <= slot < len(self.actuals):
                    self.bands[who, place, slot] = values[:, lead - 1][..., at]

    def scored(self, slot: int, servers: Sequence[str], actuals_ST: np.ndarray) -> None:
        """Keep what came."""
        if 0 <= slot - self._first < len(self.actuals):
            self.actuals[slot - self._first] = aligned(
                np.asarray(actuals_ST, np.float32), tuple(servers), self._servers
            )


def about(heard: Sequence[Heard]) -> Mapping[str, Any]:
    """What the runs did, for the result's line."""
    told: dict[str, Any] = {}
    for one in heard:
        if one.run != "frozen":
            told[f"promoted_{one.data}"] = one.promoted
            told[f"rejected_{one.data}"] = one.rejected
    failures = "; ".join(one.last_failure for one in heard if one.last_failure)
    return {**told, "failures": failures or None}
