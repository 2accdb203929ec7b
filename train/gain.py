"""What learning was worth: the champion's errors next to those of the frozen twin.

    score of a slot ──► add ──► the open block, server by server
                                  │ close, at its end
                                  ▼
                                blocks of a horizon, role by role ──► told: gain, interval
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
from train.paired import LEAST_BLOCKS, LEVEL, Losses, quantile, relative, resamples

_LOSS, _TWIN_LOSS, _SIZE, _CELLS = range(4)
_WIDTH = 4

_ERRORS = 4.0
"""Standard errors below zero that are harm: it is asked again each day, and undone at night."""
_SURER = _ERRORS / 1.645
"""How much further that is than a bound of 95 %, one-sided, for a normal error."""
_TOLD_HOURS = 6
"""How often the gains are worked out anew."""

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
    days: int = 14
    """So much is told of."""
    seed: int = 7

    @property
    def block(self) -> int:
        """Slots of a block: an hour, and a horizon at least."""
        return max(self.horizon, self.per_hour)

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
        self._seen, self._from = -2, -1
        self._harm_from = -1

    def of(self, version: int | None) -> None:
        """From now on the twin is this version: what was known of another one goes."""
        if version is None or version == self.version:
            return
        if self.version is not None:
            # What is scored next was issued by the one before, until its last steps have come.
            self._clear(stale=True)
            self._told = {}
        self.version = version

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
        if self._passes(slot, _TOLD_HOURS):
            self._told = self._tell(slot)

    def harmful(self, slot: int) -> Gain | None:
        """The gain over the last `hours` where learning did harm all the time, beyond noise.

        Asked once a day. Every block of them was scored, each third of them lies below zero, and
        all together `_ERRORS` standard errors below. One bad day is not enough, however bad.
        """
        if not self._passes(slot, 24):
            return None
        count, last = self.rules.blocks, slot // self.rules.block
        recent = self._blocks[-count:]
        whole = recent == list(range(last - count + 1, last + 1))
        if not whole or recent[0] <= self._harm_from:
            return None
        sums = self._sums[-count:]
        thirds = np.array_split(sums, 3)
        if any(_point(third) >= 0 for third in thirds):
            return None
        gain = _gains(sums, self._roles, self.rules, slot).get(FLEET)
        if gain is None or gain.ratio + _SURER * (gain.upper - gain.ratio) >= 0:
            return None
        return gain

    def _passes(self, slot: int, hours: int) -> bool:
        """Whether a multiple of so many hours lies in the block that ends with this slot."""
        every, end = hours * self.rules.per_hour, slot + 1
        return end // every > (end - self.rules.block) // every

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
        return _gains(self._sums, self._roles, self.rules, slot)


def _gains(
    sums_BRT: Float64Array, roles: tuple[str, ...], rules: GainRules, slot: int
) -> dict[str, Gain]:
    """Gains by role, the fleet's under `FLEET`; of what nothing can be told there is none."""
    if len(sums_BRT) < LEAST_BLOCKS:
        return {}
    losses = Losses(
        targets=rules.targets,
        roles=roles,
        windows=0,
        nominal=None,
        size_BRT=sums_BRT[..., _SIZE],
        cells_BRT=sums_BRT[..., _CELLS],
        pinball={"champion": sums_BRT[..., _LOSS], "twin": sums_BRT[..., _TWIN_LOSS]},
        inside={},
    )
    times = resamples(losses.blocks, seed=rules.seed + slot)
    changes = relative(losses, "champion", "twin", times)
    cells = losses.cells_BRT.sum(axis=(0, 2)).astype(int).tolist()
    named = {FLEET: (0, sum(cells))}
    for row, role in enumerate(roles if len(roles) > 1 else ()):
        if role and role != FLEET:
            named[role] = (1 + row, cells[row])
    found = {}
    for role, (column, count) in named.items():
        drawn = changes[1:, column]
        point, low, high = changes[0, column], quantile(drawn, 1 - LEVEL), quantile(drawn, LEVEL)
        if np.isfinite([point, low, high]).all():
            found[role] = Gain(0.0 - float(point), 0.0 - high, 0.0 - low, count, losses.blocks)
    return found


def _point(sums_BRT: Float64Array) -> float:
    """The gain of some blocks, without its interval; 0 where nothing can tell."""
    total = sums_BRT.sum(axis=(0, 1))
    known = total[:, _SIZE] > 0
    own, twin = (
        float((total[known, at] / total[known, _SIZE]).sum()) for at in (_LOSS, _TWIN_LOSS)
    )
    return 1.0 - own / twin if twin > 0 else 0.0
