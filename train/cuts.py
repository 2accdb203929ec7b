"""Cuts windows from the grid: which server and slot make a window, and what it holds.

N windows, S servers, L context slots, H horizon slots, M metrics, T targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from forecast.clock import SILENT_SLOTS
from forecast.schema import Schema
from forecast.windows import RawWindows
from train.grid import Grid
from train.roster import Roster
from train.spread import Spread

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Masker = Callable[[Sequence[str], IntArray], BoolArray]
"""Which slots [K] of which servers [S] say nothing: [S, K]."""

Only = Sequence[str] | None
"""The servers that windows are taken from; None: all."""

_SERVERS_AT_A_TIME = 64


class Cutter:
    """Reads windows; a window reads nothing after its origin, but for its labels."""

    def __init__(
        self,
        *,
        grid: Grid,
        roster: Roster,
        spread: Spread,
        schema: Schema,
        context: int,
        horizon: int,
    ) -> None:
        self._grid, self._roster, self._spread = grid, roster, spread
        self._schema = schema
        self._context, self._horizon = context, horizon
        self._targets = np.array(schema.target_columns)

    def cut(
        self, servers: Sequence[str], origins: IntArray, *, labels: bool, as_of: int | None = None
    ) -> RawWindows:
        """The window of each server [N] with each origin [N].

        The spread is that of `as_of`, or of each origin when that is None. Raises KeyError for an
        unknown server.
        """
        rows = self._roster.rows(servers)
        origins = np.asarray(origins, dtype=np.int64)
        slots = origins[:, None] + np.arange(1 - self._context, self._horizon + 1)
        values = self._grid.gather(rows, slots)
        if not labels:
            values[:, self._context :] = np.nan
        infos = [self._roster.info(name) for name in servers]
        return RawWindows(
            servers=tuple(servers),
            roles=tuple(info.role for info in infos),
            timezones=tuple(info.timezone for info in infos),
            metrics=self._schema.names,
            context=self._context,
            horizon=self._horizon,
            step_seconds=self._schema.step_seconds,
            origin=origins,
            values=values,
            daily=self._lagged(rows, slots, origins, self._roster.day),
            weekly=self._lagged(rows, slots, origins, 7 * self._roster.day),
            spread=self._spreads(rows, origins, as_of),
        )

    def drawn(
        self,
        first: int,
        last: int,
        *,
        count: int,
        seed: int,
        masker: Masker | None = None,
        only: Only = None,
    ) -> tuple[list[str], IntArray]:
        """Servers and origins of `count` windows, uniform over all that can teach something.

        Origins lie in [first, last]; each window comes up once at most, in random order. Fewer come
        back when there are fewer.
        """
        names, fit = self._eligible(np.arange(first, last + 1), masker, only)
        places = np.flatnonzero(fit)
        rng = np.random.default_rng(seed)
        chosen = rng.choice(places, size=min(count, len(places)), replace=False)
        server, offset = np.divmod(chosen, fit.shape[1])
        return [names[at] for at in server], (first + offset).astype(np.int64)

    def spaced(
        self, origins: IntArray, *, masker: Masker | None = None, only: Only = None
    ) -> tuple[list[str], IntArray]:
        """Servers and origins of every window that can teach something, with these origins."""
        names, fit = self._eligible(origins, masker, only)
        server, at = np.nonzero(fit)
        return [names[index] for index in server], origins[at]

    def _eligible(
        self, origins: IntArray, masker: Masker | None, only: Only
    ) -> tuple[list[str], BoolArray]:
        """Names [S], and which of their windows with these rising origins are worth learning from.

        The context lies inside the server's life, at least half of the label cells are known, a
        target was observed in the origin's last 3 slots, and no label lies in a masked slot.
        """
        names = self._roster.names()
        if only is not None:
            wanted = frozenset(only)
            names = [name for name in names if name in wanted]
        fit = np.zeros((len(names), len(origins)), dtype=np.bool_)
        for begin in range(0, len(names) if len(origins) else 0, _SERVERS_AT_A_TIME):
            part = slice(begin, begin + _SERVERS_AT_A_TIME)
            rows = self._roster.rows(names[part])
            alive = origins - self._context + 1 >= self._roster.first[rows][:, None]
            fit[part] = alive & self._taught(rows, origins)
            if masker is not None:
                fit[part] &= self._unmasked(names[part], origins, masker)
        return names, fit

    def _unmasked(self, names: Sequence[str], origins: IntArray, masker: Masker) -> BoolArray:
        """Which windows [S, N] have no label in a masked slot."""
        first = int(origins[0]) + 1
        masked = masker(names, np.arange(first, int(origins[-1]) + self._horizon + 1))
        before = np.zeros((len(names), masked.shape[1] + 1), dtype=np.int64)
        np.cumsum(masked, axis=1, out=before[:, 1:])
        at = origins - first + 1
        clear: BoolArray = before[:, at + self._horizon] == before[:, at]
        return clear

    def _taught(self, rows: IntArray, origins: IntArray) -> BoolArray:
        first = int(origins[0]) - SILENT_SLOTS + 1
        slots = np.arange(first, int(origins[-1]) + self._horizon + 1)
        seen = ~np.isnan(self._grid.gather(rows, slots)[:, :, self._targets])
        before = np.zeros((len(rows), len(slots) + 1), dtype=np.int64)
        np.cumsum(seen.sum(axis=2), axis=1, out=before[:, 1:])
        at = origins - first + 1
        labels = before[:, at + self._horizon] - before[:, at]
        recent = before[:, at] - before[:, at - SILENT_SLOTS]
        enough: BoolArray = 2 * labels >= self._horizon * len(self._targets)
        return enough & (recent > 0)

    def _lagged(
        self, rows: IntArray, slots: IntArray, origins: IntArray, lag: int
    ) -> NDArray[np.float32]:
        """Values `lag` slots before; a horizon longer than the lag would read past the origin."""
        values = self._grid.gather(rows, slots - lag)
        if self._horizon > lag:
            values[slots - lag > origins[:, None]] = np.nan
        return values

    def _spreads(self, rows: IntArray, origins: IntArray, as_of: int | None) -> NDArray[np.float32]:
        if as_of is not None:
            return self._spread.of(rows, as_of)
        spreads = np.empty((len(rows), len(self._schema.metrics)), np.float32)
        hours = np.array([self._spread.hour(int(origin)) for origin in origins], dtype=np.int64)
        for hour in np.unique(hours):
            inside = hours == hour
            spreads[inside] = self._spread.of(rows[inside], int(hour))
        return spreads
