"""Drift: when the servers stopped being what the model learned, since when, and which of them.

    matured loss of the served forecast ─┐
    and of seasonal naive                ├─► block's values ──► season off ──► detector ──► vote
    the targets themselves ──────────────┘

Each server has 2T + 1 series: the level and the spread of each target, which need no label, and how
much the served forecast loses next to seasonal naive, which tells what matters. A value is made of
a block of at least a horizon: losses of several steps ahead overlap within one, hardly beyond. One
server's drift is told as such; the fleet's is a vote by share, so that copies of servers change
nothing, guarded against chance by how many servers there are that are not copies of each other.

N servers, T targets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.clock import slots_per_day
from forecast.local_time import local_times
from forecast.packing import pack, pack_names, tuples, unpack, unpack_names
from forecast.places import moved, places
from train.block_values import BlockSums
from train.detector import Floats, Ints
from train.drift_rules import Alarm, DriftRules
from train.season import Season
from train.vote import Vote

_KEPT = 64
"""So many of the last alarms are kept."""
_GONE_DAYS = 3
"""A server of which nothing came for so long is forgotten."""
_CHANNELS = ("level", "spread", "loss")
_SHOWN = 20
_VOTES = ("fleet_share", "update_share")


class Drift:
    """Watches every server; `update` once per slot, in rising order. A slot seen again is skipped.

    State is packed by `pack` at the end of a block and goes on from there with `unpack`.
    """

    def __init__(self, rules: DriftRules, *, kept: int = _KEPT) -> None:
        self.rules, self._kept = rules, kept
        self.slot: int | None = None
        """The last slot that was seen."""
        self.servers: tuple[str, ...] = ()
        self.alarms: tuple[Alarm, ...] = ()
        """The last ones, the newest last."""
        self._targets = len(rules.targets)
        self._inputs, self._losses = rules.detectors(0)
        self._season = Season(0, 2 * self._targets + 1)
        self._sums = BlockSums(0, resolutions=rules.resolutions, block=rules.block)
        self._seen: Ints = np.zeros(0, np.int64)
        self._day = slots_per_day(rules.step_seconds)
        chance = min(0.5, len(_CHANNELS) * self._day / rules.false_alarm_slots)
        self._vote = Vote(
            0, day=self._day, share=rules.fleet_share, acts=rules.update_share, chance=chance
        )

    @property
    def block_ended(self) -> bool:
        """Whether a block ended with the last slot."""
        return self.slot is not None and (self.slot + 1) % self.rules.block == 0

    @property
    def fleet_since(self) -> int | None:
        """The slot with which the fleet's last drift began; None before the first."""
        return self._vote.fleet_since

    def update(
        self,
        *,
        slot: int,
        servers: Sequence[str],
        actuals_NT: NDArray[Any],
        served_NT: NDArray[Any],
        naive_NT: NDArray[Any],
        timezones: Mapping[str, str],
        held: Collection[str] = (),
    ) -> bool:
        """Take in a slot: its actuals, and what the forecasts made for it lost; NaN is unknown.

        What is masked (an incident, maintenance) is unknown, too. `held` servers (a deploy) begin
        anew when the block ends: what changed with a deploy is known already. Returns whether a
        block ended with this slot.
        """
        if self.slot is not None and slot <= self.slot:
            return False
        block = self.rules.block
        if self.slot is not None and slot // block != self.slot // block:
            self._sums.clear()  # also of a block whose last slot never came
        self.slot = slot
        rows = self._rows(servers)
        self._sums.add(rows, actuals_NT, served_NT, naive_NT)
        self._seen[rows] = slot
        if not self.block_ended:
            return False
        self._close(slot, timezones, frozenset(held))
        return True

    def _rows(self, names: Sequence[str]) -> Ints:
        """Where these servers stand; those that are new get a place."""
        if new := set(names) - set(self.servers):
            self._arrange(tuple(sorted((*self.servers, *new))))
        return places(names, self.servers)

    def _close(self, slot: int, timezones: Mapping[str, str], held: frozenset[str]) -> None:
        """A block ended: a value of each series, the detectors, the vote."""
        gone = self._seen < slot - _GONE_DAYS * self._day
        if gone.any():
            self._arrange(tuple(np.array(self.servers, object)[~gone].tolist()))
        hold = np.array([name in held for name in self.servers], bool)
        if hold.any():
            self._order(np.where(hold, -1, np.arange(len(hold))))
        zones = [timezones.get(name, "UTC") for name in self.servers]
        begin = np.full(len(zones), slot + 1 - self.rules.block)
        hours, weekends = local_times(begin, zones, self.rules.step_seconds)
        x = self._sums.values()
        levels = np.arange(x.shape[1]) < self._targets
        left = self._season.removed(x, hours, weekends, levels, ~self._joined("watching"))
        split, floors = 2 * self._targets, self._sums.floors
        self._inputs.update((left[:, :split] / floors[:split]).reshape(-1))
        self._losses.update(left[:, split] / floors[split])
        shift = self._joined("shift") * floors
        who, which = np.nonzero(shift)
        self._season.move(who, which, shift[who, which])
        self._tell(slot, x)
        self._sums.clear()

    def _tell(self, slot: int, x: Floats) -> None:
        """Who drifted with the values [N, 2T + 1], and what the fleet's vote says."""
        drifted = self._joined("drifted")
        rows, ages = np.asarray(drifted.any(axis=1)), self._joined("age")
        since = slot + 1 - self.rules.block * np.where(drifted, ages, 0).max(axis=1, initial=0)
        watching = np.asarray(self._joined("watching").any(axis=1))
        alike = _alike(x)
        outcome = self._vote.take(slot, self.rules.block, rows, since, watching, alike)
        if outcome is None:
            return
        who = np.flatnonzero(rows)
        alarm = Alarm(
            slot=slot,
            servers=tuple(self.servers[row] for row in who),
            since=tuple(since[who].tolist()),
            channels=tuple(self._channel(int(drifted[row].argmax())) for row in who),
            share=outcome.share,
            fleet_wide=outcome.fleet_wide,
            fleet_since=outcome.fleet_since,
            acts=outcome.acts,
        )
        self.alarms = (*self.alarms, alarm)[-self._kept :]

    def _joined(self, name: str) -> NDArray[Any]:
        """What both detectors say of each server's series [N, 2T + 1]."""
        count = len(self.servers)
        inputs = getattr(self._inputs, name).reshape(count, 2 * self._targets)
        return np.concatenate([inputs, getattr(self._losses, name)[:, None]], axis=1)

    def _channel(self, series: int) -> str:
        kind, target = divmod(series, self._targets)
        if _CHANNELS[kind] == "loss":
            return _CHANNELS[kind]
        return f"{_CHANNELS[kind]} of {self.rules.targets[target]}"

    def _arrange(self, names: tuple[str, ...]) -> None:
        """Other servers, or in another order: those that are new know nothing."""
        rows = places(names, self.servers)
        self.servers = names
        self._vote.rearrange(rows)
        self._sums.arrange(rows)
        self._seen = moved(self._seen, rows)
        self._order(rows)

    def _order(self, rows: Ints) -> None:
        """What is usual in these rows, and the detectors of their series; -1 begins anew."""
        self._season = self._season.taken(rows)
        each = np.arange(2 * self._targets)
        wide = np.where(rows[:, None] < 0, -1, rows[:, None] * len(each) + each)
        self._inputs, self._losses = self._inputs.taken(wide.reshape(-1)), self._losses.taken(rows)

    def pack(self) -> bytes:
        """All that is known, as bytes."""
        header = {
            "rules": asdict(self.rules),
            "slot": self.slot,
            "alarms": [asdict(alarm) for alarm in self.alarms],
            "vote": self._vote.header(),
        }
        arrays: dict[str, NDArray[Any]] = {
            "servers": pack_names(self.servers),
            "inputs": np.frombuffer(self._inputs.pack(), np.uint8),
            "losses": np.frombuffer(self._losses.pack(), np.uint8),
            "sums": self._sums.sums,
            "seen": self._seen,
            **self._vote.arrays(),
            **self._season.arrays(),
        }
        return pack("drift", header, arrays, deflate=True)

    @classmethod
    def unpack(cls, data: bytes | memoryview, rules: DriftRules) -> Self:
        """What `pack` wrote; where the detection has other rules now, only the alarms are left.

        The vote's two shares are read anew with each block, so that another one changes nothing.
        """
        header, arrays = unpack("drift", data)
        made = cls(rules)
        made.alarms = tuple(Alarm(**tuples(alarm)) for alarm in header["alarms"])
        made.slot = header["slot"]
        if _detection(tuples(header["rules"])) != _detection(asdict(rules)):
            return made
        made.servers = unpack_names(arrays["servers"])
        made._inputs = type(made._inputs).unpack(arrays["inputs"].data)
        made._losses = type(made._losses).unpack(arrays["losses"].data)
        made._sums.sums, made._seen = arrays["sums"].copy(), arrays["seen"].copy()
        made._vote.restore(header["vote"], arrays)
        made._season.restore(arrays)
        return made

    def levels(self) -> dict[str, float]:
        """How near each channel is to an alarm (1), the mean over servers that are watched.

        A server stands where the nearest of its series of that channel does.
        """
        watching, level = self._joined("watching"), self._joined("level")
        kinds = np.arange(level.shape[1]) // self._targets
        found = {}
        for kind, channel in enumerate(_CHANNELS):
            mine = np.asarray(watching[:, kinds == kind], bool)
            nearest = np.where(mine, level[:, kinds == kind], 0.0).max(axis=1, initial=0.0)
            if mine.any():
                found[channel] = float(nearest[mine.any(axis=1)].mean())
        return found

    def to_json(self) -> dict[str, Any]:
        """Where it stands: how many are watched, who is nearest to an alarm, the last alarms."""
        watching = self._joined("watching").any(axis=1)
        level = self._joined("level").max(axis=1, initial=0.0)
        nearest = np.argsort(-level, kind="stable")[:_SHOWN]
        return {
            "slot": self.slot,
            "detector": self.rules.detector,
            "servers": len(self.servers),
            "watching": int(watching.sum()),
            "levels": self.levels(),
            "fleet_since": self.fleet_since,
            "nearest": [
                {"server": self.servers[row], "level": round(float(level[row]), 3)}
                for row in nearest.tolist()
            ],
            "alarms": [alarm.to_json() for alarm in reversed(self.alarms[-_SHOWN:])],
        }


def _detection(rules: Mapping[str, Any]) -> dict[str, Any]:
    """What detectors, seasons and sums depend on."""
    return {name: value for name, value in rules.items() if name not in _VOTES}


def _alike(x: Floats) -> Ints:
    """A number for each row of values [N, D]; rows of the same bits have the same one."""
    rows = np.ascontiguousarray(x).view(np.dtype((np.void, x.shape[1] * x.itemsize))).reshape(-1)
    return np.asarray(np.unique(rows, return_inverse=True)[1], np.int64)
