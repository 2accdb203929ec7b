"""The derived members: the ensemble of all others, and the champion calibrated.

    derive   blocks of the members  ->  + champion_calibrated, + ensemble   what is issued
    after    a slot's actuals x the blocks that forecast it  ->  weights and offsets after it

A value: `after` makes a new one. What is known at a slot depends on what had matured by then alone.

Legend: K members, S servers, T targets, H horizon, Q levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from forecast.calibration import Calibration
from forecast.ensemble import Rule, Weights, by_rule, combine
from forecast.metrics import FloatArray
from forecast.packing import pack, unpack
from forecast.places import aligned
from forecast.record import CHAMPION, ENSEMBLE, SHADOWS, Float32Array, ForecastBlock
from forecast.rounding import as_recorded
from forecast.schema import Schema

CALIBRATED = "champion_calibrated"
DERIVED = (CALIBRATED, ENSEMBLE)


@dataclass(frozen=True, slots=True)
class Limits:
    """What quantiles of each target [T] keep to, in its unit: bounds, infinite where there is none,
    and the least width of an interval."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    resolution: tuple[float, ...]

    @classmethod
    def none(cls, targets: int) -> Self:
        """No bounds."""
        return cls((-math.inf,) * targets, (math.inf,) * targets, (1e-9,) * targets)

    def bounds(self) -> tuple[Float32Array, Float32Array]:
        """Lower and upper bound [T]."""
        return np.array(self.lower, np.float32), np.array(self.upper, np.float32)

    @classmethod
    def of(cls, schema: Schema) -> Self:
        """Those that the targets declare."""
        metrics = [schema.metric(target) for target in schema.targets]
        return cls(
            tuple(-math.inf if metric.lower is None else metric.lower for metric in metrics),
            tuple(math.inf if metric.upper is None else metric.upper for metric in metrics),
            tuple(metric.resolution for metric in metrics),
        )


