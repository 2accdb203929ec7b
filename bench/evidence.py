"""What the API promised during a drill, and whether it was kept.

A promise is an acknowledged value, which the buffer must have, or an answered forecast of record,
which the ledger must have with the same numbers.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import ray

from actors import handles
from actors.session import Session
from connect.replay import Replay
from connect.stream import Client
from forecast.config import Config

_ROUNDED = 1e-6
"""Answers carry seven digits."""


class Feed(threading.Thread):
    """Streams slot after slot until told to stop; keeps what was acknowledged."""

    def __init__(self, url: str, replay: Replay, patience_s: float) -> None:
        super().__init__(daemon=True)
        self._client = _Recording(url, step_s=replay.schema.step_seconds, patience_s=patience_s)
        self._session = Session(self._client, replay)
        self._replay = replay
        self._over = threading.Event()
        self.slots = 0
        self.error: Exception | None = None

    @property
    def acknowledged(self) -> dict[tuple[str, int, str], float]:
        """(server, slot, metric) -> the value that was acknowledged."""
        return self._client.acknowledged

    @property
    def retries(self) -> int:
        """Attempts that were made again."""
        return self._client.retries

    def run(self) -> None:
        try:
            for _ in self._session.stream(self._replay.start_slot, self._replay.end_slot):
                self.slots += 1
                if self._over.is_set():
                    return
        except Exception as error:  # handed to whoever stops the feed
            self.error = error

    def stop(self) -> None:
        """End after the slot under way; raises what went wrong in the thread."""
        self._over.set()
        self.join()
        if self.error is not None:
            raise self.error


class _Recording(Client):
    """A client that remembers every value the API said it keeps."""

    def __init__(self, url: str, *, step_s: int, patience_s: float) -> None:
        super().__init__(url, patience_s=patience_s)
        self._step_s = step_s
        self.acknowledged: dict[tuple[str, int, str], float] = {}

    def ingest(self, rows: Any, *, key: str) -> Any:  # noqa: ANN401 - JSON
        rows = list(rows)
        answer = super().ingest(rows, key=key)
        refused = {one["index"] for one in answer["rejected"]}
        for index, row in enumerate(rows):
            if index not in refused:
                slot = int(row["timestamp"]) // self._step_s
                for name, value in row["metrics"].items():
                    self.acknowledged[(row["server"], slot, name)] = value
        return answer


def lost(config: Config, feed: Feed) -> tuple[int, int]:
    """Acknowledged values that the buffer does not have, and how many were looked for."""
    buffer = handles.find(config.fleet, config.panel.name, handles.BUFFER)
    assert buffer is not None
    wanted = feed.acknowledged
    slots = sorted({slot for _, slot, _ in wanted})
    servers = sorted({server for server, _, _ in wanted})
    context = config.panel.context_slots
    found: dict[tuple[str, int, str], float] = {}
    for origin in range(slots[0] + context - 1, slots[-1] + context, context):
        raw = ray.get(buffer.cut.remote(servers, [origin] * len(servers), labels=False))
        for row, server in enumerate(raw.servers):
            for at in range(context):
                for column, metric in enumerate(raw.metrics):
                    value = float(raw.values[row, at, column])
                    found[(server, origin - context + 1 + at, metric)] = value
    gone = [key for key, value in wanted.items() if found.get(key) != float(np.float32(value))]
    for key in gone[:5]:
        say(f"lost: {key} acknowledged {wanted[key]}, kept {found.get(key)}")
    return len(gone), len(wanted)


def wrong(config: Config, told: dict[tuple[int, str], Any], metric: str) -> tuple[int, int]:
    """Answers of record that the ledger has otherwise, and how many could be compared."""
    ledger = handles.find(config.fleet, config.panel.name, handles.LEDGER)
    assert ledger is not None
    bad = matched = 0
    for slot in sorted({slot for slot, _ in told}):
        blocks = ray.get(ledger.blocks.remote(slot))
        answering = next((block for block in blocks if block.member == "ensemble"), None)
        if answering is None:
            continue  # older than what the ledger keeps block by block
        column = answering.targets.index(metric)
        for row, server in enumerate(answering.servers):
            answer = told.get((slot, server))
            if answer is None:
                continue
            kept = {f"{level:g}": answering.values[row, :, column, place]
                    for place, level in enumerate(answering.levels)}  # fmt: skip
            matched += 1
            same = answer.keys() == kept.keys() and all(
                np.allclose(path, kept[level], rtol=_ROUNDED, atol=0.0)
                for level, path in answer.items()
            )
            bad += not same
            if not same and bad <= 3:
                say(f"wrong: {slot} {server}: told {answer}, kept {kept}")
    return bad, matched


def say(line: str) -> None:
    """A line for whoever watches; the result goes to stdout alone."""
    print(line, file=sys.stderr, flush=True)
