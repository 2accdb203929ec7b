"""Whether a version on its way goes on, goes back or stays: a paired test on live forecasts.

Challenger and champion issue calibrated forecasts for the same servers and slots; what they lost
is compared slot by slot, over the whole fleet and role by role:

    x_b   mean over targets of (challenger's loss - champion's) in block b, in the champion's usual
          loss: 0.01 is a percent worse. Blocks of a horizon, as neighbours share their outcomes
    L_n   mean - s * sqrt(2 (n r + 1) / (n^2 r) * log(1 + sqrt(n r + 1) / (2 a)))

L_n bounds the mean of all blocks so far from below, with an error of `a` over all times at which it
is looked at: looking after every slot costs nothing (Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas, Time-uniform central limit theory and asymptotic confidence sequences, Annals of Statistics
52, 2024, the one-sided form). That is of blocks that know nothing of each other; neighbours here
resemble each other, so `s` has `KIN` times their variance, and one more block of a usual spread, so
that two that happen to agree say little.

A verdict acts on nothing. The same losses give the same verdict.

S servers, T targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from forecast.rollout import Flight, Stage

ERROR = 0.05
"""a: how often a version that is no worse is called worse, at any time of its way."""

TUNED = 6
"""Blocks at which the bound is tightest."""

SPREAD = 0.05
"""The usual spread of blocks, which one more block stands for."""

KIN = 2.0
"""What neighbours that correlate by a third make of a mean's variance: (1 + 1/3) / (1 - 1/3)."""

RUIN, ROLE_RUIN = 0.5, 1.0
"""A loss higher by so much is no chance: of the fleet in a few slots, of a role in a block."""

_FEW = 3
"""Slots that are enough to see a ruin of the fleet."""

_ROLE_SHARE = 0.02
"""Of the cells: a role with less, and less than half of an even share, has no say (as the gate)."""

