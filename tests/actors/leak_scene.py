"""Streams whose future is other, and witnesses of what an update may see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from actors.backtest import play
from actors.buffer import BufferActor
from actors.trainer import TrainerActor
from connect.replay import Replay
from forecast.artifact import Artifact
from forecast.config import Config
from forecast.windows import RawWindows


class Scrambled:
    """A source whose values after a slot are noise; until then it is the one it was made of."""

    def __init__(self, source: Any, after: int, seed: int = 0) -> None:
        self._source, self._after, self._seed = source, after, seed

    def rows_by_slot(self, from_slot: int, to_slot: int) -> Iterator[tuple[int, list[Any]]]:
        for slot, rows in self._source.rows_by_slot(from_slot, to_slot):
            yield slot, [self._noise(slot, at, row) for at, row in enumerate(rows)]

    def _noise(self, slot: int, at: int, row: dict[str, Any]) -> dict[str, Any]:
        if slot <= self._after:
            return row
        draw = np.random.default_rng([self._seed, slot, at])
        values = {name: value * draw.uniform(0.1, 1.0) for name, value in row["metrics"].items()}
        return {**row, "metrics": values}


class Shifted:
    """A source in which, from a slot on, every value is a share of itself: a drift for good."""

    def __init__(self, source: Any, since: int, share: float) -> None:
        self._source, self._since, self._share = source, since, share

    def rows_by_slot(self, from_slot: int, to_slot: int) -> Iterator[tuple[int, list[Any]]]:
        for slot, rows in self._source.rows_by_slot(from_slot, to_slot):
            if slot >= self._since:
                rows = [
                    {**row, "metrics": {k: v * self._share for k, v in row["metrics"].items()}}
                    for row in rows
                ]
            yield slot, rows


def scrambled(replay: Replay, after: int) -> Replay:
    """The replay with noise after a slot."""
    return replace(replay, source=Scrambled(replay.source, after))


class Issued:
    """Keeps every forecast as issued: bytes by slot and member; and which slot is stepped."""

    def __init__(self, delay: int = 0) -> None:
        self.forecasts: dict[tuple[int, str], bytes] = {}
        self.stepped = -1
        self._delay = delay

    def issued(self, blocks: Sequence[Any]) -> None:
        for block in blocks:
            self.forecasts[block.slot, block.member] = block.values.tobytes()

    def scored(self, slot: int, servers: Sequence[str], actuals_ST: np.ndarray) -> None:
        self.stepped = slot + self._delay  # scoring is the first thing a step does

    def until(self, slot: int) -> dict[tuple[int, str], bytes]:
        """The forecasts issued at a slot or before."""
        return {key: values for key, values in self.forecasts.items() if key[0] <= slot}


class Witness(TrainerActor):
    """A trainer that writes down (what, the step's slot, the newest label that it was given)."""

    def __init__(self, *, seen: list[tuple[str, int, int]], clock: Issued, **settings: Any) -> None:
        super().__init__(**settings)
        self._seen, self._clock = seen, clock

    async def update(self, job: Any, champion: Artifact, windows: RawWindows) -> Any:
        self._seen.append(("update", job.slot, newest_label(windows)))
        return await super().update(job, champion, windows)

    async def train_base(self, job: Any, windows: RawWindows, validation: RawWindows) -> Any:
        newest = max(newest_label(windows), newest_label(validation))
        self._seen.append((job.kind, job.slot, newest))
        return await super().train_base(job, windows, validation)

    async def judge(self, challenger: Any, holdout: RawWindows, *others: Any) -> Any:
        self._seen.append(("judge", self._clock.stepped, newest_label(holdout)))
        return await super().judge(challenger, holdout, *others)


def newest_label(windows: RawWindows) -> int:
    """The last slot of which some window holds a label."""
    labels_NH = np.isfinite(windows.values[:, windows.context :]).any(axis=2)
    slots = windows.origin[:, None] + 1 + np.arange(windows.horizon)
    return int(slots[labels_NH].max())


async def watched(
    config: Config,
    replay: Replay,
    base: Artifact | None,
    *,
    slots: int,
    buffer: Callable[..., Any] = BufferActor,
    delay: int = 0,
    chunk_slots: int = 1,
) -> tuple[Issued, list[tuple[str, int, int]], dict[str, Any]]:
    """Play some slots of a replay; the forecasts, what the trainer saw, and the outcome."""
    issued, seen = Issued(delay), []
    told = await play(
        config,
        replay,
        [issued],
        stream_days=slots * config.panel.step / 86400,
        label_delay_s=delay * config.panel.step,
        base=base,
        buffer=buffer,
        trainer=partial(Witness, seen=seen, clock=issued),
        chunk_slots=chunk_slots,
    )
    assert told["last_failure"] is None
    return issued, seen, told
