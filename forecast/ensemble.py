"""Weights of the ensemble's members, learned from matured forecasts: online aggregation.

Bernstein online aggregation (Wintenberger, Optimal learning with Bernstein online aggregation,
Machine Learning 106, 2017), discounted, on the linearised pinball loss. For member k, in a cell of
the weights, once forecasts have matured:

    r_k  =  sum of dl(y, q)/dq * (q - q_k)       q as issued: how much better k would have been
    V_k <-  g V_k + 2.2 r_k^2                    eta_k = V_k^-1/2
    R_k <-  g R_k + r_k - eta_k r_k^2
    w_k  ~  eta_k exp(e_k)                       then w <- (1 - a) w + a / K

Each server learns for itself, and beside it the fleet: from every server's regret in units of its
own. The fleet is sure sooner, so it leads as long as little of the server's own has matured:

    N_k <-  g N_k + [r_k is not 0]               slots that taught something of k
    e_k  =  eta_k R_k + n0 / (n0 + N_k) * eta'_k R'_k             those with ' are the fleet's

What a version earned follows its number, whatever the member is called that it issues as: a new
champion starts with the record of the old one, and the old one, where it stays a member, keeps it.
A change of versions moves no weight between them all and the others (`aggregation.same_share`).

Legend: K members, S servers, T targets, H horizon, Q levels, G groups of steps, P parts of the
distribution (lower, middle, upper).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from forecast.aggregation import eta_of, inverse, same_share, shares, sureness
from forecast.packing import pack_fields, unpack_fields
from forecast.places import places
from forecast.record import CHAMPION

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

Rule = Literal["learned", "uniform", "recency"]
"""How members are weighed: by what they were worth, all alike, or the newest the most."""

RECENCY = (0.5, 0.3, 0.2)
"""Of the newest member, the one before it, and the one before that; older ones have none."""

DISCOUNT = 0.9995
"""What a slot's evidence keeps of its weight a slot later: a half-life of 4.8 days at 5 minutes."""


def step_groups(horizon: int) -> IntArray:
    """Group of each step [H]: the first, up to a third of the horizon, the rest.

    >>> step_groups(12).tolist()
    [0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    steps = np.arange(1, horizon + 1)
    return np.where(steps == 1, 0, np.where(steps <= max(2, horizon // 3), 1, 2))


def parts_of(levels: Sequence[float]) -> IntArray:
    """Part of the distribution that each level [Q] lies in.

    >>> parts_of((0.1, 0.5, 0.9)).tolist()
    [0, 1, 2]
    """
    return np.digitize(levels, (1 / 3, 2 / 3))


@dataclass(frozen=True, slots=True)
class Weights:
    """What is known of the members; `learned` makes new ones, these stay as they are.

    `regret` and `variance` float32 [1 + S, K, G, T, P] are R and V, `slots` [1 + S, K, G, T] is N;
    row 0 is the fleet's.
    """

    members: tuple[str, ...]
    servers: tuple[str, ...]
    groups: IntArray = field(repr=False)
    parts: IntArray = field(repr=False)
    regret: Float32Array = field(repr=False)
    variance: Float32Array = field(repr=False)
    slots: Float32Array = field(repr=False)
    versions: tuple[int | None, ...] = ()
    """Each member's version, None for one that is no version; empty where nobody said."""

    @classmethod
    def fresh(cls, horizon: int, targets: int, levels: Sequence[float]) -> Self:
        """Nothing is known of anybody yet."""
        groups, parts = step_groups(horizon), parts_of(levels)
        none = np.zeros((1, 0, 3, targets, 3), np.float32)
        return cls((), (), groups, parts, none, none, none[..., 0])

    def of(
        self,
        members: Sequence[str],
        servers: Sequence[str],
        versions: Sequence[int | None] = (),
    ) -> Float32Array:
        """Weights [S, K, G, T, P] of these members, each K summing to 1; unknown ones are alike.

        >>> weights = Weights.fresh(12, 1, (0.1, 0.5, 0.9)).of(("a", "b"), ("web-1",))
        >>> weights[0, :, 0, 0, 0].round(3).tolist()
        [0.5, 0.5]
        """
        known = self.among(members, servers, versions)
        eta, exponent = sureness(known.regret, known.variance, known.slots)
        return shares(eta[1:], exponent[1:])

    def among(
        self,
        members: Sequence[str],
        servers: Sequence[str],
        versions: Sequence[int | None] = (),
    ) -> Weights:
        """The same knowledge laid out for these members and servers; nothing of new ones.

        Of a version that is new, it is what the champion had earned.
        """
        asked = (tuple(members), tuple(servers), tuple(versions))
        if asked == (self.members, self.servers, self.versions):
            return self
        member = self._sources(*asked[::2])
        server = np.concatenate([[0], 1 + places(servers, self.servers)])
        rows = np.flatnonzero((server > 0) | (np.arange(len(server)) == 0))
        columns, parts, laid = member >= 0, (self.regret, self.variance, self.slots), []
        for old in parts:
            new = np.zeros((len(server), len(member), *old.shape[2:]), np.float32)
            new[np.ix_(rows, columns)] = old[np.ix_(server[rows], member[columns])]
            laid.append(new)
        before, now = _line(self.members, self.versions), _line(*asked[::2])
        if sorted(member[now]) != before:
            # The regrets of all versions, as they were: of the servers that are asked for.
            had = [part[server][:, before] for part in parts]
            laid[0][:, now] = same_share(had, [part[:, now] for part in laid])
        return replace(
            self,
            members=asked[0],
            servers=asked[1],
            versions=asked[2],
            regret=laid[0],
            variance=laid[1],
            slots=laid[2],
        )

    def _sources(self, members: Sequence[str], versions: Sequence[int | None]) -> IntArray:
        """Whose record each of these members has: a place in `self.members`, -1 for nobody's."""
        named = places(members, self.members)
        if not versions:
            return named
        [champion] = places((CHAMPION,), self.members)
        number = {version: at for at, version in enumerate(self.versions) if version is not None}
        return np.array(
            [
                name if version is None else number.get(version, champion)
                for name, version in zip(named.tolist(), versions, strict=True)
            ],
            np.int64,
        )

    def learned(
        self,
        members: Sequence[str],
        servers: Sequence[str],
        matured: Mapping[int, tuple[Float32Array, Float32Array]],
        actuals_ST: NDArray[Any],
        levels: Sequence[float],
        versions: Sequence[int | None] = (),
    ) -> Weights:
        """The weights after one more slot.

        `matured` has by steps ahead what each member forecast of this slot [K, S, T, Q] and what
        was issued [S, T, Q]; `actuals_ST` is what came. A cell where any of them is NaN teaches
        nothing of that member.
        """
        known = self.among(members, servers, versions)
        shape = known.regret[1:].shape
        total, count = np.zeros(shape, np.float32), np.zeros(shape[2:3], np.float32)
        tau = np.asarray(levels, np.float32)
        actual = np.asarray(actuals_ST, np.float32)[..., None]
        gather = np.eye(3, dtype=np.float32)[self.parts] / len(levels)
        for step, (forecast_KSTQ, issued_STQ) in matured.items():
            group = self.groups[step - 1]
            slope = np.where(actual < issued_STQ, 1 - tau, -tau)
            better = slope * (issued_STQ - forecast_KSTQ)
            known_cells = np.isfinite(better) & np.isfinite(actual)
            by_part = np.where(known_cells, better, 0) @ gather
            total[:, :, group] += np.moveaxis(by_part, 0, 1)
            count[group] += 1
        seen = count > 0
        found: Float32Array = total[:, :, seen] / count[seen][:, None, None]
        discount = np.float32(DISCOUNT)
        own = discount * known.variance[1:, :, seen] + np.float32(2.2) * found * found
        # The fleet's row counts servers alike: each one's regret in units of what its regrets are.
        unit = np.sqrt(own.mean(axis=(1, 4), keepdims=True))
        rows = np.concatenate([_mean(found * inverse(unit)), found])
        fleet = discount * known.variance[:1, :, seen] + np.float32(2.2) * rows[:1] ** 2
        v = np.concatenate([fleet, own])
        regret, variance, slots = known.regret.copy(), known.variance.copy(), known.slots.copy()
        eta = eta_of(v)
        variance[:, :, seen] = v
        regret[:, :, seen] = discount * regret[:, :, seen] + rows - eta * rows * rows
        slots[:, :, seen] = discount * slots[:, :, seen] + np.any(rows != 0, axis=-1)
        return replace(known, regret=regret, variance=variance, slots=slots)

    def pack(self) -> bytes:
        """The knowledge as bytes, for storage."""
        return pack_fields("weights", self)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """What `pack` wrote; raises StateError when it is damaged.

        What was written before slots were counted has none: the fleet leads till they are.
        """
        known = unpack_fields("weights", data)
        return cls(**{"slots": np.zeros(known["regret"].shape[:-1], np.float32), **known})


