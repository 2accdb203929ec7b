"""The demo fleet: made-up servers whose values depend on nothing but a seed and the slot.

Nothing is kept between slots: random numbers are keyed by seed, server and day (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011), so a stream can be resumed anywhere and
gives the same rows, bit by bit. `connect.workload` says what the servers do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from connect import workload
from connect.wire import Row, head, wire_rows
from connect.workload import DAY, METRICS, MINUTE, Character, Clock, Draws, FloatArray
from forecast.schema import Metric, Schema, ServerInfo

MONDAY_MS = 1_767_571_200_000
"""2026-01-05T00:00Z, where the demo starts unless told otherwise."""
_ZONES = ("Europe/Berlin", "America/New_York", "Asia/Singapore")
_INCIDENTS_PER_DAY = 0.2
_GAPS_PER_DAY = 0.3
_LOST_VALUES = 0.0005

Kind = Literal["runaway", "leak", "flood", "writes"]
_KINDS: tuple[Kind, ...] = ("runaway", "leak", "flood", "writes")


@dataclass(frozen=True, slots=True)
class Incident:
    """A short disturbance: a busy process, a memory leak, a flood of packets or of writes."""

    server: str
    kind: Kind
    from_slot: int
    to_slot: int
    """First slot that is quiet again."""
    size: float


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    role: str
    zone: str
    key: int
    character: Character


class DemoFleet:
    """A fleet of web, database, batch and cache servers in three time zones.

    From `drift_slot` on (the start of day `drift_day` after `start_ms`; None: never) the databases
    and the batch servers behave differently for good, in shape rather than in level.

    >>> fleet = DemoFleet(seed=7)
    >>> fleet.servers[:3]
    ('web-01', 'web-02', 'database-01')
    >>> sorted(fleet.rows(fleet.first_slot)[0])
    ['metrics', 'role', 'server', 'timestamp', 'timezone']
    """

    def __init__(
        self,
        *,
        seed: int = 7,
        servers_per_role: int = 2,
        start_ms: int = MONDAY_MS,
        step_seconds: int = 300,
        drift_day: int | None = 15,
    ) -> None:
        if step_seconds < 1 or DAY % step_seconds:
            raise ValueError(f"step_seconds is {step_seconds}, which does not divide a day")
        if servers_per_role < 1:
            raise ValueError(f"servers_per_role is {servers_per_role}, need at least 1")
        self.step_seconds = step_seconds
        self.first_slot = start_ms // (step_seconds * 1000)
        self._day = DAY // step_seconds
        self.drift_slot = None if drift_day is None else self.first_slot + drift_day * self._day
        self._seed = seed
        self._fleet = tuple(
            _server(role, place, number, seed)
            for place, role in enumerate(workload.BEFORE)
            for number in range(servers_per_role)
        )
        self._made: tuple[int, FloatArray] | None = None

    @property
    def servers(self) -> tuple[str, ...]:
        """Names, in the order of `values` and `rows`."""
        return tuple(server.name for server in self._fleet)

    @property
    def infos(self) -> tuple[ServerInfo, ...]:
        """Role and time zone of each server."""
        return tuple(ServerInfo(role=s.role, timezone=s.zone) for s in self._fleet)

    @property
    def drifting(self) -> tuple[str, ...]:
        """The servers that change at `drift_slot`."""
        return tuple(
            s.name for s in self._fleet if workload.BEFORE[s.role] != workload.AFTER[s.role]
        )

    def schema(self) -> Schema:
        """Six metrics, four of them targets."""
        return Schema(
            panel="servers",
            step_seconds=self.step_seconds,
            metrics=(
                Metric("cpu_usage_ratio", unit="ratio", lower=0.0, upper=1.0),
                Metric("memory_usage_ratio", unit="ratio", lower=0.0, upper=1.0),
                *(
                    Metric(name, unit="bytes/s", lower=0.0, resolution=1e3, transform="log1p")
                    for name in METRICS[2:5]
                ),
                Metric("load_per_cpu", unit="processes", lower=0.0, resolution=1e-2),
            ),
            targets=(METRICS[0], METRICS[1], METRICS[2], METRICS[4]),
        )

    def values(self, from_slot: int, to_slot: int) -> FloatArray:
        """Values [to_slot - from_slot, servers, 6] in natural units; NaN where nothing was sent."""
        days = range(from_slot // self._day, -(-max(to_slot, from_slot + 1) // self._day))
        start = from_slot - days.start * self._day
        made = np.concatenate([self._block(day) for day in days])
        return made[start : start + to_slot - from_slot]

    def rows(self, slot: int) -> list[Row]:
        """The wire rows of one slot, one for each server that spoke."""
        [(_, rows)] = self.rows_by_slot(slot, slot + 1)
        return rows

    def rows_by_slot(self, from_slot: int, to_slot: int) -> Iterator[tuple[int, list[Row]]]:
        """(slot, its wire rows) for each slot of [from_slot, to_slot), in order."""
        heads = [head(s.name, role=s.role, timezone=s.zone) for s in self._fleet]
        for slot in range(from_slot, to_slot):
            day, place = divmod(slot, self._day)
            seconds = [slot * self.step_seconds] * len(heads)
            yield slot, wire_rows(heads, seconds, METRICS, self._block(day)[place])

    def incidents(self, from_slot: int, to_slot: int) -> tuple[Incident, ...]:
        """The incidents that touch [from_slot, to_slot), in order of their start."""
        days = range(from_slot // self._day - 1, -(-to_slot // self._day))
        found = [
            incident for server in self._fleet for incident in self._incidents(server, days)
            if incident.from_slot < to_slot and incident.to_slot > from_slot
        ]  # fmt: skip
        return tuple(sorted(found, key=lambda incident: (incident.from_slot, incident.server)))

    def _block(self, day: int) -> FloatArray:
        """Values [slots of a day, servers, 6] of the day'th day since 1970; keeps the last one."""
        if self._made is None or self._made[0] != day:
            second = self.step_seconds * np.arange((day - 2) * self._day, (day + 1) * self._day)
            clocks = {zone: _clock(zone, second) for zone in _ZONES}
            columns = [self._make(server, day, clocks[server.zone]) for server in self._fleet]
            self._made = (day, np.stack(columns, axis=1))
        return self._made[1]

    def _make(self, server: _Server, day: int, clock: Clock) -> FloatArray:
        """Values [slots of a day, 6] of one server, from the white noise of three days."""
        taps, who = self._day, server.character
        three = [self._white(server, back) for back in (day - 2, day - 1, day)]
        draws = Draws(*(np.concatenate(parts, axis=1) for parts in zip(*three, strict=True)))
        eras = workload.BEFORE[server.role], workload.AFTER[server.role]
        drift_second = np.inf if self.drift_slot is None else self.drift_slot * self.step_seconds
        changed = clock.second >= drift_second
        old, new = (workload.load(era, who, draws, clock, taps=taps) for era in eras)
        work = np.where(changed[taps:], new, old)
        draws, clock = draws.after(taps), clock.after(taps)
        old, new = (workload.metrics(era, who, draws, clock, work, taps=taps) for era in eras)
        values = np.where(changed[2 * taps :, None], new, old)
        for incident in self._incidents(server, range(day - 1, day + 1)):
            _disturb(values, incident, first_slot=day * taps)
        values = workload.natural(values)
        values[self._lost(server, day)] = np.nan
        return values

    def _random(self, server: _Server, day: int, purpose: int) -> np.random.Generator:
        seeds = np.random.SeedSequence([self._seed, server.key, day, purpose])
        return np.random.Generator(np.random.Philox(seeds))

    def _white(self, server: _Server, day: int) -> tuple[FloatArray, FloatArray]:
        random = self._random(server, day, 0)
        return random.standard_normal((7, self._day)), random.random((2, self._day))

    def _incidents(self, server: _Server, days: range) -> Iterator[Incident]:
        for day in days:
            happens, start, length, kind, size = self._random(server, day, 1).random(5)
            if happens < _INCIDENTS_PER_DAY:
                first = int((day + start) * self._day)
                minutes = 30 + 90 * length
                slots = max(1, round(minutes * MINUTE / self.step_seconds))
                chosen = _KINDS[int(kind * len(_KINDS))]
                yield Incident(server.name, chosen, first, first + slots, 0.6 + 0.8 * float(size))

    def _lost(self, server: _Server, day: int) -> NDArray[np.bool_]:
        """Which values [slots of a day, 6] never arrived: single ones, and short outages."""
        lost = np.zeros((self._day, len(METRICS)), dtype=np.bool_)
        for back in (1, 0):
            random = self._random(server, day - back, 2)
            happens, start, length = random.random(3)
            if happens < _GAPS_PER_DAY:
                first = int((start - back) * self._day)
                slots = max(1, round((5 + 25 * length) * MINUTE / self.step_seconds))
                lost[max(first, 0) : max(first + slots, 0)] = True
        return lost | (random.random(lost.shape) < _LOST_VALUES)