@dataclass(frozen=True, slots=True)
class Derived:
    """Weights of the ensemble, and the offsets of what is calibrated."""

    rule: Rule
    limits: Limits = field(repr=False)
    weights: Weights = field(repr=False)
    champion: Calibration = field(repr=False)
    ensemble: Calibration = field(repr=False)

    @classmethod
    def fresh(
        cls,
        targets: Sequence[str],
        levels: Sequence[float],
        horizon: int,
        limits: Limits | None,
        rule: Rule,
    ) -> Self:
        """Nothing has matured yet."""
        width = len(targets)
        none = Calibration.fresh(horizon, width, levels)
        weights = Weights.fresh(horizon, width, levels)
        return cls(rule, limits or Limits.none(width), weights, none, none)

    def derive(self, blocks: Sequence[ForecastBlock]) -> tuple[ForecastBlock, ...]:
        """The blocks of one origin with the derived ones, which come after their parts.

        All blocks but the shadows' name the same servers in the same order, and versions come
        newest first. Without a champion nothing is derived.
        """
        parts = parts_of(blocks)
        champion = next((block for block in parts if block.member == CHAMPION), None)
        if champion is None:
            return tuple(blocks)
        own = [block for block in blocks if block.member not in DERIVED]
        if self.rule == "recency":
            parts = [one for one in parts if one.version is not None][::-1]
        servers, names = champion.servers, tuple(block.member for block in parts)
        versions = tuple(block.version for block in parts)
        weights = by_rule(self.rule, self.weights, names, servers, versions)
        groups, of_level = self.weights.groups, self.weights.parts
        mixed = combine(weights, np.stack([block.values for block in parts]), groups, of_level)
        shown = np.moveaxis(weights[:, :, groups][..., of_level].mean(axis=(2, 4)), 1, 2)
        moved = self._moved(self.champion, servers, champion.values)
        calibrated = replace(champion, member=CALIBRATED, values=moved)
        ensemble = replace(
            champion,
            member=ENSEMBLE,
            version=None,
            values=self._moved(self.ensemble, servers, mixed),
            members=names,
            versions=versions,
            weights=np.ascontiguousarray(shown, np.float32),
        )
        return (*own, calibrated, ensemble)

    def recorded(self, blocks: Sequence[ForecastBlock]) -> tuple[ForecastBlock, ...]:
        """What is of record: the members' blocks and what is derived of them, all of them rounded.

        Rounded to the form in which blocks are stored (`rounding.as_recorded`): what is served and
        scored is what is kept.
        """
        every = self.derive([self._rounded(block) for block in blocks])
        return tuple(self._rounded(one) if one.member in DERIVED else one for one in every)

    def after(
        self,
        servers: Sequence[str],
        actuals_ST: FloatArray,
        origins: Sequence[Sequence[ForecastBlock]],
    ) -> Derived:
        """What is known once the actuals [S, T] of a slot came.

        `origins[h]` are the blocks of the origin h + 1 slots before, as for `scoring.join`.
        """
        found = {step: blocks for step, blocks in enumerate(origins, 1) if _complete(blocks)}
        if not found:
            return self
        newest = parts_of(found[min(found)])
        rows = newest[0].servers
        actuals = aligned(np.asarray(actuals_ST, np.float32), servers, rows)
        names = tuple(block.member for block in newest)
        versions = tuple(block.version for block in newest)
        issued = {step: _step(blocks, ENSEMBLE, step, rows) for step, blocks in found.items()}
        own = {step: _step(blocks, CALIBRATED, step, rows) for step, blocks in found.items()}
        matured = {
            step: (np.stack([_part(blocks, one, step, rows) for one in newest]), issued[step])
            for step, blocks in found.items()
        }
        resolution = np.array(self.limits.resolution, np.float32)
        return replace(
            self,
            weights=self.weights.learned(names, rows, matured, actuals, newest[0].levels, versions),
            champion=self.champion.learned(rows, own, actuals, resolution),
            ensemble=self.ensemble.learned(rows, issued, actuals, resolution),
        )

    def pack(self) -> bytes:
        """What is known as bytes, for storage."""
        parts = {name: getattr(self, name).pack() for name in ("weights", "champion", "ensemble")}
        arrays = {name: np.frombuffer(data, np.uint8) for name, data in parts.items()}
        return pack("derived", {}, arrays)

    def restored(self, data: bytes | memoryview) -> Derived:
        """What `pack` wrote under today's rule and limits; raises StateError when it is damaged."""
        _, parts = unpack("derived", data)
        return replace(
            self,
            weights=Weights.unpack(parts["weights"].data),
            champion=Calibration.unpack(parts["champion"].data),
            ensemble=Calibration.unpack(parts["ensemble"].data),
        )

    def _rounded(self, block: ForecastBlock) -> ForecastBlock:
        lower, upper = self.limits.bounds()
        return replace(block, values=as_recorded(block.values, lower=lower, upper=upper))

    def _moved(
        self, offsets: Calibration, servers: Sequence[str], values: Float32Array
    ) -> Float32Array:
        lower, upper = self.limits.bounds()
        return offsets.applied(
            servers,
            values,
            resolution=np.array(self.limits.resolution, np.float32),
            lower=lower,
            upper=upper,
        )


def parts_of(blocks: Sequence[ForecastBlock]) -> list[ForecastBlock]:
    """The blocks that the ensemble is made of: not what is derived, and no shadow."""
    return [block for block in blocks if block.member not in (*DERIVED, *SHADOWS)]


def _complete(blocks: Sequence[ForecastBlock]) -> bool:
    return set(DERIVED) <= {block.member for block in blocks}


def _step(
    blocks: Sequence[ForecastBlock], member: str, step: int, servers: Sequence[str]
) -> Float32Array:
    """One step of a member's block [S, T, Q]; NaN where it has none."""
    block = next((one for one in blocks if one.member == member), None)
    if block is None:
        shape = (len(servers), len(blocks[0].targets), len(blocks[0].levels))
        return np.full(shape, np.nan, np.float32)
    return aligned(block.values[:, step - 1], block.servers, servers)


def _part(
    blocks: Sequence[ForecastBlock], like: ForecastBlock, step: int, servers: Sequence[str]
) -> Float32Array:
    """One step of who issues as `like` today [S, T, Q]: of its version, whatever it was called.

    A version that had not come yet is told by who was champion in its place.
    """
    if like.version is None:
        return _step(blocks, like.member, step, servers)
    same = [one.member for one in parts_of(blocks) if one.version == like.version]
    return _step(blocks, same[0] if same else CHAMPION, step, servers)