Move = Literal["hold", "advance", "promote", "back"]
Pairs = tuple[tuple[float, float], ...]
"""By target: what the challenger lost, and the champion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRules:
    """How a version goes to everyone. Lengths are in slots."""

    shadow: int
    canary: int
    fast_shadow: int
    fast_canary: int
    canary_share: float
    horizon: int
    threshold: float
    """How much worse, as a share, a version may be at the bound, and at the end of a stage."""
    automatic: bool = True
    """Off: what serves a canary cohort goes back by hand only."""

    def length(self, stage: Stage, *, fast: bool) -> int:
        """How long a stage lasts at least."""
        if stage == "shadow":
            return self.fast_shadow if fast else self.shadow
        return self.fast_canary if fast else self.canary

    def first(self, *, fast: bool) -> Stage:
        """The stage that a version begins with."""
        return "shadow" if self.length("shadow", fast=fast) else "canary"


@dataclass(frozen=True, slots=True)
class Group:
    """What was lost on the cells of some servers: in all, in the open block, block by block."""

    cells: int = 0
    slots: int = 0
    total: Pairs = ()
    open_slots: int = 0
    open: Pairs = ()
    blocks: int = 0
    mean: float = 0.0
    """Of the blocks' changes, and the sum of their squared distances from it."""
    spread: float = 0.0
    last: float | None = None
    """The last block's change."""

    def added(self, cells: int, pairs: Pairs, block: int) -> Group:
        """With one more slot; a block of so many slots that is full is closed."""
        held = replace(
            self,
            cells=self.cells + cells,
            slots=self.slots + 1,
            total=_sum(self.total, pairs),
            open_slots=self.open_slots + 1,
            open=_sum(self.open, pairs),
        )
        return held._closed() if held.open_slots >= block else held

    @property
    def change(self) -> float | None:
        """How much more the challenger lost in all, as a share; None without a loss to tell by."""
        return _change(self.total, self.slots, self.total, self.slots)

    @property
    def newest(self) -> float | None:
        """The change in the open block; None before there is a loss to tell by."""
        return _change(self.open, self.open_slots, self.total, self.slots)

    def lower(self, error: float = ERROR) -> float:
        """Bound from below on the mean change, whenever it is looked at."""
        n = self.blocks
        if n < 2:
            return -math.inf
        known = -2 * math.log(ERROR)
        r = (known + math.log(known) + 1) / TUNED
        deviation = math.sqrt((KIN * self.spread + SPREAD**2) / n)
        reach = 2 * (n * r + 1) / (n * n * r) * math.log(1 + math.sqrt(n * r + 1) / (2 * error))
        return self.mean - deviation * math.sqrt(reach)

    def to_json(self, error: float = ERROR) -> dict[str, Any]:
        """Its figures, for people."""
        lower = self.lower(error)
        return {
            "cells": self.cells,
            "blocks": self.blocks,
            "change": self.change,
            "lower_bound": lower if math.isfinite(lower) else None,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """What a state file holds."""
        pairs = {
            name: tuple((float(mine), float(theirs)) for mine, theirs in stored[name])
            for name in ("total", "open")
        }
        return cls(**{**stored, **pairs})

    def _closed(self) -> Group:
        found = self.newest
        shut = replace(self, open_slots=0, open=())
        if found is None:
            return shut
        blocks = self.blocks + 1
        mean = self.mean + (found - self.mean) / blocks
        spread = self.spread + (found - self.mean) * (found - mean)
        return replace(shut, blocks=blocks, mean=mean, spread=spread, last=found)


@dataclass(frozen=True, slots=True)
class Trial:
    """The comparison of one version on its way; small, so that it is kept with each step."""

    version: int
    began: int
    through: int
    """The last slot that was compared."""
    every: Group = field(default_factory=Group)
    roles: Mapping[str, Group] = field(default_factory=dict)
    silent: int = 0
    """Series of the last slot for which the champion issued and the challenger did not."""

    @classmethod
    def fresh(cls, flight: Flight) -> Self:
        """Nothing was compared yet."""
        return cls(flight.version, flight.began, flight.began)

    def of(self, flight: Flight) -> bool:
        """Whether this is the comparison of what is in flight."""
        return (self.version, self.began) == (flight.version, flight.began)

    def added(
        self,
        slot: int,
        challenger_ST: NDArray[np.float32],
        champion_ST: NDArray[np.float32],
        roles: Sequence[str],
        horizon: int,
    ) -> Trial:
        """With the losses of one more slot; NaN where one issued nothing, or nothing came.

        A slot counts once all that forecast it knew the challenger: before that fewer of its steps
        are in its loss than in the champion's.
        """
        if slot <= self.through or slot - horizon < self.began:
            return self
        told = np.isfinite(champion_ST)
        both = told & np.isfinite(challenger_ST)
        known = replace(self, through=slot, silent=int((told & ~both).sum()))
        if not both.any():
            return known
        mine, theirs = (
            np.where(both, one, 0).astype(float) for one in (challenger_ST, champion_ST)
        )
        names, groups = np.array(roles, dtype=object), dict(self.roles)
        for role in sorted(set(roles)):
            among = names == role
            if both[among].any():
                group = groups.get(role, Group())
                groups[role] = group.added(*_pairs(mine, theirs, both, among), horizon)
        every = self.every.added(*_pairs(mine, theirs, both, np.ones(len(both), bool)), horizon)
        return replace(known, every=every, roles=groups)

    def to_json(self) -> dict[str, Any]:
        """The figures so far, for people."""
        alone = ERROR / max(1, len(self.roles))
        return {
            "slots": self.every.slots,
            **self.every.to_json(),
            "silent": self.silent,
            "roles": {name: one.to_json(alone) for name, one in self.roles.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """What a state file holds."""
        roles = {name: Group.from_json(one) for name, one in stored["roles"].items()}
        return cls(**{**stored, "every": Group.from_json(stored["every"]), "roles": roles})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of a version on its way, and why."""

    move: Move
    reasons: tuple[str, ...]


def decide(trial: Trial, flight: Flight, rules: RolloutRules, *, slot: int) -> Verdict:
    """Judge what is in flight by all that was compared up to a slot."""
    if flight.stage == "operator":
        return Verdict("hold", ("somebody's own table",))
    if bad := tuple(_against(trial, rules)):
        return Verdict("back", bad)
    length = rules.length(flight.stage, fast=flight.fast)
    if slot - flight.since < length or not trial.every.blocks:
        done = max(0, slot - flight.since)
        return Verdict("hold", (f"{done} of {length} slots of the {flight.stage} stage are over",))
    change = trial.every.change or 0.0
    said = f"the loss changes by {change:+.2%} against the champion's, at least by "
    said += f"{trial.every.lower():+.2%}, in {trial.every.blocks} blocks of live forecasts"
    if trial.every.lower() > 0 or change > rules.threshold:
        return Verdict("back", (said,))
    return Verdict("advance" if flight.stage == "shadow" else "promote", (said,))


def _against(trial: Trial, rules: RolloutRules) -> Iterator[str]:
    """What speaks so clearly against a version that it need not wait for its stage's end."""
    every = trial.every
    if trial.silent:
        yield f"it issued nothing for {trial.silent} series that the champion answers for"
    recent = every.newest if every.open_slots >= _FEW else every.last
    if recent is not None and recent > RUIN:
        yield f"of late it loses {recent:+.0%} more than the champion"
    if every.lower() > rules.threshold:
        yield (
            f"the loss changes by {every.lower():+.2%} at least, allowed are {rules.threshold:+.2%}"
        )
    alone = ERROR / max(1, len(trial.roles))
    least = min(_ROLE_SHARE, 0.5 / max(1, len(trial.roles))) * every.cells
    for name, role in trial.roles.items() if len(trial.roles) > 1 else ():
        if role.cells < least:
            continue
        if role.last is not None and role.last > ROLE_RUIN:
            yield f"role {name or 'unknown'!r} is ruined: it loses {role.last:+.0%} more"
        elif role.lower(alone) > rules.threshold:
            yield (
                f"role {name or 'unknown'!r} is sacrificed: its loss changes by "
                f"{role.lower(alone):+.2%} at least"
            )


def _pairs(
    mine: NDArray[np.float64],
    theirs: NDArray[np.float64],
    both: NDArray[np.bool_],
    among: NDArray[np.bool_],
) -> tuple[int, Pairs]:
    """Cells, and by target what both lost on the servers `among`."""
    sums = zip(mine[among].sum(0).tolist(), theirs[among].sum(0).tolist(), strict=True)
    return int(both[among].sum()), tuple(sums)


def _sum(one: Pairs, other: Pairs) -> Pairs:
    if not one:
        return other
    return tuple((a + c, b + d) for (a, b), (c, d) in zip(one, other, strict=True))


def _change(pairs: Pairs, slots: int, total: Pairs, all_slots: int) -> float | None:
    """Mean over targets of what the challenger lost more per slot, in the champion's usual loss."""
    found = [
        ((mine - theirs) / slots) / (usual / all_slots)
        for (mine, theirs), (_, usual) in zip(pairs, total, strict=True)
        if usual > 0 and slots
    ]
    return sum(found) / len(found) if found else None
