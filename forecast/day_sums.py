"""The sums of the day that is being scored, in memory: over the fleet, and server by server.

Those of the fleet are on disk with each slot. Those by server are large (3,000 servers, 5 members:
100 MB), and each slot changes all of them: they are saved now and then, and what is missing on disk
is computed again from blocks and reports, in the same order and hence to the same bits.

S servers, T targets, H horizon, F sums per cell (`metrics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from forecast.ledger_file import FleetKey, LedgerFile, ServerKey
from forecast.metrics import BoolArray, Float64Array
from forecast.packing import pack, unpack
from forecast.record import CHAMPION, SHADOWS
from forecast.scoring import Scored, ServerSums

PARTS = 16
"""Rows for a member's sums by server, so that who asks for one server need not read all."""


@dataclass(slots=True)
class DaySums:
    """All sums of one day. `folded` says what a slot makes of the fleet's, `add` takes it in."""

    day: int
    fleet: dict[FleetKey, Float64Array] = field(default_factory=dict)
    servers: dict[ServerKey, ServerSums] = field(default_factory=dict)

    @classmethod
    def load(cls, file: LedgerFile, layout: str, day: int) -> Self:
        """The sums of a day as they are on disk."""
        found = cls(day)
        for _, fleet_key, data in file.fleet_sums(layout, since_day=day, through_day=day):
            found.fleet[fleet_key] = unpack_fleet(data)
        parts: dict[ServerKey, list[ServerSums]] = {}
        for _, server_key, data in file.server_sums(layout, since_day=day, through_day=day):
            parts.setdefault(server_key, []).append(ServerSums.unpack(data))
        found.servers = {key: ServerSums.joined(some) for key, some in parts.items()}
        return found

    def folded(self, scored: Sequence[Scored]) -> dict[FleetKey, Float64Array]:
        """The fleet's sums that change with a slot, with it added; `fleet` stays as it is."""
        changed: dict[FleetKey, Float64Array] = {}

        def add(key: FleetKey, sums_THF: Float64Array, steps: BoolArray) -> None:
            new = np.where(steps[:, None], sums_THF, 0.0)
            if new[..., 0].any():
                known = changed.get(key, self.fleet.get(key))
                changed[key] = new if known is None else known + new

        for one in scored:
            total, member = one.cells.sum(0), one.member
            for origin, steps in one.groups().items():
                beside, version = origin.beside, origin.version
                if origin.whole:
                    add(FleetKey(beside, member, version, None), total, steps)
                if one.pair is not None and one.champion is not None and beside is not None:
                    add(FleetKey(beside, member, version, member), one.pair, steps)
                    add(FleetKey(beside, CHAMPION, beside, member), one.champion, steps)
        return changed

    def add(
        self,
        changed: dict[FleetKey, Float64Array],
        servers: tuple[str, ...],
        scored: Sequence[Scored],
    ) -> None:
        """Take in what a slot changed, and add its cells to the servers' sums."""
        self.fleet.update(changed)
        for one in scored:
            if one.member in SHADOWS:  # told over the fleet, in its pair with the champion
                continue
            beside = np.array([o is not None and o.beside is not None for o in one.origins])
            made = np.array([origin is not None for origin in one.origins])
            for paired, steps in ((True, beside), (False, made & ~beside)):
                if not steps.any():
                    continue
                cells = one.cells if (steps | ~made).all() else one.cells * steps[:, None]
                names = servers
                if not any(origin is not None and origin.whole for origin in one.origins):
                    few = cells[..., 0].any(axis=(1, 2))
                    cells, names = cells[few], tuple(np.array(servers, object)[few])
                key = (paired, one.member)
                if key in self.servers:
                    self.servers[key].add(names, cells)
                elif cells[..., 0].any():
                    self.servers[key] = ServerSums(names, cells.copy())

    def save(self, file: LedgerFile, layout: str) -> None:
        """The servers' sums as they are now, to disk; within a transaction of the caller."""
        for key, sums in self.servers.items():
            for part, some in sums.parts(PARTS).items():
                file.put_server_sums(self.day, layout, key, part, some.pack())


def pack_fleet(sums_THF: Float64Array) -> bytes:
    """One row of the fleet's sums as bytes."""
    return pack("fleet", {}, {"sums": sums_THF})


def unpack_fleet(data: bytes) -> Float64Array:
    """What `pack_fleet` was given; raises StateError when it is damaged."""
    sums: Float64Array = unpack("fleet", data)[1]["sums"]
    return sums
