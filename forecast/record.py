"""The forecast of record: what each member forecast at a slot, and what replicas read of it.

S servers, H horizon steps, T targets, Q quantile levels; N windows, L context, M metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from forecast.clock import Life
from forecast.errors import StateError, UnknownServer
from forecast.packing import (
    pack,
    pack_fields,
    pack_names,
    tuples,
    unpack,
    unpack_fields,
    unpack_names,
)
from forecast.rounding import decode, encode
from forecast.windows import RawWindows

Float32Array = NDArray[np.float32]

CHAMPION = "champion"
"""The version that won; what it forecasts with is its block's version."""

ENSEMBLE = "ensemble"
"""What answers for the fleet: all members, weighed by what they were worth, and calibrated."""


TWIN = "twin"
"""The base on a few servers, beside the champion; see `forecast.twin`."""

SHADOWS = (TWIN,)
"""Who issues to be compared with the champion alone, and is part of no answer."""


@dataclass(frozen=True, slots=True)
class ForecastBlock:
    """What one member forecast for many servers from one origin.

    `values` float32 [S, H, T, Q] in natural units, NaN where the member issued nothing; step h
    (from 0) is the forecast of slot `slot + 1 + h`. `version` is None for a member that is no
    version. Raises ValueError when the shape does not fit the names or a server comes twice.
    """

    slot: int
    member: str
    version: int | None
    servers: tuple[str, ...]
    targets: tuple[str, ...]
    levels: tuple[float, ...]
    values: Float32Array
    members: tuple[str, ...] = ()
    """Of an ensemble: whom it is made of (K)."""
    versions: tuple[int | None, ...] = ()
    """Of an ensemble: each member's version, None for one that is no version."""
    weights: Float32Array | None = None
    """Of an ensemble: each member's share of a series [S, T, K], mean over steps and levels."""
    seat: tuple[int, ...] = ()
    """Of an ensemble: the versions V in the champion's seat, where it is not the champion alone."""
    shares: Float32Array | None = None
    """Of an ensemble: each server's shares of the seat [S, V], by the rollout table."""

    def __post_init__(self) -> None:
        shape, dtype = self.values.shape, self.values.dtype
        named = (len(self.servers), len(self.targets), len(self.levels))
        if len(shape) != 4 or (shape[0], *shape[2:]) != named or dtype != np.float32:
            raise ValueError(
                f"block of {self.member!r} at slot {self.slot}: values are {dtype} {shape}, need "
                f"float32 [servers {named[0]}, horizon, targets {named[1]}, levels {named[2]}]"
            )
        if len(set(self.servers)) < len(self.servers):
            raise ValueError(f"block of {self.member!r} at slot {self.slot} names a server twice")

    def check(self, targets: Sequence[str], levels: Sequence[float], horizon: int) -> None:
        """Raise ValueError for a nameless member, other targets or levels, or another horizon."""
        if not self.member:
            raise ValueError(f"the block at {self.slot} names no member")
        have = (self.targets, self.levels, self.horizon)
        need = (tuple(targets), tuple(levels), horizon)
        if have != need:
            raise ValueError(f"block of {self.member!r} at {self.slot} has {have}, need {need}")

    @property
    def horizon(self) -> int:
        """Number of steps ahead."""
        return int(self.values.shape[1])

    def of(self, server: str) -> Float32Array | None:
        """Values [H, T, Q] of one server; None when the block does not hold it."""
        if server not in self.servers:
            return None
        values: Float32Array = self.values[self.servers.index(server)]
        return values

    def pack(self) -> bytes:
        """The block as bytes, for storage: small where its values are `rounding.as_recorded`."""
        header = {
            "slot": self.slot,
            "member": self.member,
            "version": self.version,
            "targets": self.targets,
            "levels": self.levels,
            "members": self.members,
            "versions": self.versions,
            "shape": self.values.shape,
        }
        arrays = {"servers": pack_names(self.servers), **encode(self.values)}
        if self.weights is not None:
            arrays["weights"] = self.weights
        if self.shares is not None:
            header["seat"], arrays["shares"] = self.seat, self.shares
        return pack("block", header, arrays, deflate=True)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """The block that `pack` wrote; raises StateError when it is damaged."""
        header, arrays = unpack("block", data)
        if "values" in arrays:
            raise StateError("stored block: it was stored whole, by an older version")
        servers, shape = unpack_names(arrays.pop("servers")), header.pop("shape")
        more = {"weights": arrays.pop("weights", None), "shares": arrays.pop("shares", None)}
        values = decode(arrays, tuple(shape))
        return cls(**tuples(header), servers=servers, values=values, **more)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server as of a slot.

    `first_slot` begins its present life, `last_slot` is its newest, `missing_slots` how many it
    still lacks before a version can forecast it (0 once active).
    """

    name: str
    role: str
    timezone: str
    state: Life
    first_slot: int
    last_slot: int
    missing_slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All a gateway needs to answer about every server as of `slot`, in one immutable piece.

    `served` names per server the member that answers for it, None where none can. A server's place
    in `servers` says nothing about its row in a block or in `raw`: look rows up by name.
    `published_at` is wall-clock seconds, for the age of an answer only.
    """

    revision: int
    slot: int
    fleet: str
    panel: str
    step_seconds: int
    horizon: int
    version: int | None
    """The champion's version; None before the first model."""
    targets: tuple[str, ...]
    units: tuple[str, ...]
    """One per target."""
    levels: tuple[float, ...]
    servers: tuple[ServerStatus, ...]
    served: tuple[str | None, ...]
    blocks: tuple[ForecastBlock, ...]
    raw: RawWindows
    """The windows the blocks were made from: context for other versions and for what-if."""
    published_at: float

    def __post_init__(self) -> None:
        if len(self.served) != len(self.servers) or len(self.units) != len(self.targets):
            raise ValueError(
                f"snapshot {self.revision}: {len(self.servers)} servers, {len(self.served)} served,"
                f" {len(self.targets)} targets, {len(self.units)} units"
            )

    def server(self, name: str) -> ServerStatus:
        """Lifecycle of one server; raises UnknownServer."""
        return self.servers[self._place(name)]

    def block(self, member: str) -> ForecastBlock | None:
        """The block of one member; None when it issued none at this slot."""
        return next((block for block in self.blocks if block.member == member), None)

    def served_block(self, name: str) -> ForecastBlock | None:
        """The block that answers for one server; None when no member can.

        Raises UnknownServer.
        """
        member = self.served[self._place(name)]
        return None if member is None else self.block(member)

    def _place(self, name: str) -> int:
        for place, server in enumerate(self.servers):
            if server.name == name:
                return place
        raise UnknownServer(f"no server {name!r} in fleet {self.fleet!r} at slot {self.slot}")

    def pack(self, *, without: Collection[str] = ()) -> bytes:
        """The snapshot as bytes, for storage; blocks of the members `without` are left out."""
        apart = ("servers", "blocks", "raw")
        header = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        named = [field.name for field in fields(ServerStatus)]
        header["servers"] = [{n: getattr(one, n) for n in named} for one in self.servers]
        header["members"] = [block.member for block in self.blocks]
        kept = [block for block in self.blocks if block.member not in without]
        parts = {f"block{i}": _bytes(block.pack()) for i, block in enumerate(kept)}
        return pack("snapshot", header, {**parts, "raw": _bytes(pack_windows(self.raw))})

    @classmethod
    def unpack(
        cls,
        data: bytes | memoryview,
        blocks_at: Callable[[int], Iterable[ForecastBlock]] = lambda _: (),
    ) -> Self:
        """The snapshot that `pack` wrote; `blocks_at` its slot are those that were left out.

        Raises StateError when it is damaged, and when a block is missing.
        """
        header, parts = unpack("snapshot", data)
        raw = unpack_windows(parts.pop("raw").data)
        servers = tuple(ServerStatus(**server) for server in header.pop("servers"))
        known = {block.member: block for block in blocks_at(header["slot"])}
        inside = [ForecastBlock.unpack(part.data) for part in parts.values()]
        known |= {block.member: block for block in inside}
        members = header.pop("members", [block.member for block in inside])
        if missing := [member for member in members if member not in known]:
            raise StateError(f"stored snapshot: the blocks of {', '.join(missing)} are missing")
        blocks = tuple(known[member] for member in members)
        return cls(**tuples(header), servers=servers, blocks=blocks, raw=raw)


def pack_windows(raw: RawWindows) -> bytes:
    """Windows as bytes, for storage."""
    return pack_fields("windows", raw, deflate=True)


def unpack_windows(data: bytes | memoryview) -> RawWindows:
    """The windows that `pack_windows` wrote; raises StateError when they are damaged."""
    return RawWindows(**unpack_fields("windows", data))


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)
