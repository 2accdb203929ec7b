"""A snapshot made ready to be read by name, once for all who read it."""

from __future__ import annotations

import numpy as np

from forecast.http.sheet import Rows
from forecast.record import ServerStatus, Snapshot


class Board:
    """Where each server's values stand in a snapshot, which are usable, how long its gaps are."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.servers: dict[str, tuple[ServerStatus, str | None]] = {
            server.name: (server, member)
            for server, member in zip(snapshot.servers, snapshot.served, strict=True)
        }
        self.rows = {block.member: Rows(block) for block in snapshot.blocks}
        self.gaps = _gaps(snapshot)
        """Context slots without a value, one number per target, by server."""


def _gaps(snapshot: Snapshot) -> dict[str, list[int]]:
    raw = snapshot.raw
    gaps = np.full((len(raw), len(snapshot.targets)), raw.context)
    for place, target in enumerate(snapshot.targets):
        if target in raw.metrics:
            seen = np.isfinite(raw.values[:, : raw.context, raw.metrics.index(target)])
            gaps[:, place] -= seen.sum(axis=1)
    every = [raw.context] * len(snapshot.targets)
    of_windows = dict(zip(raw.servers, gaps.tolist(), strict=True))
    return {server.name: of_windows.get(server.name, every) for server in snapshot.servers}
