"""A slot's actuals against the forecasts made for it: the join, and the sums it adds to.

Slot s was forecast from the origins s-1 (one step ahead) to s-H. A cell is one (server, target,
step) that came and that a member forecast with every level. Members are compared on two sets of
cells, apart for each origin:

    common    cells that every *whole* member issued. Whole is the champion, and who issued at least
              `WHOLE` of its cells (without a champion: of the cells that anybody issued). On them
              all whole members are told side by side.
    a pair    cells that one member and the champion both issued: the member's sums on them, and the
              champion's. Every member that issues has one, whole or not.

So a shadow on a few servers is scored on them beside the champion, and narrows nobody's cells.

E members, S servers, T targets, H horizon, Q levels, F sums per cell (`metrics`).
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from forecast.metrics import (
    AMOUNTS,
    BoolArray,
    Float64Array,
    FloatArray,
    Score,
    cell_sums,
    known_mean,
)
from forecast.packing import pack, pack_names, unpack, unpack_names
from forecast.places import aligned, places
from forecast.record import CHAMPION, SHADOWS, ForecastBlock

WHOLE = 0.9
"""Share of the champion's cells that a member must issue to be compared with all others."""

_MOST_SHORT = np.iinfo(np.uint16).max


@dataclass(frozen=True, slots=True)
class Origin:
    """Who forecast at one origin: the member's own version, and the champion's beside it."""

    version: int | None
    beside: int | None
    """None when no champion issued there."""
    whole: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """What one slot says of one member.

    `cells` [S, T, H, F] holds its common cells at the steps at which it is whole, those of its pair
    (without a champion: all of its own) at the others. `origins` has an entry for each step, None
    where it issued nothing. `pair` and `champion` [T, H, F] are the sums of its pair; None for the
    champion itself.
    """

    member: str
    origins: tuple[Origin | None, ...]
    cells: Float64Array
    pair: Float64Array | None
    champion: Float64Array | None

    def groups(self) -> dict[Origin, BoolArray]:
        """The steps [H] of each origin that differs from the others."""
        found: dict[Origin, BoolArray] = {}
        for step, origin in enumerate(self.origins):
            if origin is not None:
                found.setdefault(origin, np.zeros(len(self.origins), bool))[step] = True
        return found


@dataclass(frozen=True, slots=True)
class StepReport:
    """What scoring one slot found.

    `cells` counts the (server, target, step) cells of the member that was compared on most. `wql`
    has one number per member, the mean over targets, None where undefined. `loss` float32
    [E, S, T] is each member's mean pinball loss over levels and compared steps, natural units, NaN
    where nothing was compared; a member that is not whole is told on the cells of its pair.
    `actuals` float32 [S, T] are those that counted: NaN where there was a gap, or a mask.
    """

    slot: int
    cells: int
    servers: tuple[str, ...]
    members: tuple[str, ...]
    wql: tuple[float | None, ...]
    loss: NDArray[np.float32] = field(repr=False)
    actuals: NDArray[np.float32] = field(repr=False)

    def loss_of(self, member: str) -> NDArray[np.float32]:
        """The losses [S, T] of one member; NaN where nothing is told of it."""
        if member not in self.members:
            return np.full_like(self.actuals, np.nan)
        found: NDArray[np.float32] = self.loss[self.members.index(member)]
        return found

    def pack(self) -> bytes:
        """The report as bytes, for storage."""
        header = {name: getattr(self, name) for name in ("slot", "cells", "members", "wql")}
        arrays = {"loss": self.loss, "actuals": self.actuals}
        return pack("report", header, {"servers": pack_names(self.servers), **arrays}, deflate=True)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """The report that `pack` wrote; raises StateError when it is damaged."""
        header, arrays = unpack("report", data)
        for name in ("members", "wql"):
            header[name] = tuple(header[name])
        return cls(servers=unpack_names(arrays.pop("servers")), **header, **arrays)


