"""The champion's seat: whose quantiles stand in the ensemble for the version that serves.

By the rollout table that is, server by server, the average of some versions, level by level and
sorted. A version that issued nothing for a series has no say in it; where none of a server's did,
the champion answers.

S servers, V versions of the seat, T targets, H horizon, Q levels, K members.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.record import CHAMPION, ForecastBlock
from forecast.rollout import Table

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Seat:
    """The versions that share the seat, and each server's shares float32 [S, V]."""

    versions: tuple[int, ...]
    shares: Float32Array = field(repr=False)

    @classmethod
    def of(
        cls, table: Table | None, champion: int, servers: Sequence[str], live: Collection[int]
    ) -> Self | None:
        """The seat by a table; None where it is the champion's alone."""
        if table is None:
            return None
        versions, shares = table.shares(servers, live)
        return cls(versions, shares) if {*versions} - {champion} else None

    def taken(
        self, champion: int | None, values: Sequence[Float32Array]
    ) -> tuple[Float32Array, Float32Array]:
        """Who really answers in it [S, T, V + 1], the champion in the champion's place last, and
        with what [S, ..., T, Q].

        `values` are each version's, then those of the version `champion`.
        """
        issued = [np.isfinite(one).all(axis=_between(one.ndim)) for one in values]
        held = self.shares[:, None, :] * np.stack(issued[:-1], axis=-1)
        whole = held.sum(-1, keepdims=True)
        held = np.divide(held, whole, out=np.zeros_like(held), where=whole > 0)
        held = np.concatenate([held, np.asarray(whole == 0, np.float32)], axis=-1)
        mixed = np.zeros_like(values[-1])
        for at, one in enumerate(values):
            share = _along(held[..., at], mixed.ndim)
            mixed += np.where(share > 0, share * np.where(np.isfinite(one), one, 0), 0)
        # The champion's silence where it answers: NaN, as ever.
        silent = _along(held[..., -1] > 0, mixed.ndim)
        several = _along((held > 0).sum(-1) > 1, mixed.ndim)
        mixed = np.where(several, np.sort(mixed, axis=-1), mixed)
        mixed = np.where(silent, values[-1], mixed).astype(np.float32)
        if champion in self.versions:
            held[..., self.versions.index(champion)] += held[..., -1]
            held[..., -1] = 0
        return mixed, held


def shown(
    names: Sequence[str],
    versions: Sequence[int | None],
    weights_STK: Float32Array,
    parts: Sequence[ForecastBlock],
    seat: Seat,
    held_STV: Float32Array,
) -> tuple[tuple[str, ...], tuple[int | None, ...], Float32Array]:
    """Members, versions and weights [S, T, K] of an ensemble, the seat's given to who sat in it."""
    names, versions = [*names], [*versions]
    place = names.index(CHAMPION)
    of_seat, weights = weights_STK[..., place], [*np.moveaxis(weights_STK, -1, 0)]
    weights[place] = of_seat * held_STV[..., -1]
    for at, version in enumerate(seat.versions):
        if version not in versions:
            names.append(next(one.member for one in parts if one.version == version))
            versions.append(version)
            weights.append(np.zeros_like(of_seat))
        weights[versions.index(version)] = (
            weights[versions.index(version)] + of_seat * held_STV[..., at]
        )
    return tuple(names), tuple(versions), np.stack(weights, axis=-1).astype(np.float32)


def _between(dimensions: int) -> tuple[int, ...]:
    """The axes of a series' values [S, ..., T, Q] but for S and T."""
    return (*range(1, dimensions - 2), dimensions - 1)


def _along(given_ST: NDArray[Any], dimensions: int) -> NDArray[Any]:
    """What is said of series [S, T], to stand beside their values [S, ..., T, Q]."""
    servers, targets = given_ST.shape
    return given_ST.reshape(servers, *(1,) * (dimensions - 3), targets, 1)
