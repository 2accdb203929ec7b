"""The runs behind the table of the bench of online learning: one replay each, in its own process.

Most rows of the table are members of one run. What differs between runs is what is learned:

    frozen    nothing: the base model stays
    default   the product as configured, learning on
    ensemble  the same, but accepted versions stay as weighted members
    naive     an update every hour on the sliding window up to now, and no gate
    leaky     LEAKY: the same on the windows that will be forecast until the next update, their
              labels included: what the literature does at every slot, at the pace of naive
    oracle    LEAKY: frozen, with a base model of the days after the first drift
    rollout   the default, but what passes the gate goes by shadow and canary
    periodic  a retrain from nothing every day on all that is kept, and no updates
    others    the default with one thing changed: another strategy, another moving part, a safeguard
              more or less
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.backtest import play, tally_of
from actors.buffer import BufferActor
from bench.configs import LAPTOP
from bench.online_base import cached_base, oracle_model
from bench.online_rows import FreshBuffer, LeakyBuffer
from bench.scenarios import Scenario, Scored, scenario
from forecast.artifact import Artifact
from forecast.config import Config
from forecast.config_files import load
from forecast.errors import ConfigError
from forecast.record import ForecastBlock
from forecast.tally import Tally

_HOURLY: Mapping[str, Any] = {
    "enabled": True,
    "update_frequency_minutes": 60,
    "windows_per_update": 256,
    "online_epochs": 5,
    "moving": "full",
    "enable_validation": False,
    "retrain_interval_hours": 0,
}
_ON: Mapping[str, Any] = {"enabled": True}
_DAILY = {
    "strategy": "periodic",
    "retrain_interval_hours": 24,
    # Costs are told as a share of this run's: it makes its retrains, and no more in a drift.
    "drift_detection_enabled": False,
}
RUNS: Mapping[str, Mapping[str, Any]] = {
    "periodic": {**_ON, **_DAILY},
    "naive": _HOURLY,
    "leaky": {**_HOURLY, "sliding_window_hours": 1},
    "ensemble": {**_ON, "strategy": "ensemble"},
    "replay": {**_ON, "strategy": "replay"},
    "sliding_window": {**_ON, "strategy": "sliding_window"},
    "last_layers": {**_ON, "moving": "last_layers"},
    "adapter": {**_ON, "moving": "adapter"},
    "full": {**_ON, "moving": "full"},
    "ewc": {**_ON, "ewc_weight": 1.0},
    "distillation": {**_ON, "distillation_weight": 0.5},
    "warm_restarts": {**_ON, "warm_restart_steps": 10},
    "active": {**_ON, "active_learning": True},
    "no_gate": {**_ON, "enable_validation": False},
    "no_drift": {**_ON, "drift_detection_enabled": False},
    "no_clipping": {**_ON, "gradient_clip_val": 1e6},
    "rollout": _ON,
    "default": _ON,
    "oracle": {"enabled": False},
    "frozen": {"enabled": False},
}
"""What each run says of `[online_learning]`, the longest first."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """Which stream, as the command line says it."""

    scenario: str
    data: Path
    targets: tuple[str, ...]
    servers: int | None
    days: float | None
    configs: tuple[Path, ...]
    cache: Path | None

    def stream(self) -> Scenario:
        """The scenario; raises ConfigError or DataError."""
        return scenario(
            self.scenario,
            data=self.data,
            targets=self.targets,
            servers=self.servers,
            days=self.days,
        )

    def config(self, stream: Scenario, *, run: str, seed: int) -> Config:
        """The product's configuration for this stream, with what the run changes about it."""
        day = 86400 / stream.replay.schema.step_seconds
        history = (stream.replay.start_slot - stream.replay.first_slot) / day
        overrides = _merged(
            {
                "training": {"threads": 1, "seed": seed},
                "limits": {"learning_free_mb": 1, "ingest_free_mb": 1},
                "buffer": {"history_days": max(35, round(history) + 1)},
            },
            stream.config,
            {"online_learning": RUNS[run], "rollout": {"enabled": run == "rollout"}},
        )
        data = stream.replay.config()
        return load(self.configs or (LAPTOP,), data=data, overrides=overrides).config


@dataclass(frozen=True, slots=True)
class Outcome:
    """One finished run."""

    run: str
    seed: int
    tally: Tally
    hours: Tally | None
    """By hour, of the servers that drift only; None where none does."""
    updates: tuple[tuple[int, str], ...]
    """(slot, verdict) of every update, in order."""
    last_failure: str | None
    """Why the last training failed; None once one did not."""
    steps: int
    cpu_s: float
    seconds: float