@dataclass(slots=True)
class ServerSums:
    """Sums [S, T, H, F] of named servers, to which those of later slots are added."""

    servers: tuple[str, ...]
    sums: Float64Array

    def of(self, server: str) -> Float64Array | None:
        """Sums [T, H, F] of one server; None when nothing of it was compared."""
        if server not in self.servers:
            return None
        sums: Float64Array = self.sums[self.servers.index(server)]
        return sums if sums[..., 0].any() else None

    def add(self, servers: tuple[str, ...], sums: Float64Array) -> None:
        """Add those of `servers`, of which some may be new here."""
        if servers == self.servers:
            self.sums += sums
            return
        known = set(self.servers)
        union = self.servers + tuple(server for server in servers if server not in known)
        if len(union) > len(self.servers):
            total = np.zeros((len(union), *self.sums.shape[1:]))
            total[: len(self.servers)] = self.sums
            self.servers, self.sums = union, total
        self.sums[places(servers, union)] += sums

    @classmethod
    def joined(cls, parts: Sequence[ServerSums]) -> Self:
        """The sums of servers of which each is in one part."""
        servers = tuple(server for part in parts for server in part.servers)
        return cls(servers, np.concatenate([part.sums for part in parts]))

    def parts(self, count: int) -> dict[int, ServerSums]:
        """The sums in so many parts; which one a server is in depends on its name alone."""
        rows: dict[int, list[int]] = {}
        for row, server in enumerate(self.servers):
            rows.setdefault(part_of(server, count), []).append(row)
        return {
            part: ServerSums(tuple(self.servers[row] for row in mine), self.sums[mine])
            for part, mine in sorted(rows.items())
        }

    def pack(self) -> bytes:
        """The sums as bytes, for storage: exact, counts as short numbers."""
        counts = self.sums[..., :-AMOUNTS]
        short = counts.max(initial=0.0) <= _MOST_SHORT
        arrays = {
            "servers": pack_names(self.servers),
            "counts": counts.astype(np.uint16 if short else np.int64),
            "amounts": self.sums[..., -AMOUNTS:],
        }
        return pack("sums", {}, arrays)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """The sums that `pack` wrote; raises StateError when they are damaged."""
        _, arrays = unpack("sums", data)
        sums = np.concatenate([arrays["counts"].astype(np.float64), arrays["amounts"]], axis=-1)
        return cls(unpack_names(arrays["servers"]), sums)


def part_of(server: str, count: int) -> int:
    """Which of `count` parts a server's sums are in."""
    return zlib.crc32(server.encode()) % count


def join(
    servers: tuple[str, ...],
    actuals_ST: FloatArray,
    origins: Sequence[Sequence[ForecastBlock]],
    levels: Sequence[float],
) -> tuple[Scored, ...]:
    """What these actuals say of every member; `origins[h]` are the blocks of the origin s - 1 - h.

    A server that a block does not hold, a gap in the actuals and a forecast that was not issued
    count nowhere. Members come sorted by name, the champion first.
    """
    names = {block.member for blocks in origins for block in blocks}
    blocks = {
        name: [next((b for b in made if b.member == name), None) for made in origins]
        for name in sorted(names, key=lambda name: (name != CHAMPION, name))
    }
    values = {name: _values(mine, servers) for name, mine in blocks.items()}
    issued = {name: np.asarray(np.isfinite(one).all(axis=-1)) for name, one in values.items()}
    among, whole, common = _compared(blocks, issued)
    actuals_STH = np.broadcast_to(actuals_ST[..., None], among.shape) if names else actuals_ST
    lead = blocks.get(CHAMPION, [None] * len(origins))
    found: list[Scored] = []
    leading: Float64Array | None = None
    for name, mine in blocks.items():
        own = cell_sums(actuals_STH, values.pop(name), levels)
        pair = champion = None
        if name == CHAMPION:
            leading = own
        elif leading is not None:
            both = issued[name] & issued[CHAMPION]
            pair = _only(own, issued[name], both).sum(0)
            champion = _only(leading, issued[CHAMPION], both).sum(0)
        kept = np.where(whole[name], common, issued[name] & among)
        made_by = tuple(
            None
            if one is None
            else Origin(one.version, None if first is None else first.version, bool(at))
            for one, first, at in zip(mine, lead, whole[name], strict=True)
        )
        found.append(Scored(name, made_by, _only(own, issued[name], kept), pair, champion))
    return tuple(found)


