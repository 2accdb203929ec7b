"""A slot's actuals against the forecasts made for it: the join, and the sums it adds to.

Slot s was forecast from the origins s-1 (one step ahead) to s-H. Within one origin only those
(server, target) cells are compared for which every member issued a forecast, so that members are
scored on the same rows.

B joined blocks, E members, S servers, T targets, H horizon, Q levels, F sums per cell (`metrics`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from forecast.metrics import Float64Array, FloatArray, Score, cell_sums, known_mean
from forecast.packing import pack, unpack
from forecast.record import CHAMPION, ForecastBlock


@dataclass(frozen=True, slots=True)
class Scored:
    """What one block's step adds: `cells` [S, T, F] of the forecast made `step` slots before."""

    step: int
    member: str
    version: int | None
    beside: int | None
    """The champion's version at that origin; None when there was none."""
    cells: Float64Array


@dataclass(frozen=True, slots=True)
class StepReport:
    """What scoring one slot found.

    `cells` counts the (server, target, step) cells compared. `wql` has one number per member, the
    mean over targets, None where undefined. `loss` float64 [E, S, T] is each member's mean pinball
    loss over levels and compared steps, natural units, NaN where nothing was compared.
    """

    slot: int
    cells: int
    servers: tuple[str, ...]
    members: tuple[str, ...]
    wql: tuple[float | None, ...]
    loss: Float64Array = field(repr=False)

    def pack(self) -> bytes:
        """The report as bytes, for storage."""
        names = ("slot", "cells", "servers", "members", "wql")
        return pack("report", {name: getattr(self, name) for name in names}, {"loss": self.loss})

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """The report that `pack` wrote; raises StateError when it is damaged."""
        header, arrays = unpack("report", data)
        for name in ("servers", "members", "wql"):
            header[name] = tuple(header[name])
        return cls(**header, **arrays)


@dataclass(frozen=True, slots=True)
class ServerSums:
    """Sums [S, T, H, F] of named servers; adding makes a new one, the old stays as it was."""

    servers: tuple[str, ...]
    sums: Float64Array

    def of(self, server: str) -> Float64Array | None:
        """Sums [T, H, F] of one server; None when nothing of it was compared."""
        if server not in self.servers:
            return None
        sums: Float64Array = self.sums[self.servers.index(server)]
        return sums if sums[..., 0].any() else None

    def plus(self, servers: tuple[str, ...], sums: Float64Array) -> ServerSums:
        """These sums and those of `servers`, of which some may be new here."""
        if servers == self.servers:
            return ServerSums(servers, self.sums + sums)
        known = set(self.servers)
        union = self.servers + tuple(server for server in servers if server not in known)
        total = np.zeros((len(union), *self.sums.shape[1:]))
        total[: len(self.servers)] = self.sums
        total[_places(servers, union)] += sums
        return ServerSums(union, total)

    def pack(self) -> bytes:
        """The sums as bytes, for storage."""
        return pack("sums", {"servers": self.servers}, {"sums": self.sums})

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """The sums that `pack` wrote; raises StateError when they are damaged."""
        header, arrays = unpack("sums", data)
        return cls(tuple(header["servers"]), arrays["sums"])


def join(
    servers: tuple[str, ...],
    actuals_ST: FloatArray,
    origins: Mapping[int, Sequence[ForecastBlock]],
    levels: Sequence[float],
) -> tuple[Scored, ...]:
    """Cells of every block that forecast these actuals; `origins` maps steps ahead to its blocks.

    A server that a block does not hold, a gap in the actuals and a forecast that was not issued
    give zeros.
    """
    joined = [(step, block) for step, blocks in origins.items() for block in blocks]
    if not joined:
        return ()
    forecast_BSTQ = np.stack([_step_values(block, step, servers) for step, block in joined])
    issued_BST = np.asarray(np.isfinite(forecast_BSTQ).all(axis=-1))
    step_B = np.array([step for step, _ in joined])
    common = {step: issued_BST[step_B == step].all(axis=0) for step in set(step_B.tolist())}
    where = np.stack([common[step] for step, _ in joined])
    cells = cell_sums(np.broadcast_to(actuals_ST, where.shape), forecast_BSTQ, levels, where)
    beside = {step: _champion_version(blocks) for step, blocks in origins.items()}
    return tuple(
        Scored(step, block.member, block.version, beside[step], cells[place])
        for place, (step, block) in enumerate(joined)
    )


def report_of(
    slot: int, servers: tuple[str, ...], targets: int, scored: Sequence[Scored]
) -> StepReport:
    """What the blocks of one slot say, member by member; a member without cells is left out."""
    found: dict[str, Float64Array] = {}
    for member in sorted({one.member for one in scored}):
        sums = sum_cells([one for one in scored if one.member == member])
        if sums[..., 0].any():
            found[member] = sums
    losses = [Score(sums).pinball for sums in found.values()]
    return StepReport(
        slot=slot,
        cells=max((int(sums[..., 0].sum()) for sums in found.values()), default=0),
        servers=servers,
        members=tuple(found),
        wql=tuple(known_mean(Score(sums.sum(0)).wql) for sums in found.values()),
        loss=np.stack(losses) if losses else np.empty((0, len(servers), targets)),
    )


def by_step(scored: Sequence[Scored], horizon: int) -> Float64Array:
    """Cells [S, T, H, F] of some blocks laid out by their step; at least one block."""
    servers, targets, width = scored[0].cells.shape
    sums = np.zeros((servers, targets, horizon, width))
    for one in scored:
        sums[:, :, one.step - 1] += one.cells
    return sums


def sum_cells(scored: Sequence[Scored]) -> Float64Array:
    """Cells [S, T, F] summed over some blocks, in their order; at least one block."""
    total = np.zeros_like(scored[0].cells)
    for one in scored:
        total += one.cells
    return total


def _step_values(block: ForecastBlock, step: int, servers: tuple[str, ...]) -> FloatArray:
    """One step of a block [S, T, Q] in the order of `servers`, NaN for those it does not hold."""
    values: FloatArray = block.values[:, step - 1]
    if block.servers == servers:
        return values
    place = {server: row for row, server in enumerate(block.servers)}
    rows = np.array([place.get(server, -1) for server in servers], np.int64)
    aligned = np.full((len(servers), *values.shape[1:]), np.nan, np.float32)
    aligned[rows >= 0] = values[rows[rows >= 0]]
    return aligned


def _champion_version(blocks: Sequence[ForecastBlock]) -> int | None:
    return next((block.version for block in blocks if block.member == CHAMPION), None)


def _places(servers: tuple[str, ...], among: tuple[str, ...]) -> NDArray[np.int64]:
    place = {server: row for row, server in enumerate(among)}
    return np.array([place[server] for server in servers], np.int64)
