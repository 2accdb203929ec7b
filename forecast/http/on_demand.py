"""POST /forecast: forecasts computed now, as of an earlier moment, or from values in the request.

When the champion cannot compute just now, its forecast of record answers, and a warning says so.

Many servers are computed in parts: while the Forecaster works on one part, the part before is
written as JSON and sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from forecast.http.answers import Body, Ends, Series
from forecast.http.board import Board
from forecast.http.parts import Compute, Made, Parts, Stream, Write, begin, in_order, in_parts
from forecast.http.problems import original
from forecast.http.queries import ForecastRequest
from forecast.http.series import Wanted, moment
from forecast.http.service import ServerLike
from forecast.raw_windows import RawWindows
from forecast.record import CHAMPION, ForecastBlock, Snapshot

log = logging.getLogger("fleetcast.http")

VERSION = "version"
"""The member's name when a version was asked for by number."""


class Computer(Protocol):
    """The part of `Service` that a computed forecast needs."""

    async def compute(
        self, raw: RawWindows, version: int | None
    ) -> tuple[int, NDArray[np.float32]]: ...

    async def compute_newest(
        self, snapshot: Snapshot, rows: Sequence[int], version: int | None
    ) -> tuple[int, NDArray[np.float32]]: ...

    async def compute_at(
        self, servers: tuple[str, ...], slot: int, version: int | None
    ) -> tuple[int, NDArray[np.float32], RawWindows]: ...

    async def servers(self) -> Sequence[ServerLike]: ...


async def forecast(
    request: ForecastRequest, *, board: Board, service: Computer, stalled: bool
) -> Body | Stream:
    """The answer to one POST; `stalled` says that the stream stands still.

    Raises Unprocessable for what the model does not reach, UnknownVersion for a version that does
    not exist, Conflict for one that cannot be loaded, NotReady where only a version could answer
    and there is none. Once a stream has begun, a version that was named or that alone can answer
    may still fail: then the stream raises, and ends short.
    """
    snapshot = board.snapshot
    want = answers.wanted(
        snapshot,
        horizon=request.horizon,
        levels=request.quantiles,
        thresholds=request.thresholds,
    )
    if request.context is not None:
        return await _from_context(request, want, snapshot, service)
    if request.as_of is not None:
        return await _as_of(request, want, snapshot, service)
    series, warnings = _series(request, snapshot), list[str]()

    def of_record(asked: Sequence[Series]) -> list[bytes]:
        return answers.from_snapshot(board, asked, want, stalled=stalled, model=request.model)

    def instead(asked: Sequence[Series], error: Exception) -> list[bytes]:
        warnings[:] = [_not_computed(error, snapshot)]
        return of_record(asked)

    if request.computed:
        version = request.version
        compute, write = _newest(version, want, board, service, stalled)
        parts = in_parts(series, version, compute, write, instead if version is None else None)
        try:
            return await _answered(series, parts, want, snapshot, warnings)
        except Exception as error:  # the forecast of record must stay readable whatever fails there
            if version is not None:
                raise
            # Without a champion anywhere, every series says so itself.
            if snapshot.version is not None or not isinstance(error, UnknownVersion | RequestError):
                warnings = [_not_computed(error, snapshot)]
    pieces = await asyncio.to_thread(of_record, series)
    return answers.envelope(snapshot, pieces, want, warnings=warnings)


async def _answered(
    series: Sequence[Series],
    parts: Parts,
    want: Wanted,
    snapshot: Snapshot,
    warnings: Sequence[str],
) -> Body | Stream:
    """The answer once its first part is there; raises what that raises."""
    written = await begin(series, parts)
    if written.whole or not in_order(series):
        return answers.envelope(snapshot, await written.all(), want, warnings=warnings)
    return Stream(Ends.of(snapshot, want), written, warnings)


def _not_computed(error: Exception, snapshot: Snapshot) -> str:
    """What an answer says that is of record because the champion failed."""
    if isinstance(error, UnknownVersion | RequestError):
        reason = str(original(error))
    else:
        log.error("the champion could not compute", exc_info=error)
        reason = type(original(error)).__name__
    as_of = moment(snapshot.slot + 1, snapshot.step_seconds)
    return f"not computed now ({reason}); this is the forecast of record as of {as_of}"


def _series(request: ForecastRequest, snapshot: Snapshot) -> list[Series]:
    if request.series is None:
        return answers.series_of(snapshot)
    return answers.series_asked(snapshot, request.series)


