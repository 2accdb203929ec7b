"""Which samples of a block are refused and why, as rejects in the order of the request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from forecast.schema import Reject, SampleBlock

BoolArray = NDArray[np.bool_]


class Refusals:
    """Why samples of a block are not kept; a reason given later takes the place of an earlier."""

    def __init__(self, block: SampleBlock) -> None:
        self._block = block
        self._reasons: list[tuple[str, str]] = [("", "")]
        self._why = np.zeros(len(block), dtype=np.int32)
        """By sample, which reason; 0 for none."""

    def refuse(self, samples: BoolArray, reason: str, detail: str) -> None:
        """Refuse some of the samples, or none."""
        if samples.any():
            self._why[samples] = len(self._reasons)
            self._reasons.append((reason, detail))

    def servers_left(self) -> BoolArray:
        """By the block's servers, which ones have a sample that is not refused."""
        left = np.zeros(len(self._block.servers), dtype=np.bool_)
        left[self._block.server_index[self._why == 0]] = True
        return left

    def kept(self) -> SampleBlock:
        """The block without what is refused."""
        block, kept = self._block, self._why == 0
        if kept.all():
            return block
        return replace(
            block,
            server_index=block.server_index[kept],
            metric_index=block.metric_index[kept],
            time_ms=block.time_ms[kept],
            value=block.value[kept],
            row_index=None if block.row_index is None else block.row_index[kept],
        )

    def rejects(self) -> tuple[Reject, ...]:
        """One for each sample, or for each row and reason where the block knows its rows."""
        block = self._block
        found: dict[tuple[int, str, str | None], Reject] = {}
        for at in np.flatnonzero(self._why):
            reason, detail = self._reasons[self._why[at]]
            index = int(at if block.row_index is None else block.row_index[at])
            # Time and server are the row's, and refuse it whole; a metric is refused by itself.
            whole = block.row_index is not None and reason != "unknown_metric"
            metric = None if whole else block.metrics[block.metric_index[at]]
            found.setdefault((index, reason, metric), Reject(index, reason, detail, metric))
        return tuple(sorted(found.values(), key=lambda reject: reject.index))
