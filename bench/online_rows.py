"""Buffers that hand out other training windows than the product's, for rows to compare with."""

from __future__ import annotations

from typing import Any

from actors.buffer import BufferActor
from connect.replay import Replay
from forecast.schema import SampleBlock
from forecast.windows import RawWindows
from train.buffer import AppendReport, Buffer


class FreshBuffer(BufferActor):
    """Updates learn from all windows whose labels have come, up to the last one: nothing held out.

    `reach` moves the newest label that is learned from: 0 is the newest there is. Above that it
    asks for labels of the future, which a buffer without foresight answers as gaps.
    """

    def __init__(self, *, reach: int = 0, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        self._horizon, self._reach = int(settings["horizon"]), reach
        self._source = self._buffer

    async def draw(self, **query: Any) -> RawWindows:  # noqa: ANN401
        """Training windows with labels up to `as_of` + `reach`; `holdout_hours` is not heeded."""
        # A draw leaves two horizons before `as_of`: the labels' own, and a gap before a holdout.
        upto = query["as_of"] + self._horizon + self._reach
        return self._source.draw(**{**query, "as_of": upto, "holdout_hours": 0})


class LeakyBuffer(FreshBuffer):
    """LEAKY, for an upper bound: updates see labels up to a horizon, less one slot, ahead of now.

    So did much of the literature on online forecasting: all H labels of an origin were learned
    before the next origin was scored (github.com/salesforce/fsnet/issues/6). With a horizon of one
    slot nothing is ahead and this is `FreshBuffer`. It knows the future from the replay.
    """

    def __init__(self, *, replay: Replay, reach: int | None = None, **settings: Any) -> None:  # noqa: ANN401
        ahead = int(settings["horizon"]) - 1 if reach is None else reach
        super().__init__(reach=ahead, **settings)
        kept = {name: value for name, value in settings.items() if name not in _GUARDS}
        self._source = Buffer(**{**kept, "directory": None})
        self._replay, self._schema = replay, settings["schema"]
        self._known_to = replay.first_slot

    async def append(self, request_id: str, block: SampleBlock) -> AppendReport:
        """Keep a block; the one who knows the future hears so many slots more."""
        report = await super().append(request_id, block)
        clock = self._buffer.status().clock_slot
        if clock is not None and (upto := clock + self._reach + 1) > self._known_to:
            more, _ = self._replay.samples(self._known_to, upto, schema=self._schema)
            self._source.append(f"ahead-{self._known_to}", more)
            self._known_to = upto
        return report


_GUARDS = ("owner", "learning_free_bytes", "ingest_free_bytes", "replay_windows")
