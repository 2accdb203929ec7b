"""What learning was worth: the champion's errors next to those of the frozen twin.

    score of a slot ──► add ──► the open block, server by server
                                  │ close, at its end
                                  ▼
                                blocks of a quarter of a day, role by role ──► told: gain, interval
                                  │ the last hours
                                  ▼
                                below: learning did harm, beyond noise

Both are read on the same cells. Blocks are resampled in pairs, several in a row (`train.paired`).

S servers, B blocks, R roles, T targets; 4 sums of a cell: champion's loss, twin's, |actual|, cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from forecast.metrics import Float64Array
from forecast.packing import pack, unpack
from forecast.record import CHAMPION, TWIN
from forecast.scoring import ServerSums, StepReport
from forecast.versions import BASE
from train.paired import LEAST_BLOCKS, Losses, compare

_HOURS = 6
"""Of a block, and a horizon at least."""
_LOSS, _TWIN_LOSS, _SIZE, _CELLS = range(4)
_WIDTH = 4

FLEET = "all"
"""In place of a role: all of them."""


@dataclass(frozen=True, slots=True)
class Gain:
    """How far the champion's WQL lies below the twin's, as a share of the twin's.

    0.03 is 3 % less error. Bounds are one-sided, of 95 %.
    """

    ratio: float
    lower: float
    upper: float
    cells: int
    blocks: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GainRules:
    """What is kept and what is decided by. Lengths are in slots unless the name says otherwise."""

    targets: tuple[str, ...]
    horizon: int
    per_hour: int
    hours: int = 72
    """So long below zero is harm."""
    days: int = 28
    """So much is told of."""
    seed: int = 7

    @property
    def block(self) -> int:
        """Slots of a block: a quarter of a day, and a horizon at least."""
        return max(self.horizon, _HOURS * self.per_hour)

    @property
    def blocks(self) -> int:
        """Blocks in `hours`, and three at least: with fewer there is nothing to say."""
        return max(LEAST_BLOCKS, -(-self.hours * self.per_hour // self.block))


class GainTracker:
    """Sums of champion and twin by block; told of, and judged, at the end of each block."""

    def __init__(self, rules: GainRules) -> None:
        self.rules = rules
        self.version: int | None = None
        """The twin's."""
        self.slot = -1
        """The last slot of the last closed block."""
        self._added = -1
        self._told: dict[str, Gain] = {}
        self._clear()

    def _clear(self, *, stale: bool = False) -> None:
        self._stale = stale
        self._roles: tuple[str, ...] = ()
        self._blocks: list[int] = []
        self._sums = np.zeros((0, 0, len(self.rules.targets), _WIDTH))
        self._open: ServerSums | None = None
        self._seen, self._from = -1, -1
        self._harm_from = -1

    def of(self, version: int | None) -> None:
        """From now on the twin is this version: what was known of another one goes."""
        if version is not None and version != self.version:
            # What is scored next was issued by the one before, until its last steps have come.
            self._clear(stale=self.version is not None)
            self._told, self.version = {}, version

    def add(self, report: StepReport) -> None:
        """Take in what a slot's score says; one that was taken in before changes nothing."""
        if report.slot <= self._added:
            return
        self._added = report.slot
        twin = next((name for name in (TWIN, BASE) if name in report.members), None)
        width = len(self.rules.targets)
        self._stale = self._stale and twin is not None
        if twin is None or self._stale or report.actuals.shape[1] != width:
            return
        if self._seen != report.slot - 1:
            # Steps further ahead were forecast before it came, by the champion alone.
            self._from = report.slot + self.rules.horizon - 1
        self._seen = report.slot
        if report.slot < self._from:
            return
        parts = (report.loss_of(CHAMPION), report.loss_of(twin), np.abs(report.actuals))
        values = np.stack([*parts, np.ones_like(report.actuals)], axis=-1).astype(np.float64)
        both = np.asarray(np.isfinite(values).all(axis=-1))
        rows = np.flatnonzero(both.any(axis=1))
        cells = np.where(both[rows][..., None], values[rows], 0.0)[:, :, None]
        servers = tuple(report.servers[row] for row in rows)
        if self._open is None:
            self._open = ServerSums(servers, cells)
        else:
            self._open.add(servers, cells)

    def ends(self, slot: int) -> bool:
        """Whether a block ends with this slot."""
        return (slot + 1) % self.rules.block == 0

    def close(self, slot: int, roles: Mapping[str, str]) -> None:
        """End the open block with this slot, once; `roles` names each server's."""
        if slot <= self.slot:
            return
        self.slot = slot
        if self._open is not None and self._open.sums[..., _CELLS].any():
            named = [roles.get(server, "") for server in self._open.servers]
            union = tuple(sorted({*self._roles, *named}))
            sums = np.zeros((len(self._blocks) + 1, len(union), *self._sums.shape[2:]))
            sums[:-1, [union.index(role) for role in self._roles]] = self._sums
            np.add.at(sums[-1], [union.index(role) for role in named], self._open.sums[:, :, 0])
            self._roles, self._sums = union, sums
            self._blocks.append(slot // self.rules.block)
            self._trim(slot)
        self._open = None
        self._told = self._tell(slot)

    def harmful(self, slot: int) -> Gain | None:
        """The gain over the last `hours` where learning did harm all the time, beyond noise.

        Every block of them was scored, each third of them lies below zero, and so does the upper
        bound of all together. One bad day is not enough, and neither is a worse one by chance.
        """
        count, last = self.rules.blocks, slot // self.rules.block
        recent = self._blocks[-count:]
        whole = recent == list(range(last - count + 1, last + 1))
        if not whole or recent[0] <= self._harm_from:
            return None
        sums = self._sums[-count:]
        thirds = np.array_split(sums, 3)
        if any(_point(third) >= 0 for third in thirds):
            return None
        gain = self._gain(sums, slot)
        return gain if gain is not None and gain.upper < 0 else None

    def acted(self, slot: int) -> None:
        """What was harmful until this slot was undone: judge anew from the next block on."""
        self._harm_from = slot // self.rules.block

    def told(self) -> dict[str, Any]:
        """What is known, for people; the gain of the whole fleet is under the role `all`."""
        return {
            "version": self.version,
            "hours": self.rules.hours,
            "since_slot": self._blocks[0] * self.rules.block if self._blocks else None,
            "through_slot": self.slot if self._blocks else None,
            "gains": {role: gain.to_json() for role, gain in self._told.items()},
        }

    def pack(self) -> bytes:
        """The closed blocks as bytes, for storage; of the open one nothing."""
        header = {
            "targets": self.rules.targets,
            "block": self.rules.block,
            "version": self.version,
            "slot": self.slot,
            "roles": self._roles,
            "blocks": self._blocks,
            "seen": [self._seen, self._from, self._harm_from],
            "stale": self._stale,
        }
        return pack("gain", header, {"sums": self._sums}, deflate=True)

    @classmethod
    def unpack(cls, data: bytes | memoryview, rules: GainRules) -> Self:
        """What `pack` wrote; empty where the targets or the blocks are others today.

        Raises StateError when it is damaged.
        """
        header, arrays = unpack("gain", data)
        made = cls(rules)
        if tuple(header["targets"]) != rules.targets or header["block"] != rules.block:
            return made
        made.version, made.slot, made._added = header["version"], header["slot"], header["slot"]
        made._roles, made._blocks = tuple(header["roles"]), list(header["blocks"])
        made._seen, made._from, made._harm_from = header["seen"]
        made._sums, made._stale = arrays["sums"], header["stale"]
        made._told = made._tell(made.slot)
        return made

    def _trim(self, slot: int) -> None:
        oldest = (slot - 24 * self.rules.days * self.rules.per_hour) // self.rules.block
        begin = next((at for at, block in enumerate(self._blocks) if block > oldest), 0)
        self._blocks, self._sums = self._blocks[begin:], self._sums[begin:]

    def _tell(self, slot: int) -> dict[str, Gain]:
        """The gain of the fleet, and of each role where there are several."""
        found = {FLEET: self._gain(self._sums, slot)}
        for row, role in enumerate(self._roles if len(self._roles) > 1 else ()):
            if role and role != FLEET:
                found[role] = self._gain(self._sums[:, row : row + 1], slot)
        return {role: gain for role, gain in found.items() if gain is not None}

    def _gain(self, sums_BRT: Float64Array, slot: int) -> Gain | None:
        if len(sums_BRT) < LEAST_BLOCKS:
            return None
        losses = Losses(
            targets=self.rules.targets,
            roles=("",),
            windows=0,
            nominal=None,
            size_BRT=sums_BRT[..., _SIZE].sum(1, keepdims=True),
            cells_BRT=sums_BRT[..., _CELLS].sum(1, keepdims=True),
            pinball={
                "champion": sums_BRT[..., _LOSS].sum(1, keepdims=True),
                "twin": sums_BRT[..., _TWIN_LOSS].sum(1, keepdims=True),
            },
            inside={},
        )
        found = compare(losses, "champion", "twin", seed=self.rules.seed + slot)
        if found is None or not np.isfinite([found.change, found.lower, found.upper]).all():
            return None
        return Gain(
            ratio=0.0 - found.change,
            lower=0.0 - found.upper,
            upper=0.0 - found.lower,
            cells=losses.n,
            blocks=losses.blocks,
        )


def _point(sums_BRT: Float64Array) -> float:
    """The gain of some blocks, without its interval; 0 where nothing can tell."""
    total = sums_BRT.sum(axis=(0, 1))
    known = total[:, _SIZE] > 0
    own, twin = (
        float((total[known, at] / total[known, _SIZE]).sum()) for at in (_LOSS, _TWIN_LOSS)
    )
    return 1.0 - own / twin if twin > 0 else 0.0