def _server(role: str, place: int, number: int, seed: int) -> _Server:
    key = place + 1000 * number
    size, traffic, phase, offset = np.random.Generator(
        np.random.Philox(np.random.SeedSequence([seed, key]))
    ).random(4)
    character = Character(
        size=0.8 + 0.4 * float(size),
        traffic=float(2.0 ** (2 * traffic - 1)),
        phase_h=1.5 * float(phase) - 0.75,
        offset_s=int(12 * offset) * 5 * MINUTE,
    )
    zone = _ZONES[(place + number) % len(_ZONES)]
    return _Server(f"{role}-{number + 1:02d}", role, zone, key, character)


def _clock(zone: str, second: NDArray[np.int64]) -> Clock:
    local = pd.to_datetime(second, unit="s", utc=True).tz_convert(zone)
    minute = np.asarray(local.hour * 60 + local.minute, dtype=np.int64)
    return Clock(second, minute, np.asarray(local.dayofweek, dtype=np.int64))


def _disturb(values: FloatArray, incident: Incident, *, first_slot: int) -> None:
    """Lay an incident over the values [slots of a day, 6] that begin at `first_slot`."""
    slot = first_slot + np.arange(len(values))
    during = (slot >= incident.from_slot) & (slot < incident.to_slot)
    progress = (slot - incident.from_slot)[during] / (incident.to_slot - incident.from_slot)
    cpu, memory, receive, transmit, disk, queue = range(len(METRICS))
    if incident.kind == "runaway":
        values[during, cpu] += 0.45 * incident.size
        values[during, queue] += 1.5 * incident.size
    elif incident.kind == "leak":
        values[during, memory] += 0.3 * incident.size * progress
    elif incident.kind == "flood":
        values[during, receive] *= 1 + 5 * incident.size
        values[during, transmit] *= 1 + 2 * incident.size
        values[during, cpu] += 0.12 * incident.size
    else:
        values[during, disk] *= 1 + 5 * incident.size
        values[during, queue] += 0.8 * incident.size
