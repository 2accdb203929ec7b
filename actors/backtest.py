"""A backtest: a replay through the production controller in event time, and what it was worth.

Prequential: at each slot what matured is scored with the forecast as it was issued, only then is
anything learned from it. Everything is as in the running fleet: forecasts of record are issued
before their slots come, updates take effect `update_latency_slots` after they were asked for, the
gate decides. Only the state is a temporary folder, and trainings run in this process.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from actors.buffer import BufferActor
from actors.ledger import LedgerActor
from actors.local import LocalFleet
from actors.trainer import TrainerActor
from connect.dump import Dump
from connect.replay import Replay
from forecast.artifact import Artifact
from forecast.clock import slots_per_day
from forecast.config import Config, seconds
from forecast.errors import ConfigError
from forecast.record import ForecastBlock, Snapshot
from forecast.schema import SampleBlock
from forecast.seat import Seat
from forecast.tally import Tally
from forecast.verdicts import UpdateRecord

_CHUNK_SLOTS = 96
"""Slots of history in one append: no more than the controller steps through at once."""

_KEPT_SLOTS = 48
"""Blocks are kept for so much longer than needed: a ledger saves its sums the less often for it."""


class Watcher(Protocol):
    """Sees every forecast when it is issued and every slot when it is scored, in that order."""

    def issued(self, blocks: Sequence[ForecastBlock]) -> None:
        """The blocks of record of one slot, one per member."""

    def scored(self, slot: int, servers: Sequence[str], actuals_ST: np.ndarray) -> None:
        """The actuals [S, T] of one slot, as they were scored."""


class WatchedLedger(LedgerActor):
    """The ledger of a replay: tells watchers, and keeps the last snapshot in memory only."""

    def __init__(self, *, watchers: Sequence[Watcher], **settings: Any) -> None:
        super().__init__(**settings)
        self._watchers = tuple(watchers)
        self._newest: Snapshot | None = None

    async def issue(
        self, blocks: Sequence[ForecastBlock], seat: Seat | None = None
    ) -> tuple[ForecastBlock, ...]:
        """Keep forecasts of record; see `LedgerActor.issue`."""
        kept = await super().issue(blocks, seat)
        for watcher in self._watchers:
            watcher.issued(kept)
        return kept

    async def score(
        self,
        slot: int,
        actuals: tuple[tuple[str, ...], np.ndarray],
        masked: Collection[str] = (),
    ) -> Any:
        """Join a slot's actuals with the forecasts made for it; see `LedgerActor.score`."""
        report = await super().score(slot, actuals, masked)
        for watcher in self._watchers:
            watcher.scored(slot, *actuals)
        return report

    async def publish(self, snapshot: Snapshot) -> None:
        """Nobody reads a replay's snapshots, and it is never gone on with: none is stored."""
        self._newest = snapshot

    async def latest(self) -> Snapshot | None:
        """The last snapshot."""
        return self._newest


def run(
    config: Config,
    replay: Replay,
    *,
    label_delay: str = "0s",
    training_seed: int | None = None,
    **wishes: Any,
) -> dict[str, Any]:
    """`backtest`, as commands ask for it; raises ConfigError for a delay that is no duration."""
    try:
        delay_s = seconds(label_delay)
    except ValueError as error:
        raise ConfigError(f"--label-delay: {error}") from error
    if training_seed is not None:
        training = config.training.model_copy(update={"seed": training_seed})
        config = config.model_copy(update={"training": training})
    return asyncio.run(backtest(config, replay, label_delay_s=delay_s, **wishes))


async def backtest(
    config: Config,
    replay: Replay,
    *,
    stream_days: float,
    label_delay_s: int = 0,
    dump: Path | None = None,
    dump_every: int = 1,
) -> dict[str, Any]:
    """What every member's forecasts of the streamed days were worth, and what was learned.

    `label_delay_s` is how much later than its value a slot is scored and learned from. `dump` is
    where every `dump_every`-th origin's quantiles go (`connect.dump`). Raises ConfigError when not
    one slot would be streamed, or the delay is no whole number of steps or longer than a day.
    """
    began = time.monotonic()
    tally = tally_of(config, replay)
    with ExitStack() as open_files:
        watchers: list[Watcher] = [tally]
        if dump is not None:
            file = Dump(dump, targets=config.panel.targets, every=dump_every)
            watchers.append(open_files.enter_context(closing(file)))
        told = await play(
            config, replay, watchers, stream_days=stream_days, label_delay_s=label_delay_s
        )
    return {
        "fleet": config.fleet,
        "step_seconds": config.panel.step,
        "label_delay_seconds": label_delay_s,
        **told,
        **tally.report(),
        "seconds": round(time.monotonic() - began, 1),
    }


def tally_of(config: Config, replay: Replay, day_slots: int | None = None) -> Tally:
    """An empty tally of the streamed slots, by UTC day unless its days are to be shorter."""
    return Tally(
        targets=config.panel.targets,
        levels=config.panel.quantiles,
        horizon=config.panel.horizon_slots,
        day_slots=day_slots or slots_per_day(config.panel.step),
        since=replay.start_slot,
    )


