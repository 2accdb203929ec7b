"""Which servers there are, which grid row each one has, and which life it is in."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.clock import life, missing_slots, slots_per_day
from forecast.record import ServerStatus
from forecast.schema import ServerInfo
from train.grid import Grid

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_NEVER = -1


class Roster:
    """Servers by name and by grid row. Rows never show outside: reads go by sorted name."""

    def __init__(self, grid: Grid, *, step_seconds: int, context: int, max_servers: int) -> None:
        self._grid = grid
        self._context = context
        self._max = max_servers
        self.day = slots_per_day(step_seconds)
        self._rows: dict[str, int] = {}
        self._infos: dict[str, ServerInfo] = {}
        self.first: IntArray = np.empty(0, np.int64)
        self.last: IntArray = np.empty(0, np.int64)
        self.floor: IntArray = np.empty(0, np.int64)
        """Slots up to here belong to an earlier life of the name."""
        self._taken: BoolArray = np.empty(0, np.bool_)
        self._asked: tuple[tuple[str, ...], IntArray] | None = None
        """The last names that were looked up, and their rows: the next request names the same."""

    def __len__(self) -> int:
        return len(self._rows)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._rows)

    def row(self, name: str) -> int | None:
        """The server's grid row; None for a name that has none."""
        return self._rows.get(name)

    def rows_or_none(self, names: Sequence[str]) -> IntArray:
        """Grid rows of names, in their order; -1 for a name that has none."""
        names = tuple(names)
        if self._asked is None or self._asked[0] != names:
            found = map(self._rows.get, names, itertools.repeat(-1))
            self._asked = names, np.fromiter(found, np.int64, len(names))
        return self._asked[1].copy()

    def rows(self, names: Collection[str]) -> IntArray:
        """Grid rows of known names, in their order; KeyError for an unknown one."""
        return np.array([self._rows[name] for name in names], dtype=np.int64)

    def info(self, name: str) -> ServerInfo:
        """What the server last said of itself."""
        return self._infos[name]

    def last_slots(self) -> IntArray:
        """Last slot of every server that was heard, in no particular order."""
        return self.last[self._taken]

    def first_slot(self) -> int | None:
        """The earliest slot that a server was first seen in; None without servers."""
        return int(self.first[self._taken].min()) if self._rows else None

    def unheard_since(self, slot: int) -> list[str]:
        """Servers, by name, that were last heard before `slot`."""
        if (self.last_slots() >= slot).all():
            return []
        return sorted(name for name, row in self._rows.items() if self.last[row] < slot)

    def retired(self, slot: int | None) -> dict[str, int]:
        """Last slot of each server that is retired as of `slot`."""
        if slot is None or (self.last_slots() >= slot - self.day).all():
            return {}  # nobody can have missed more than a day
        names = list(self._rows)
        lasts = self.last[self.rows(names)]
        gone = self._grid.heard_after(lasts, slot) > self.day
        return {names[at]: int(lasts[at]) for at in np.flatnonzero(gone)}

    def is_gone(self, last: int, slot: int) -> bool:
        """Whether a server last heard in `last` is retired as of `slot`."""
        return bool(self._grid.heard_after(np.array([last]), slot)[0] > self.day)

    def room(self, named: Collection[str], retired: Collection[str]) -> int:
        """How many new servers fit; retired ones that are not `named` give way."""
        giving = sum(name not in named for name in retired)
        return max(0, self._max - len(self._rows) + giving)

    def admit(self, name: str, *, retired: Mapping[str, int], spare: Collection[str]) -> int:
        """Give a new name a row and return it.

        Rows are added up to `max_servers`; then the server gives way that is retired longest and
        not in `spare`.
        """
        leaving = sorted(
            (last, other)
            for other, last in retired.items()
            if other not in spare and other in self._rows
        )
        if len(self._rows) >= self._max and leaving:
            self.forget(leaving[0][1])
        free = np.flatnonzero(~self._taken)
        row = int(free[0]) if free.size else len(self._taken)
        self._grid.ensure_rows(row + 1, most=self._max)
        self._settle(name, row, floor=_NEVER)
        return row

    def expect(self, count: int) -> None:
        """Make room at once for so many new servers, as far as they fit."""
        self._grid.ensure_rows(min(len(self._rows) + count, self._max), most=self._max)

    def rebirth(self, name: str) -> int:
        """Begin a new life under a known name, which inherits nothing; its row."""
        row = self._rows[name]
        floor = int(self.last[row])
        self._grid.wipe(row)
        self._settle(name, row, floor=floor)
        return row

    def forget(self, name: str) -> int:
        """Let go of a server and its data; the row it had."""
        row = self._rows.pop(name)
        del self._infos[name]
        self._taken[row], self._asked = False, None
        self._grid.wipe(row)
        return row

    def describe(self, name: str, info: ServerInfo) -> None:
        """Keep what a server says of itself."""
        self._infos[name] = info

    def hear(self, rows: IntArray, slots: IntArray) -> None:
        """Note that servers were heard in these slots."""
        np.minimum.at(self.first, rows, slots)
        np.maximum.at(self.last, rows, slots)

    def _settle(self, name: str, row: int, *, floor: int) -> None:
        self._rows[name], self._asked = row, None
        self._infos.setdefault(name, ServerInfo())
        while row >= len(self.first):
            self.first = np.append(self.first, 0)
            self.last = np.append(self.last, 0)
            self.floor = np.append(self.floor, 0)
            self._taken = np.append(self._taken, False)
        self._taken[row] = True
        self.first[row] = np.iinfo(np.int64).max
        self.last[row] = _NEVER
        self.floor[row] = floor

    def states(self, slot: int) -> tuple[ServerStatus, ...]:
        """Every server seen by `slot`, by name, as it stood then; later slots are not read."""
        names = [name for name in self.names() if self.first[self._rows[name]] <= slot]
        rows = self.rows(names)
        lasts = self._lasts(rows, slot)
        missed = self._grid.heard_after(lasts, slot)
        return tuple(
            self._state(name, slot, last=int(last), missed=int(gone))
            for name, last, gone in zip(names, lasts, missed, strict=True)
        )

    def _state(self, name: str, slot: int, *, last: int, missed: int) -> ServerStatus:
        first, info = int(self.first[self._rows[name]]), self._infos[name]
        return ServerStatus(
            name=name,
            role=info.role,
            timezone=info.timezone,
            state=life(
                first_slot=first,
                last_slot=last,
                missed_slots=missed,
                slot=slot,
                context=self._context,
                day_slots=self.day,
            ),
            first_slot=first,
            last_slot=last,
            missing_slots=missing_slots(first_slot=first, slot=slot, context=self._context),
        )

    def _lasts(self, rows: IntArray, slot: int) -> IntArray:
        """Last slot up to `slot` of each row; looks further back only where it has to."""
        lasts = self.last[rows]
        ahead = np.flatnonzero(lasts > slot)
        for width in (4, self.day, self._grid.ring):
            if not ahead.size:
                break
            slots = np.arange(slot, slot - width, -1)
            holds = self._grid.holds(rows[ahead], slots)
            found = holds.any(axis=1)
            lasts[ahead[found]] = slots[holds[found].argmax(axis=1)]
            ahead = ahead[~found]
        lasts[ahead] = self.first[rows[ahead]]  # overwritten since: all that is known of then
        return lasts

    def to_json(self) -> list[dict[str, Any]]:
        """Servers with their row, by name, as plain JSON values."""
        return [
            {
                "name": name,
                "row": row,
                "role": self._infos[name].role,
                "timezone": self._infos[name].timezone,
                "first": int(self.first[row]),
                "last": int(self.last[row]),
                "floor": int(self.floor[row]),
            }
            for name, row in sorted(self._rows.items())
        ]

    def restore(self, servers: Collection[Mapping[str, Any]]) -> None:
        """Take over what `to_json` wrote, with the same rows."""
        self._grid.ensure_rows(max((server["row"] + 1 for server in servers), default=0), most=0)
        for server in servers:
            name, row = server["name"], server["row"]
            self._settle(name, row, floor=server["floor"])
            self._infos[name] = ServerInfo(role=server["role"], timezone=server["timezone"])
            self.first[row], self.last[row] = server["first"], server["last"]