def by_rule(
    rule: Rule,
    weights: Weights,
    members: Sequence[str],
    servers: Sequence[str],
    versions: Sequence[int | None] = (),
) -> Float32Array:
    """Weights [S, K, G, T, P] of members given oldest first, by a rule."""
    if rule == "learned":
        return weights.of(members, servers, versions)
    shape = (len(servers), len(members), *weights.regret.shape[2:])
    if rule == "uniform":
        return np.full(shape, 1 / len(members), np.float32)
    newest = np.zeros(len(members), np.float32)
    newest[::-1][: len(RECENCY)] = RECENCY[: len(members)]
    return np.broadcast_to((newest / newest.sum())[:, None, None, None], shape)


def combine(
    weights_SKGTP: Float32Array,
    forecasts_KSHTQ: Float32Array,
    groups: IntArray,
    parts: IntArray,
) -> Float32Array:
    """The members' quantiles [S, H, T, Q] averaged level by level, then sorted.

    Averaging levels is Vincentisation (Ratcliff, Psychological Bulletin 86, 1979). A member that
    issued nothing for a series has no say in it; NaN where none did.
    """
    issued_KST = np.all(np.isfinite(forecasts_KSHTQ), axis=(2, 4))
    held = np.moveaxis(weights_SKGTP, 1, 0) * issued_KST[:, :, None, :, None]
    whole = held.sum(0)
    held = np.divide(held, whole, out=np.zeros_like(held), where=whole > 0)
    mixed = np.zeros(forecasts_KSHTQ.shape[1:], np.float32)
    for share, forecast in zip(held, forecasts_KSHTQ, strict=True):
        mixed += share[:, groups][..., parts] * np.where(np.isfinite(forecast), forecast, 0)
    mixed[~np.broadcast_to(issued_KST.any(0)[:, None], mixed.shape[:3])] = np.nan
    return np.sort(mixed, axis=-1)


def _line(members: Sequence[str], versions: Sequence[int | None]) -> list[int]:
    """The places of the members that are versions."""
    known = versions or (None,) * len(members)
    pairs = enumerate(zip(members, known, strict=True))
    return [at for at, (name, version) in pairs if version is not None or name == CHAMPION]


def _mean(rows: Float32Array) -> Float32Array:
    return rows.mean(0, keepdims=True) if len(rows) else np.zeros((1, *rows.shape[1:]), np.float32)
