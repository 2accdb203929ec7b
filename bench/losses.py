"""Loss series of a real model and real updates of it: what each lost, hour by hour.

A base is trained on the first days of Bitbrains and learns from later ones, as the product does it
with its defaults; every version then forecasts each hour of the days after. Their differences are
what a gate has to see through: not noise made up, but what training leaves behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors import arguments
from actors.trainer import make_trainer
from bench.configs import OFTEN
from bench.online_base import base_at
from bench.whole_stream import filled
from connect.replay import Replay, from_file
from forecast.artifact import Artifact, unpack
from forecast.config import Config
from forecast.config_files import load
from forecast.fit import Fit
from forecast.metrics import FloatArray
from forecast.windows import RawWindows
from train.buffer import Buffer
from train.jobs import UpdateJob
from train.paired import Losses, measure, wql
from train.trainer import Trainer

TARGETS = (
    "cpu_usage_ratio",
    "memory_usage_ratio",
    "network_receive_kb_per_s",
    "disk_write_kb_per_s",
)
_HISTORY_DAYS = 7


@dataclass(frozen=True, slots=True)
class Setting:
    """How much is trained and looked at."""

    days: int
    """Of the stream behind the history."""
    servers: int
    base_steps: int
    updates: int
    """Versions that learned from the base, each from the one before but for every third."""


def series(data: Path, setting: Setting, *, seed: int) -> Losses:
    """What every version lost in each hour (a block) after the last update; names are numbers.

    The servers are given three roles in turn, as Bitbrains tells none: a gate that looks at roles
    has three more chances to be wrong.
    """
    days = _HISTORY_DAYS + setting.days
    replay = from_file(
        data, targets=TARGETS, servers=setting.servers, days=days, history_days=_HISTORY_DAYS
    )
    config = load(
        OFTEN,
        data=replay.config(),
        overrides={"training": {"max_steps": setting.base_steps, "threads": 1, "seed": seed}},
    ).config
    buffer = filled(config, replay)
    trainer = make_trainer(**{**arguments.trainer(config), "workers": None, "bar": False})
    versions = list(_versions(trainer, buffer, config, replay.start_slot - 1, setting, seed))
    raw = _windows(buffer, config, replay)
    forecasts = {str(place): _forecast(each, config, raw) for place, each in enumerate(versions)}
    return _busy(measure(raw, config.panel.targets, config.panel.quantiles, forecasts))


def level(losses: Losses, model: str) -> float:
    """A version's WQL over the whole series: what is true of it."""
    found, _ = wql(losses, model)
    assert found is not None
    return found


def _versions(
    trainer: Trainer, buffer: Buffer, config: Config, start: int, setting: Setting, seed: int
) -> Iterator[Artifact]:
    """The base, then its updates, a few hours apart."""
    settings = arguments.settings(config)
    base = base_at(config, buffer, start, seed)
    yield base
    parent = base
    for turn in range(setting.updates):
        slot = start + turn * settings.update_every
        if turn % 3 == 0:
            parent = base
        windows = buffer.draw(
            as_of=slot,
            hours=settings.window_hours,
            count=settings.windows_per_update,
            seed=seed + slot,
            holdout_hours=settings.holdout_hours,
        )
        job = UpdateJob(f"update-{turn}", slot, seed + slot, turn)
        parent = trainer.update(job, parent, windows).artifact
        yield parent


def _windows(buffer: Buffer, config: Config, replay: Replay) -> RawWindows:
    """Every hour's windows of the streamed days, each server in one of three roles."""
    settings = arguments.settings(config)
    hours = (replay.end_slot - replay.start_slot) // settings.per_hour
    raw = buffer.holdout(as_of=replay.end_slot - 1, hours=hours, every=settings.horizon)
    names = sorted({*raw.servers})
    return replace(raw, roles=tuple("abc"[names.index(name) % 3] for name in raw.servers))


def _busy(losses: Losses) -> Losses:
    """Without the hours in which less than half as many labels came in as usual: outages."""
    cells = losses.cells_BRT.sum(axis=(1, 2))
    return _hours(losses, 2 * cells >= np.median(cells), {name: name for name in losses.pinball})


def _forecast(artifact: Artifact, config: Config, raw: RawWindows) -> FloatArray:
    model = unpack(artifact, fingerprint=None)
    panel = config.panel
    fit = Fit.of(
        model.spec,
        panel.schema_of(),
        context=panel.context_slots,
        horizon=panel.horizon_slots,
        levels=panel.quantiles,
    )
    return fit.predict(model, raw)


def part(losses: Losses, blocks: slice, models: Sequence[tuple[str, str, float]]) -> Losses:
    """A stretch of the series; of each (name, version, factor) the version's losses times it."""
    found = _hours(losses, blocks, {name: version for name, version, _ in models})
    pinball = {name: found.pinball[name] * factor for name, _, factor in models}
    return replace(found, pinball=pinball)


def _hours(
    losses: Losses, blocks: slice | NDArray[np.bool_], versions: Mapping[str, str]
) -> Losses:
    """These blocks of these versions, each under its name here."""
    return replace(
        losses,
        size_BRT=losses.size_BRT[blocks],
        cells_BRT=losses.cells_BRT[blocks],
        pinball={name: losses.pinball[of][blocks] for name, of in versions.items()},
        inside={name: losses.inside[of][blocks] for name, of in versions.items()},
    )