def counted_actuals(
    slot: int,
    servers: tuple[str, ...],
    actuals_ST: FloatArray,
    targets: int,
    masked: Collection[str],
) -> NDArray[np.float32]:
    """Actuals [S, T] as they count: those of masked servers are gaps.

    Raises ValueError when there is not one row for each server and one column for each target.
    """
    if actuals_ST.shape != (len(set(servers)), targets):
        raise ValueError(
            f"slot {slot}: actuals are {actuals_ST.shape}, need one row for each of "
            f"{len(set(servers))} servers and {targets} targets"
        )
    counted = np.asarray(actuals_ST, np.float32)
    if masked:
        hidden = np.array([name in masked for name in servers], bool)
        counted = np.where(hidden[:, None], np.float32(np.nan), counted)
    return counted


def report_of(
    slot: int,
    servers: tuple[str, ...],
    actuals_ST: FloatArray,
    scored: Sequence[Scored],
    levels: Sequence[float],
) -> StepReport:
    """What the blocks of one slot say, member by member; a member without cells is left out."""
    found = {one.member: one.cells.sum(2) for one in scored}
    known = {name: found[name] for name in sorted(found) if found[name][..., 0].any()}
    losses = [Score(sums, levels).pinball.astype(np.float32) for sums in known.values()]
    shape = actuals_ST.shape
    return StepReport(
        slot=slot,
        cells=max((int(sums[..., 0].sum()) for sums in known.values()), default=0),
        servers=servers,
        members=tuple(known),
        wql=tuple(known_mean(Score(sums.sum(0), levels).wql) for sums in known.values()),
        loss=np.stack(losses) if losses else np.empty((0, *shape), np.float32),
        actuals=np.asarray(actuals_ST, np.float32),
    )


def _compared(
    blocks: Mapping[str, Sequence[ForecastBlock | None]], issued: Mapping[str, BoolArray]
) -> tuple[BoolArray, dict[str, BoolArray], BoolArray]:
    """At each step: the cells [S, T, H] that count at all, who is whole [H], the common cells."""
    if not issued:
        nothing = np.zeros((0, 0, 0), bool)
        return nothing, {}, nothing
    among = np.logical_or.reduce(list(issued.values()))
    if CHAMPION in issued:
        leads = np.array([block is not None for block in blocks[CHAMPION]])
        among = np.where(leads, issued[CHAMPION], among)
    enough = WHOLE * among.sum(axis=(0, 1))
    whole, common = {}, among.copy()
    for name, cells in issued.items():
        made = np.array([block is not None for block in blocks[name]])
        whole[name] = made & ((cells & among).sum(axis=(0, 1)) >= enough)
        if name in SHADOWS:  # it narrows nobody's cells, however many of them it issues
            whole[name] = np.zeros_like(made)
        common &= cells | ~whole[name]
    return among, whole, common


def _only(cells: Float64Array, issued: BoolArray, kept: BoolArray) -> Float64Array:
    """The cells [S, T, H, F] that are kept of those issued; the same array where all are."""
    return cells if (kept | ~issued).all() else cells * kept[..., None]


def _values(blocks: Sequence[ForecastBlock | None], servers: tuple[str, ...]) -> FloatArray:
    """What one member forecast for a slot [S, T, H, Q]: step h from the block of its origin.

    In the order of `servers`; NaN where a block is missing or does not hold a server.
    """
    one = next(block for block in blocks if block is not None)
    shape = (len(servers), len(one.targets), len(blocks), len(one.levels))
    values = np.full(shape, np.nan, np.float32)
    for step, block in enumerate(blocks):
        if block is not None:
            values[:, :, step] = aligned(block.values[:, step], block.servers, servers)
    return values