async def play(
    config: Config,
    replay: Replay,
    watchers: Sequence[Watcher],
    *,
    stream_days: float,
    label_delay_s: int = 0,
    base: Artifact | None = None,
    buffer: Callable[..., Any] = BufferActor,
    trainer: Callable[..., Any] = TrainerActor,
    chunk_slots: int = 1,
) -> dict[str, Any]:
    """Replay the history and the streamed days, told to the watchers; what was learned.

    With `base` that model serves from the start of the stream; without it one is trained when it
    becomes due. `chunk_slots` is how many streamed slots are appended at a time, which changes no
    forecast. Raises as `backtest`.
    """
    end, delay = _end(config, replay, stream_days), _delay(config, label_delay_s)
    with tempfile.TemporaryDirectory(prefix="fleetcast-backtest-") as folder:
        fleet = LocalFleet(
            _here(config, Path(folder)),
            now=lambda: 0.0,
            buffer=buffer,
            ledger=partial(_ledger, watchers, delay),
            trainer=trainer,
            label_delay=delay,
            keep_state=False,
        )
        try:
            if base is not None:
                await _register(fleet, base, replay.start_slot - 1)
            for request_id, block in _blocks(config, replay, end, chunk_slots):
                await fleet.append(request_id, block)
            updates = await fleet.registry.updates.remote(1_000_000)
            changes = await fleet.registry.rollouts.remote(1_000_000)
        finally:
            await fleet.close()
    arrived = {one.detail["update_id"] for one in changes if one.kind == "promote"}
    told = [_told(update, arrived) for update in reversed(updates)]
    verdicts = Counter(one["verdict"] for one in told)
    return {
        "streamed_slots": end - replay.start_slot,
        **{name: verdicts[name] for name in ("promoted", "accepted", "rejected")},
        "updates": told,
        "last_failure": fleet.controller.last_failure,
    }


def _told(update: UpdateRecord, arrived: Collection[str | None]) -> dict[str, Any]:
    """A verdict, and of what a rollout took on whether it came to be champion.

    `accepted` is what did not: it is on its way, was taken back on it, or gave way to a newer one.
    """
    passed = update.verdict == "accepted" and update.update_id in arrived
    return {
        "update_id": update.update_id,
        "slot": update.slot,
        "verdict": "promoted" if passed else update.verdict,
        "relative_change": update.report.get("relative_change"),
    }


def _ledger(watchers: Sequence[Watcher], delay: int, **settings: Any) -> WatchedLedger:
    """A watched ledger in memory, which keeps blocks for as long as their labels may take."""
    settings["retain_slots"] = settings["horizon"] + delay + _KEPT_SLOTS
    return WatchedLedger(watchers=watchers, in_memory=True, **settings)


async def _register(fleet: LocalFleet, base: Artifact, slot: int) -> None:
    """Let a model that was trained before serve from the start."""
    given = {"slot": slot, "update_id": f"base-{slot}"}
    version = await fleet.registry.register.remote(base, **given)
    reasons = ("the model that was given",)
    await fleet.registry.promote.remote(
        version, who="backtest", report={}, reasons=reasons, **given
    )


def _end(config: Config, replay: Replay, stream_days: float) -> int:
    slots = round(stream_days * 86400 / config.panel.step)
    end = min(replay.end_slot, replay.start_slot + slots)
    if end <= replay.start_slot:
        raise ConfigError(f"{stream_days} days are no slot of {config.panel.step} s")
    return end


def _delay(config: Config, label_delay_s: int) -> int:
    slots, rest = divmod(label_delay_s, config.panel.step)
    if rest or not 0 <= label_delay_s <= 86400:
        raise ConfigError(
            f"a label delay of {label_delay_s} s is no whole number of steps of "
            f"{config.panel.step} s up to a day"
        )
    return slots


def _here(config: Config, folder: Path) -> Config:
    """The same configuration on a state of its own; an update takes effect at its own slot."""
    learning = config.online_learning.model_copy(update={"when_late": "wait"})
    trainer = config.trainer.model_copy(update={"workers": 0})
    return config.model_copy(
        update={
            "state_dir": folder,
            "storage_path": None,
            "buffer": config.buffer.model_copy(update={"acknowledge": "write"}),
            "online_learning": learning,
            "trainer": trainer,
        }
    )


def _blocks(
    config: Config, replay: Replay, end: int, chunk_slots: int
) -> Iterator[tuple[str, SampleBlock]]:
    """The history in chunks, then the stream, each block with its request id."""
    schema = config.panel.schema_of()
    slot = replay.first_slot
    while slot < end:
        history = slot < replay.start_slot
        most = slot + (_CHUNK_SLOTS if history else chunk_slots)
        upto = min(most, replay.start_slot if history else end)
        block, _ = replay.samples(slot, upto, schema=schema)
        yield f"slots-{slot}", block
        slot = upto
