"""The replay table: windows of all that ever came, to learn from again beside the newest.

    insert ──► stratum ──► room there, or in the largest stratum, or by lot within the own one
    draw   ──► half uniform, half by priority ──► windows and their importance weights

What stays: reservoir sampling within strata that are kept alike (Vitter 1985; for unlike classes
Chrysakis and Moens 2020), so that a quiet regime outlives both a busy one and the grid's history.
What is drawn: prioritized replay (Schaul et al. 2016) by loss over the server's typical loss, at
most 5, to the power 0.5. A noisy server's losses are large whatever is learned; they would crowd
out all else. Half of a draw heeds no priority, so none is ever stale for good.

A new window has the priority of its loss, or where nobody has measured one the median of its
stratum, not the highest: far fewer are drawn than come in, so most would never get another one,
and a draw by priority would be a draw among what nobody knows.

Everything follows from the order of calls and their seeds; no call reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.schema import Schema
from forecast.windows import RawWindows
from train.halves import Halves, restored
from train.offer import Offer, Owner
from train.strata import REGIMES, STRATA, Usual

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_UNIFORM = 0.5
"""Share of a draw that heeds no priority; it also bounds importance weights by 2 before scaling."""
_NOTHING_USUAL = 1.0
_OWNERS = 4096
"""Owners that are remembered at least; more only while they have windows in the table."""
_KEPT = ("stratum", "owner", "priority")


class ReplayTable:
    """At most `capacity` windows of one panel; memory is taken as they come.

    `alpha` 0 draws uniformly; `beta` 1 makes weighed losses of a draw those of a uniform draw on
    average, less than 1 leaves a part of the preference in. It is not raised over time, as in the
    paper, because a stream has no end by which to reach 1.

    >>> from forecast.schema import Metric
    >>> schema = Schema("servers", 300, (Metric("cpu"),), ("cpu",))
    >>> values = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3, 1)
    >>> raw = RawWindows(("web-01",) * 4, ("",) * 4, ("UTC",) * 4, ("cpu",), 2, 1, 300,
    ...                  np.arange(4), values, values, values, np.ones((4, 1), np.float32))
    >>> table = ReplayTable(schema=schema, context=2, horizon=1, capacity=3)
    >>> table.insert(Offer.of(raw, schema), losses=None, seed=7)
    >>> rows, weights = table.draw(2, last=9, seed=1)
    >>> len(table), table.windows(rows).origin.tolist(), weights.tolist()
    (3, [0, 2], [1.0, 1.0])
    """

    def __init__(
        self,
        *,
        schema: Schema,
        context: int,
        horizon: int,
        capacity: int,
        alpha: float = 0.5,
        beta: float = 1.0,
    ) -> None:
        self._schema, self._context, self._horizon = schema, context, horizon
        self._capacity, self._alpha, self._beta = capacity, alpha, beta
        self._halves = Halves.room(capacity, context + horizon, len(schema.metrics))
        self._stratum = np.zeros(capacity, np.uint8)
        self._owner = np.zeros(capacity, np.int32)
        self._priority = np.zeros(capacity, np.float64)
        self._size = 0
        self._seen = np.zeros(STRATA, np.int64)
        self._members: list[list[int]] = [[] for _ in range(STRATA)]
        self._owners: dict[Owner, int] = {}
        self._usual = Usual()

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of a full table."""
        return self._halves.nbytes + sum(self._array(name).nbytes for name in _KEPT)

    @property
    def capacity(self) -> int:
        """Windows there is room for."""
        return self._capacity

    def emptied(self) -> ReplayTable:
        """A table like this one, with nothing in it."""
        return self._like(self._capacity)

    def resized(self, capacity: int) -> ReplayTable:
        """The same windows in a table of another size; too many go by lot, the largest stratum's
        first. Rows stay where they are unless some had to go.
        """
        made, rng = self._like(capacity), np.random.default_rng(capacity)
        members = [list(rows) for rows in self._members]
        for _ in range(self._size - capacity):
            largest = max(members, key=len)
            lot = int(rng.integers(len(largest)))
            largest[lot] = largest[-1]
            largest.pop()
        rows = np.sort(np.array([row for some in members for row in some], dtype=np.int64))
        made._size = len(rows)
        made.kept(slice(len(rows))).fill(self._halves.select(rows))
        for name in _KEPT:
            made._array(name)[: len(rows)] = self._array(name)[rows]
        made._members = [np.searchsorted(rows, some).tolist() for some in members]
        made._seen[:] = self._seen
        made._owners, made._usual = dict(self._owners), self._usual
        return made

    def strata(self) -> IntArray:
        """[STRATA] how many windows each stratum has."""
        return np.array([len(members) for members in self._members], dtype=np.int64)

    def insert(self, offer: Offer, *, losses: FloatArray | None, seed: int) -> None:
        """Take windows in, or let them go by lot; one that is in stays as it is.

        A loss [N] that is finite sets the window's priority, also of one that is in.
        """
        owners = np.array([self._number(owner) for owner in offer.owners], dtype=np.int64)
        self._usual.ensure(len(self._owners))
        owner = owners[offer.owner]
        places = self._places(owner, offer.halves.origin)
        given = np.full(len(offer), np.nan) if losses is None else losses.astype(np.float64)
        medians = [self._median(stratum) for stratum in range(STRATA)]
        rng = np.random.default_rng(seed)
        for at in range(len(offer)):
            whose, loss = int(owner[at]), float(given[at])
            priority = self._usual.priority(whose, loss) if np.isfinite(loss) else None
            row = int(places[at])
            if row < 0:
                regime = self._usual.regime(whose, float(offer.level[at]))
                stratum = int(offer.phase[at]) * REGIMES + regime
                row = self._room(stratum, rng)
                if row < 0:
                    continue
                self._halves.put(row, offer.halves, at)
                self._stratum[row], self._owner[row] = stratum, whose
                self._priority[row] = medians[stratum]
            if priority is not None and self._holds(row, whose, int(offer.halves.origin[at])):
                self._priority[row] = priority
        self._forget()

    def refresh(self, rows: IntArray, losses: FloatArray) -> None:
        """New priorities by the losses [N] just measured; one that is not finite changes none."""
        for row, loss in zip(rows.tolist(), losses.astype(np.float64).tolist(), strict=True):
            if np.isfinite(loss):
                self._priority[row] = self._usual.priority(int(self._owner[row]), loss)

    def draw(self, count: int, *, last: int, seed: int) -> tuple[IntArray, FloatArray]:
        """Rows of at most `count` windows with origins up to `last`, and their weights [N].

        Each window's expected share is exactly its probability: one point in each of `count` equal
        parts of the whole (Schaul et al. 2016, B.2.1), all shifted alike. Weights are (N P)^-beta
        over the largest there could be, so that they only make steps smaller.
        """
        able = np.flatnonzero(self._halves.origin[: self._size] <= last)
        count = min(count, len(able))
        if not count:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        raised = self._priority[able] ** self._alpha
        total = raised.sum()
        preferred = raised / total if total > 0 else np.full(len(able), 1 / len(able))
        chances = _UNIFORM / len(able) + (1 - _UNIFORM) * preferred
        points = (np.random.default_rng(seed).random() + np.arange(count)) / count
        ends = np.cumsum(chances)
        picked = np.minimum(np.searchsorted(ends / ends[-1], points, side="right"), len(able) - 1)
        weights = (len(able) * chances) ** -self._beta
        return able[picked], (weights[picked] / weights.max()).astype(np.float32)

    def windows(self, rows: IntArray) -> RawWindows:
        """The windows in these rows, off by no more than `train/halves.py` says."""
        stored = self._halves.select(rows)
        names = list(self._owners)
        owners = [names[at] for at in self._owner[rows]]
        values, daily, weekly = restored(stored, self._schema)
        return RawWindows(
            servers=tuple([owner[0] for owner in owners]),
            roles=tuple([owner[1] for owner in owners]),
            timezones=tuple([owner[2] for owner in owners]),
            metrics=self._schema.names,
            context=self._context,
            horizon=self._horizon,
            step_seconds=self._schema.step_seconds,
            origin=stored.origin,
            values=values,
            daily=daily,
            weekly=weekly,
            spread=stored.spread,
        )

    def dump(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All but the windows themselves, as JSON values and arrays; see `kept`."""
        header = {"size": self._size, "owners": [list(owner) for owner in self._owners]}
        arrays = {name: self._array(name)[: self._size] for name in _KEPT}
        members = np.array([row for rows in self._members for row in rows], dtype=np.int32)
        return header, {
            **arrays,
            "seen": self._seen,
            "usual": self._usual.rows,
            "members": members,
            "counts": self.strata(),
        }

    def kept(self, rows: slice) -> Halves:
        """The windows themselves, in the same memory."""
        return self._halves.select(rows)

    def load(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave; the windows then come through `kept`."""
        self._size = int(header["size"])
        self._owners = {(a, b, c): at for at, (a, b, c) in enumerate(header["owners"])}
        for name in _KEPT:
            self._array(name)[: self._size] = arrays[name]
        self._seen[:] = arrays["seen"]
        self._usual.rows = np.array(arrays["usual"])
        ends = np.cumsum(arrays["counts"])[:-1]
        self._members = [rows.tolist() for rows in np.split(arrays["members"], ends)]

    def _like(self, capacity: int) -> ReplayTable:
        return ReplayTable(
            schema=self._schema,
            context=self._context,
            horizon=self._horizon,
            capacity=capacity,
            alpha=self._alpha,
            beta=self._beta,
        )

    def _array(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] = getattr(self, f"_{name}")
        return found

    def _number(self, owner: Sequence[str]) -> int:
        server, role, zone = owner
        return self._owners.setdefault((server, role, zone), len(self._owners))

    def _places(self, owner: IntArray, origin: IntArray) -> IntArray:
        """[N] the row that holds each window, -1 where none does."""
        keys = (self._owner[: self._size].astype(np.int64) << 40) + self._halves.origin[
            : self._size
        ]
        wanted = (owner << 40) + origin
        order = np.argsort(keys, kind="stable")
        at = np.searchsorted(keys[order], wanted)
        places = np.full(len(wanted), -1, np.int64)
        inside = np.flatnonzero(at < self._size)
        rows = order[at[inside]]
        same = keys[rows] == wanted[inside]
        places[inside[same]] = rows[same]
        return places

    def _holds(self, row: int, owner: int, origin: int) -> bool:
        """Whether a row still holds this window: one that came just now may have taken it."""
        return bool(self._owner[row] == owner and self._halves.origin[row] == origin)

    def _median(self, stratum: int) -> float:
        members = self._members[stratum]
        return float(np.median(self._priority[members])) if members else _NOTHING_USUAL

    def _room(self, stratum: int, rng: np.random.Generator) -> int:
        """A row for a window of this stratum; -1 when it lost the lot."""
        self._seen[stratum] += 1
        own = self._members[stratum]
        if self._size < self._capacity:
            row = self._size
            self._size += 1
        else:
            largest = max(self._members, key=len)
            if len(own) == len(largest):
                lot = int(rng.integers(self._seen[stratum]))
                return own[lot] if lot < len(own) else -1
            lot = int(rng.integers(len(largest)))
            row, largest[lot] = largest[lot], largest[-1]
            largest.pop()
        own.append(row)
        return row

    def _forget(self) -> None:
        """Let go of owners without windows once there are many."""
        used = np.unique(self._owner[: self._size])
        if len(self._owners) <= max(_OWNERS, 2 * len(used)):
            return
        names = list(self._owners)
        self._owners = {names[at]: number for number, at in enumerate(used)}
        self._usual.rows = self._usual.rows[used]
        self._owner[: self._size] = np.searchsorted(used, self._owner[: self._size])
