"""POST /forecast: forecasts computed now, as of an earlier moment, or from values in the request.

When the champion cannot compute just now, its forecast of record answers, and a warning says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from forecast.errors import (
    ArtifactError,
    Conflict,
    NotReady,
    RequestError,
    UnknownVersion,
    Unprocessable,
)
from forecast.http import answers, whatif
from forecast.http.answers import Series
from forecast.http.api import ForecastAnswer
from forecast.http.problems import original
from forecast.http.queries import ForecastRequest
from forecast.http.series import Wanted, moment, unknown
from forecast.http.service import ServerLike
from forecast.record import CHAMPION, ForecastBlock, Snapshot
from forecast.windows import RawWindows

log = logging.getLogger("fleetcast.http")

VERSION = "version"
"""The member's name when a version was asked for by number."""


class Computer(Protocol):
    """The part of `Service` that a computed forecast needs."""

    async def compute(
        self, raw: RawWindows, version: int | None
    ) -> tuple[int, NDArray[np.float32]]: ...

    async def context(self, servers: tuple[str, ...], slot: int) -> RawWindows: ...

    async def servers(self) -> Sequence[ServerLike]: ...


async def forecast(
    request: ForecastRequest, *, snapshot: Snapshot, service: Computer, now_s: float
) -> ForecastAnswer:
    """The answer to one POST.

    Raises Unprocessable for what the model does not reach, UnknownVersion for a version that does
    not exist, Conflict for one that cannot be loaded, NotReady where only a version could answer
    and there is none.
    """
    want = answers.wanted(
        snapshot,
        horizon=request.horizon,
        levels=request.quantiles,
        thresholds=request.thresholds,
    )
    if request.context is not None:
        return await _from_context(request, want, snapshot, service, now_s)
    if request.as_of is not None:
        return await _as_of(request, want, snapshot, service, now_s)
    series = _series(request, snapshot)
    computed: ForecastBlock | None = None
    warnings: list[str] = []
    if request.model not in answers.BASELINES and not request.record:
        computed, warnings = await _newest(request.version, series, snapshot, service)
    baseline = request.model in answers.BASELINES
    return await asyncio.to_thread(
        answers.from_snapshot,
        snapshot,
        series,
        want,
        now_s=now_s,
        model=request.model if baseline else CHAMPION,
        computed=computed,
        warnings=warnings,
    )


def _series(request: ForecastRequest, snapshot: Snapshot) -> list[Series]:
    if request.series is None:
        return answers.series_of(snapshot)
    return answers.series_asked(snapshot, request.series)


async def _newest(
    version: int | None, series: Sequence[Series], snapshot: Snapshot, service: Computer
) -> tuple[ForecastBlock | None, list[str]]:
    """A version's forecast of the newest windows; None with a warning when it has to be of record.

    Servers without enough context are left out: a baseline answers for them.
    """
    active = {server.name for server in snapshot.servers if server.state == "active"}
    named = {server for server, _ in series} & active
    rows = [row for row, name in enumerate(snapshot.raw.servers) if name in named]
    if not rows:
        return None, []
    raw = snapshot.raw.select(np.array(rows, np.int64))
    try:
        return await _computed(raw, version, snapshot, service), []
    except (UnknownVersion, RequestError) as error:
        if version is not None:
            raise
        if snapshot.version is None:
            return None, []  # no champion anywhere: every series says so itself
        reason = str(original(error))
    except Exception as error:  # the forecast of record must stay readable whatever fails there
        if version is not None:
            raise
        log.exception("the champion could not compute")
        reason = type(original(error)).__name__
    as_of = moment(snapshot.slot + 1, snapshot.step_seconds)
    return None, [f"not computed now ({reason}); this is the forecast of record as of {as_of}"]


async def _as_of(
    request: ForecastRequest,
    want: Wanted,
    snapshot: Snapshot,
    service: Computer,
    now_s: float,
) -> ForecastAnswer:
    """As if `as_of` were now: only slots that ended by then are read."""
    assert request.as_of is not None
    slot = int(request.as_of.timestamp() // snapshot.step_seconds) - 1
    if not 0 <= slot <= snapshot.slot:
        newest = moment(snapshot.slot + 1, snapshot.step_seconds)
        raise Unprocessable(f"as_of must not be later than {newest}, the newest closed slot's end")
    known = {server.name for server in await service.servers() if server.first_slot <= slot}
    series = _series(request, snapshot)
    names = tuple(dict.fromkeys(server for server, _ in series if server in known))
    series = [
        (server, column)
        for server, metric in series
        for column in (snapshot.targets if metric is None and server in known else (metric,))
    ]
    if not names:
        nobody = [unknown(snapshot, *one, server_known=False) for one in series]
        return answers.envelope(snapshot, nobody, want, now_s=now_s)
    raw = await service.context(names, slot)
    return await _from_windows(request, raw, series, want, snapshot, service, now_s, [])


async def _from_context(
    request: ForecastRequest,
    want: Wanted,
    snapshot: Snapshot,
    service: Computer,
    now_s: float,
) -> ForecastAnswer:
    """From the values in the request; servers it does not give are unknown."""
    assert request.context is not None
    raw, warnings = whatif.windows(request.context, snapshot.raw)
    if request.series is None:
        given = {(one.server, one.metric) for one in request.context}
        series: list[Series] = [
            one for one in answers.series_of(snapshot, raw.servers) if one in given
        ]
    else:
        series = [
            (key.server, metric)
            for key in request.series
            for metric in (snapshot.targets if key.metric is None else (key.metric,))
        ]
    series = list(dict.fromkeys(series))
    return await _from_windows(request, raw, series, want, snapshot, service, now_s, warnings)


async def _from_windows(
    request: ForecastRequest,
    raw: RawWindows,
    series: Sequence[Series],
    want: Wanted,
    snapshot: Snapshot,
    service: Computer,
    now_s: float,
    warnings: Sequence[str],
) -> ForecastAnswer:
    try:
        block = await _computed(raw, request.version, snapshot, service)
    except UnknownVersion as error:
        if request.version is not None:
            raise
        raise NotReady(
            "no trained version answers yet, and only one can for as_of or context",
            retry_after_s=10,
        ) from error
    found = await asyncio.to_thread(answers.from_windows, snapshot, raw, block, series, want)
    return answers.envelope(snapshot, found, want, now_s=now_s, warnings=warnings)


async def _computed(
    raw: RawWindows, version: int | None, snapshot: Snapshot, service: Computer
) -> ForecastBlock:
    """What a version makes of these windows; raises Conflict for one that is of no use here."""
    name = "the champion" if version is None else f"version {version}"
    try:
        answered, values = await service.compute(raw, version)
    except ArtifactError as error:
        raise Conflict(f"{name} cannot be loaded: {original(error)}") from error
    fits = (len(raw), snapshot.horizon, len(snapshot.targets), len(snapshot.levels))
    if values.shape != fits:
        raise Conflict(f"{name} forecasts {values.shape}, this fleet is configured for {fits}")
    return ForecastBlock(
        slot=int(raw.origin.max()),
        member=CHAMPION if version is None else VERSION,
        version=answered,
        servers=raw.servers,
        targets=snapshot.targets,
        levels=snapshot.levels,
        values=np.asarray(values, np.float32),
    )