def outcomes(
    wishes: Wishes, runs: Sequence[str], seeds: Sequence[int], *, processes: int
) -> Iterator[Outcome]:
    """Every run with every seed, as they end; each has one torch thread.

    The base models are trained first, one per seed: all runs of a seed start from the same one.
    """
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(_prepare, wishes, seed) for seed in seeds]:
            done.result()
        ordered = [run for run in RUNS if run in runs]
        jobs = [pool.submit(one, wishes, run, seed) for run in ordered for seed in seeds]
        for job in as_completed(jobs):
            yield job.result()


def one(wishes: Wishes, run: str, seed: int) -> Outcome:
    """One run with one seed, in this process."""
    torch.set_num_threads(1)
    began = time.monotonic()
    stream = wishes.stream()
    config = wishes.config(stream, run=run, seed=seed)
    base = _base(config, stream, run, wishes.cache)
    tally = tally_of(config, stream.replay)
    counted = tally if stream.scored is None else Restricted(tally, stream.scored)
    hours = _hours(config, stream)
    buffers: dict[str, Callable[..., Any]] = {
        "naive": FreshBuffer,
        "leaky": partial(LeakyBuffer, replay=stream.replay, reach=_foresight(config)),
    }
    spent = time.process_time()
    told = asyncio.run(
        play(
            config,
            stream.replay,
            [counted] if hours is None else [counted, hours],
            stream_days=config.buffer.history_days * 1000.0,  # as far as the stream goes
            base=base,
            buffer=buffers.get(run, BufferActor),
        )
    )
    updates = [(each["slot"], each["verdict"]) for each in told["updates"]]
    return Outcome(
        run=run,
        seed=seed,
        tally=tally,
        hours=None if hours is None else hours.tally,
        updates=tuple(updates[1:]),  # the first is the base
        last_failure=told["last_failure"],
        steps=told["streamed_slots"],
        cpu_s=time.process_time() - spent,
        seconds=time.monotonic() - began,
    )


def _base(config: Config, stream: Scenario, run: str, cache: Path | None) -> Artifact:
    if run != "oracle":
        return cached_base(config, stream.replay, cache)[0]
    if not stream.drifts:
        raise ConfigError(f"{stream.name} has no drift, after which an oracle could be trained")
    return oracle_model(config, stream.replay, stream.drifts[0].from_slot)


def _hours(config: Config, stream: Scenario) -> Restricted | None:
    """A tally by hour of the servers that drift, from the start of the stream on."""
    named = {name for drift in stream.drifts for name in drift.servers}
    if not named:
        return None
    tally = tally_of(config, stream.replay, day_slots=max(1, 3600 // config.panel.step))
    span = (stream.replay.start_slot, stream.replay.end_slot)
    return Restricted(tally, Scored(tuple(sorted(named)), *span))


def _foresight(config: Config) -> int:
    """Slots ahead of an update to the last label of a forecast made before the next one."""
    every = max(1, config.online_learning.update_frequency_minutes * 60 // config.panel.step)
    return config.panel.horizon_slots - 1 + every - 1


class Restricted:
    """Tells a tally only of the servers and slots that are scored."""

    def __init__(self, tally: Tally, scored: Scored) -> None:
        self.tally, self._scored = tally, scored

    def issued(self, blocks: Sequence[ForecastBlock]) -> None:
        """All of them: which servers count is seen when they are scored."""
        self.tally.issued(blocks)

    def scored(self, slot: int, servers: Sequence[str], actuals_ST: np.ndarray) -> None:
        """The rows of the servers that count."""
        if self._scored.from_slot <= slot < self._scored.to_slot:
            rows = [at for at, name in enumerate(servers) if name in self._scored.servers]
            self.tally.scored(slot, [servers[at] for at in rows], actuals_ST[rows])


def _prepare(wishes: Wishes, seed: int) -> None:
    """Train the base model of a seed, unless the cache has it."""
    torch.set_num_threads(1)
    stream = wishes.stream()
    cached_base(wishes.config(stream, run="frozen", seed=seed), stream.replay, wishes.cache)


def in_folder(wishes: Wishes, folder: Path) -> Wishes:
    """The same wishes with a cache for base models: processes hand them on through it."""
    return wishes if wishes.cache is not None else replace(wishes, cache=folder)


def _merged(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merged key by key; later ones win."""
    made: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            known = made.get(key)
            if isinstance(known, dict) and isinstance(value, Mapping):
                made[key] = _merged(known, value)
            else:
                made[key] = value
    return made