def _newest(
    version: int | None, want: Wanted, board: Board, service: Computer, stalled: bool
) -> tuple[Compute, Write]:
    """How a version's forecast of the newest windows is computed and written.

    Servers without enough context are left out: a baseline answers for them.
    """
    snapshot = board.snapshot
    rows = {name: row for row, name in enumerate(snapshot.raw.servers)}
    active = {server.name for server in snapshot.servers if server.state == "active"} & set(rows)

    async def compute(servers: tuple[str, ...], chosen: int | None) -> Made:
        ready = sorted(rows[name] for name in servers if name in active)
        if not ready:
            return Made()
        with _explained(version):
            answer = await service.compute_newest(snapshot, ready, chosen)
        names = tuple(snapshot.raw.servers[row] for row in ready)
        return Made(_block(answer, names, snapshot.slot, version, snapshot))

    def write(made: Made, asked: Sequence[Series]) -> list[bytes]:
        return answers.from_snapshot(
            board, asked, want, stalled=stalled, model=CHAMPION, computed=made.block
        )

    return compute, write


async def _as_of(
    request: ForecastRequest, want: Wanted, snapshot: Snapshot, service: Computer
) -> Body | Stream:
    """As if `as_of` were now: only slots that ended by then are read."""
    assert request.as_of is not None
    slot = int(request.as_of.timestamp() // snapshot.step_seconds) - 1
    if not 0 <= slot <= snapshot.slot:
        newest = moment(snapshot.slot + 1, snapshot.step_seconds)
        raise Unprocessable(f"as_of must not be later than {newest}, the newest closed slot's end")
    # Of the newest slot the snapshot knows them; before it, some may have retired since.
    servers = snapshot.servers if slot == snapshot.slot else await service.servers()
    known = {server.name for server in servers if server.first_slot <= slot}
    series = [
        (server, column)
        for server, metric in _series(request, snapshot)
        for column in (snapshot.targets if metric is None and server in known else (metric,))
    ]

    async def compute(servers: tuple[str, ...], chosen: int | None) -> Made:
        names = tuple(name for name in servers if name in known)
        if not names:
            return Made()
        with _explained(request.version):
            answered, values, raw = await service.compute_at(names, slot, chosen)
        return Made(_block((answered, values), names, slot, request.version, snapshot), raw)

    return await _from_windows(request, series, want, snapshot, compute)


async def _from_context(
    request: ForecastRequest, want: Wanted, snapshot: Snapshot, service: Computer
) -> Body | Stream:
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
    rows = {name: row for row, name in enumerate(raw.servers)}

    async def compute(servers: tuple[str, ...], chosen: int | None) -> Made:
        mine = [rows[name] for name in servers if name in rows]
        if not mine:
            return Made()
        part = raw.select(mine)
        with _explained(request.version):
            answer = await service.compute(part, chosen)
        slot = int(part.origin.max())
        return Made(_block(answer, part.servers, slot, request.version, snapshot), part)

    series = list(dict.fromkeys(series))
    return await _from_windows(request, series, want, snapshot, compute, warnings)


async def _from_windows(
    request: ForecastRequest,
    series: Sequence[Series],
    want: Wanted,
    snapshot: Snapshot,
    compute: Compute,
    warnings: Sequence[str] = (),
) -> Body | Stream:
    def write(made: Made, asked: Sequence[Series]) -> list[bytes]:
        if made.raw is None or made.block is None:
            return answers.all_unknown(snapshot, asked, want)
        return answers.from_windows(snapshot, made.raw, made.block, asked, want)

    parts = in_parts(series, request.version, compute, write)
    try:
        return await _answered(series, parts, want, snapshot, warnings)
    except UnknownVersion as error:
        if request.version is not None:
            raise
        raise NotReady(
            "no trained version answers yet, and only one can for as_of or context",
            retry_after_s=10,
        ) from error


@contextmanager
def _explained(version: int | None) -> Iterator[None]:
    """Raise Conflict for a version that cannot be loaded."""
    try:
        yield
    except ArtifactError as error:
        raise Conflict(f"{_called(version)} cannot be loaded: {original(error)}") from error


def _block(
    answer: tuple[int, NDArray[np.float32]],
    servers: tuple[str, ...],
    slot: int,
    version: int | None,
    snapshot: Snapshot,
) -> ForecastBlock:
    """What a version computed as a block; raises Conflict for what is of no use here."""
    answered, values = answer
    fits = (len(servers), snapshot.horizon, len(snapshot.targets), len(snapshot.levels))
    if values.shape != fits:
        raise Conflict(
            f"{_called(version)} forecasts {values.shape}, this fleet is configured for {fits}"
        )
    return ForecastBlock(
        slot=slot,
        member=CHAMPION if version is None else VERSION,
        version=answered,
        servers=servers,
        targets=snapshot.targets,
        levels=snapshot.levels,
        values=np.asarray(values, np.float32),
    )


def _called(version: int | None) -> str:
    return "the champion" if version is None else f"version {version}"
