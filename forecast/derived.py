"""The derived members: the ensemble of all others, the champion and its challenger calibrated.

    derive   blocks of the members  ->  + champion_calibrated, + challenger_calibrated where there
             is a challenger, + ensemble                                         what is issued
    after    a slot's actuals x the blocks that forecast it  ->  weights and offsets after it

In the ensemble whoever has a share of the champion's seat stands in its place (`seat`). A
challenger has a say there by its share alone; when it becomes champion, its offsets and what it
forecast beside the other count for it.

A value: `after` makes a new one. What is known at a slot depends on what had matured by then alone.

Legend: K members, S servers, T targets, H horizon, Q levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from forecast.calibration import Calibration
from forecast.ensemble import Rule, Weights, by_rule, combine
from forecast.issued import (
    CALIBRATED,
    MADE,
    TRIAL_CALIBRATED,
    block_of,
    calibrated_step,
    complete,
    part_of_seat,
    parts_of,
    seat_of,
    seated,
    step_of,
    version_of,
)
from forecast.metrics import FloatArray
from forecast.packing import pack, unpack
from forecast.places import aligned
from forecast.record import CHAMPION, ENSEMBLE, Float32Array, ForecastBlock
from forecast.rollout import CHALLENGER, is_trial
from forecast.rounding import as_recorded
from forecast.schema import Schema
from forecast.seat import Seat, shown


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
    challenger: Calibration = field(repr=False)
    trial: int | None = None
    """The version that the challenger's offsets are of."""

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
        return cls(rule, limits or Limits.none(width), weights, none, none, none)

    def derive(
        self, blocks: Sequence[ForecastBlock], seat: Seat | None = None
    ) -> tuple[ForecastBlock, ...]:
        """The blocks of one origin with the derived ones, which come after their parts.

        All blocks but the shadows' name the same servers in the same order, and versions come
        newest first. `seat` says who stands in the champion's place, None: itself. Without a
        champion nothing is derived.
        """
        parts = parts_of(blocks)
        champion = block_of(parts, CHAMPION)
        if champion is None:
            return tuple(blocks)
        voting = [one for one in parts if not is_trial(one.member)]
        if self.rule == "recency":
            voting = [one for one in voting if one.version is not None][::-1]
        servers, names = champion.servers, tuple(block.member for block in voting)
        versions = tuple(block.version for block in voting)
        weights = by_rule(self.rule, self.weights, names, servers, versions)
        groups, of_level = self.weights.groups, self.weights.parts
        stand: Float32Array = champion.values
        told: Float32Array = stand
        if seat is not None:
            stand, told = seat.taken(champion.version, [*seated(parts, seat), champion.values])
        values = [stand if block is champion else block.values for block in voting]
        mixed = combine(weights, np.stack(values), groups, of_level)
        shares: Float32Array = np.ascontiguousarray(
            np.moveaxis(weights[:, :, groups][..., of_level].mean(axis=(2, 4)), 1, 2), np.float32
        )
        ensemble = replace(
            champion,
            member=ENSEMBLE,
            version=None,
            values=self._moved(self.ensemble, servers, mixed),
            members=names,
            versions=versions,
            weights=shares,
        )
        if seat is not None:
            who, numbers, shares = shown(names, versions, shares, parts, seat, told)
            ensemble = replace(
                ensemble,
                members=who,
                versions=numbers,
                weights=shares,
                seat=seat.versions,
                shares=seat.shares,
            )
        own = [block for block in blocks if block.member not in MADE]
        return (*own, *self._calibrated(champion, block_of(parts, CHALLENGER)), ensemble)

    def recorded(
        self, blocks: Sequence[ForecastBlock], seat: Seat | None = None
    ) -> tuple[ForecastBlock, ...]:
        """What is of record: the members' blocks and what is derived of them, all of them rounded.

        Rounded to the form in which blocks are stored (`rounding.as_recorded`): what is served and
        scored is what is kept.
        """
        every = self.derive([self._rounded(block) for block in blocks], seat)
        return tuple(self._rounded(one) if one.member in MADE else one for one in every)

    def after(
        self,
        servers: Sequence[str],
        actuals_ST: FloatArray,
        origins: Sequence[Sequence[ForecastBlock]],
    ) -> Derived:
        """What is known once the actuals [S, T] of a slot came.

        `origins[h]` are the blocks of the origin h + 1 slots before, as for `scoring.join`.
        """
        found = {step: blocks for step, blocks in enumerate(origins, 1) if complete(blocks)}
        if not found:
            return self
        last = found[min(found)]
        newest = [one for one in parts_of(last) if not is_trial(one.member)]
        rows = newest[0].servers
        actuals = aligned(np.asarray(actuals_ST, np.float32), servers, rows)
        names = tuple(block.member for block in newest)
        versions = tuple(block.version for block in newest)
        issued = {step: step_of(blocks, ENSEMBLE, step, rows) for step, blocks in found.items()}
        seat = seat_of(last)
        matured = {
            step: (
                np.stack([part_of_seat(blocks, one, step, rows, seat) for one in newest]),
                issued[step],
            )
            for step, blocks in found.items()
        }
        resolution = np.array(self.limits.resolution, np.float32)
        serves, trial = (version_of(last, member) for member in (CHAMPION, CHALLENGER))
        champion, challenger = self._offsets(serves, trial)
        own, beside = (
            {step: calibrated_step(blocks, one, step, rows) for step, blocks in found.items()}
            for one in (serves, trial)
        )
        if trial is not None:
            challenger = challenger.learned(rows, beside, actuals, resolution)
        return replace(
            self,
            weights=self.weights.learned(names, rows, matured, actuals, newest[0].levels, versions),
            champion=champion.learned(rows, own, actuals, resolution),
            ensemble=self.ensemble.learned(rows, issued, actuals, resolution),
            challenger=challenger,
            trial=trial,
        )

    def pack(self) -> bytes:
        """What is known as bytes, for storage."""
        names = ["weights", "champion", "ensemble"]
        names += [] if self.trial is None else ["challenger"]
        arrays = {name: np.frombuffer(getattr(self, name).pack(), np.uint8) for name in names}
        return pack("derived", {} if self.trial is None else {"trial": self.trial}, arrays)

    def restored(self, data: bytes | memoryview) -> Derived:
        """What `pack` wrote under today's rule and limits; raises StateError when it is damaged."""
        header, parts = unpack("derived", data)
        known = {
            name: Calibration.unpack(part.data) for name, part in parts.items() if name != "weights"
        }
        return replace(
            self,
            weights=Weights.unpack(parts["weights"].data),
            champion=known["champion"],
            ensemble=known["ensemble"],
            challenger=known.get("challenger", self.challenger),
            trial=header.get("trial"),
        )

    def _offsets(
        self, champion: int | None, challenger: int | None
    ) -> tuple[Calibration, Calibration]:
        """The offsets of these versions; a new challenger begins with the champion's."""
        arrived = self.trial is not None and self.trial == champion
        own = self.challenger if arrived else self.champion
        known = challenger is not None and challenger == self.trial
        return own, self.challenger if known else own

    def _calibrated(
        self, champion: ForecastBlock, challenger: ForecastBlock | None
    ) -> Iterator[ForecastBlock]:
        number = None if challenger is None else challenger.version
        own, beside = self._offsets(champion.version, number)
        moved = self._moved(own, champion.servers, champion.values)
        yield replace(champion, member=CALIBRATED, values=moved)
        if challenger is not None:
            moved = self._moved(beside, challenger.servers, challenger.values)
            yield replace(challenger, member=TRIAL_CALIBRATED, values=moved)

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
