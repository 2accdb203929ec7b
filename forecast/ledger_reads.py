"""What the ledger's sums are read for: a report's totals, and one member's pair day by day.

D days, T targets, H horizon, F sums per cell (`metrics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecast.accuracy import AccuracyReport, Totals, report_accuracy
from forecast.day_sums import PARTS, DaySums, unpack_fleet
from forecast.errors import RequestError
from forecast.ledger_file import LedgerFile
from forecast.metrics import Float64Array
from forecast.record import CHAMPION
from forecast.scoring import ServerSums, part_of


@dataclass(frozen=True, slots=True)
class DailySums:
    """One member's sums by day, and the champion's on the same cells: read them as a `Score`.

    `days` count from the epoch, in UTC; a day without a cell is left out. `member` and `champion`
    are float64 [D, T, H, F].
    """

    days: tuple[int, ...]
    member: Float64Array
    champion: Float64Array


def daily(
    file: LedgerFile,
    layout: str,
    member: str,
    *,
    since_day: int | None,
    through_day: int | None,
    shape: tuple[int, int, int],
) -> DailySums:
    """A member's pair by day; `shape` is [T, H, F]. The champion's own: its common cells, twice."""
    among = None if member == CHAMPION else member
    found: dict[int, Float64Array] = {}
    for day, key, data in file.fleet_sums(layout, since_day=since_day, through_day=through_day):
        if key.among != among or key.beside is None:
            continue
        for place, name in enumerate((member, CHAMPION)):
            if key.member == name:
                found.setdefault(day, np.zeros((2, *shape)))[place] += unpack_fleet(data)
    both = np.stack(list(found.values())) if found else np.zeros((0, 2, *shape))
    return DailySums(tuple(found), both[:, 0], both[:, 1])


def accuracy(
    file: LedgerFile,
    layout: str,
    today: DaySums,
    *,
    since_day: int | None,
    through_slot: int | None,
    server: str | None,
    target: str | None,
    version: int | None,
    targets: Sequence[str],
    levels: Sequence[float],
    day_slots: int,
) -> AccuracyReport:
    """The report from a day on; see `Ledger.accuracy`."""
    if target is not None and target not in targets:
        raise RequestError(f"no target {target!r}; there are {', '.join(targets)}")
    if server is not None and version is not None:
        raise RequestError("errors by version are kept for the fleet, not for each server")
    if server is None:
        totals = of_fleet(file, layout, since_day=since_day, version=version)
    else:
        totals = of_server(file, layout, today, since_day=since_day, server=server)
    first_day = since_day if since_day is not None else totals.first_day
    return report_accuracy(
        totals,
        since_slot=None if first_day is None else first_day * day_slots,
        through_slot=through_slot,
        server=server,
        target=target,
        targets=targets,
        levels=levels,
        versions_by_horizon=version is not None,
    )


def of_fleet(
    file: LedgerFile, layout: str, *, since_day: int | None, version: int | None
) -> Totals:
    """Sums over all servers on the common cells, from a day on; `version` narrows the champion."""
    totals = Totals()
    for day, key, data in file.fleet_sums(layout, since_day=since_day):
        if key.among is None and version in (None, key.beside):
            paired = key.beside is not None
            totals.add(day, key.member, paired, unpack_fleet(data), version=key.beside)
    return totals


def of_server(
    file: LedgerFile, layout: str, today: DaySums, *, since_day: int | None, server: str
) -> Totals:
    """Sums of one server from a day on: from disk until the day that is being scored."""
    totals, part = Totals(), part_of(server, PARTS)
    rows = file.server_sums(layout, since_day=since_day, through_day=today.day - 1, part=part)
    days = [(day, key, ServerSums.unpack(data)) for day, key, data in rows]
    if since_day is None or since_day <= today.day:
        days += [(today.day, key, sums) for key, sums in sorted(today.servers.items())]
    for day, (paired, member), sums in days:
        if (mine := sums.of(server)) is not None:
            totals.add(day, member, paired, mine)
    return totals
