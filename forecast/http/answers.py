"""From a snapshot to what HTTP answers: pure functions, no clock, no network.

A series is (server, metric). Whoever was asked answers for it if they can; else seasonal naive,
then copy-last, and the answer says so. What nobody can answer is a series without quantiles, with
a status that says why: one series never fails the others.

An answer is bytes from the start: a fleet's holds some hundred thousand numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import orjson

from forecast.clock import SILENT_SLOTS
from forecast.config import seconds
from forecast.errors import Unprocessable
from forecast.http.api import Fallback, SeriesStatus
from forecast.http.board import Board
from forecast.http.queries import SeriesKey, Threshold
from forecast.http.series import Standing, Standings, Wanted, moment
from forecast.http.sheet import Rows, Sheet
from forecast.record import CHAMPION, ENSEMBLE, ForecastBlock, ServerStatus, Snapshot
from forecast.windows import RawWindows

Series = tuple[str, str | None]
"""(server, metric); the metric is None only for a server that nobody knows."""

BASELINES: tuple[Fallback, ...] = ("seasonal_naive", "copy_last")


def wanted(
    snapshot: Snapshot,
    *,
    horizon: str | None = None,
    levels: Sequence[float] | None = None,
    thresholds: Sequence[Threshold] = (),
) -> Wanted:
    """The request in terms of this snapshot; raises Unprocessable where it asks for more."""
    steps = snapshot.horizon
    if horizon is not None:
        steps = math.ceil(seconds(horizon) / snapshot.step_seconds)
    if steps > snapshot.horizon:
        farthest = snapshot.horizon * snapshot.step_seconds
        raise Unprocessable(f"horizon {horizon} is too far: the model looks {farthest} s ahead")
    asked = snapshot.levels if levels is None else tuple(sorted(set(levels)))
    if asked[0] < snapshot.levels[0] or asked[-1] > snapshot.levels[-1]:
        raise Unprocessable(
            f"quantiles must lie between the model's outer levels {snapshot.levels[0]:g} and "
            f"{snapshot.levels[-1]:g}, got {asked[0]:g} to {asked[-1]:g}"
        )
    return Wanted(steps=steps, levels=asked, thresholds=tuple(thresholds))


def series_of(
    snapshot: Snapshot, servers: Iterable[str] | None = None, metrics: Iterable[str] | None = None
) -> list[Series]:
    """Every metric (None: target) of every server (None: of the fleet), each series once."""
    names = [server.name for server in snapshot.servers] if servers is None else list(servers)
    columns = snapshot.targets if metrics is None else tuple(metrics)
    return list(dict.fromkeys((name, column) for name in names for column in columns))


def series_asked(snapshot: Snapshot, keys: Iterable[SeriesKey]) -> list[Series]:
    """The series of a request, each once; a key without a metric is every target."""
    known = {server.name for server in snapshot.servers}
    found: list[Series] = []
    for key in keys:
        if key.metric is not None or key.server not in known:
            found.append((key.server, key.metric))
        else:
            found += [(key.server, target) for target in snapshot.targets]
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Body:
    """An answer as JSON but for its age, which goes on while the answer is kept."""

    before: bytes
    after: bytes

    def aged(self, age_s: float) -> bytes:
        """The whole answer at an age."""
        return b"%b%b%b" % (self.before, orjson.dumps(age_s), self.after)

    def __len__(self) -> int:
        return len(self.before) + len(self.after)


def from_snapshot(
    board: Board,
    series: Iterable[Series],
    want: Wanted,
    *,
    stalled: bool,
    model: str | None = None,
    computed: ForecastBlock | None = None,
) -> list[bytes]:
    """Each series' forecast of record, by who answers for it or by the member `model`.

    `computed` stands in for the champion's where it has a server; `stalled` says that the stream
    stands still.
    """
    reader = _Reader(board, model=model, computed=computed, stalled=stalled)
    sheet = _sheet(board.snapshot, want)
    for server, metric in series:
        reader.read(server, metric, sheet)
    return sheet.write()


def from_windows(
    snapshot: Snapshot,
    raw: RawWindows,
    block: ForecastBlock,
    series: Iterable[Series],
    want: Wanted,
) -> list[bytes]:
    """Series forecast from windows that are not of record: an earlier moment, or a what-if.

    `block` holds what a version computed from `raw`. A server that `raw` lacks is unknown.
    """
    places = {name: row for row, name in enumerate(raw.servers)}
    rows, sheet = Rows(block), _sheet(snapshot, want)
    standings = Standings(raw)
    for server, metric in series:
        row = places.get(server)
        if row is None or metric not in rows.column:
            sheet.unknown(server, metric, nobody(snapshot, server, metric, known=row is not None))
            continue
        standing = standings.of(row, metric)
        empty = standing.gap_slots == raw.context
        usable = rows if rows.usable[row][rows.column[metric]] and not empty else None
        sheet.known(server, snapshot.targets.index(metric), standing, usable, None)
    return sheet.write()


def all_unknown(snapshot: Snapshot, series: Iterable[Series], want: Wanted) -> list[bytes]:
    """The answer for series of servers that nobody knows."""
    sheet = _sheet(snapshot, want)
    for server, metric in series:
        sheet.unknown(server, metric, nobody(snapshot, server, metric, known=False))
    return sheet.write()


@dataclass(frozen=True, slots=True)
class Ends:
    """What stands around the series of an answer; the fields are those of `api.ForecastAnswer`."""

    before: bytes
    """Until its age."""
    after: bytes
    """From its age to the first series."""

    @classmethod
    def of(cls, snapshot: Snapshot, want: Wanted) -> Self:
        """Those of an answer from this snapshot."""
        before = {
            "fleet": snapshot.fleet,
            "panel": snapshot.panel,
            "revision": snapshot.revision,
            "version": snapshot.version,
            "as_of": moment(snapshot.slot + 1, snapshot.step_seconds),
        }
        after = {
            "step_seconds": snapshot.step_seconds,
            "horizon_seconds": want.steps * snapshot.step_seconds,
            "context_slots": snapshot.raw.context,
        }
        return cls(
            before=orjson.dumps(before)[:-1] + b',"age_seconds":',
            after=b',%b,"series":[' % orjson.dumps(after)[1:-1],
        )

    def opening(self, age_s: float) -> bytes:
        """All before the series, at an age."""
        return b"%b%b%b" % (self.before, orjson.dumps(age_s), self.after)

    @staticmethod
    def closing(warnings: Sequence[str]) -> bytes:
        """All after the series."""
        said = [text.encode(errors="replace").decode() for text in warnings]
        return b'],"warnings":%b}' % orjson.dumps(said)


def envelope(
    snapshot: Snapshot, series: Iterable[bytes], want: Wanted, *, warnings: Sequence[str] = ()
) -> Body:
    """The whole answer around its series."""
    ends = Ends.of(snapshot, want)
    return Body(
        before=ends.before,
        after=b"%b%b%b" % (ends.after, b",".join(series), ends.closing(warnings)),
    )


def nobody(snapshot: Snapshot, server: str, metric: str | None, *, known: bool) -> str:
    """Why a series does not exist; `known` is whether its server does."""
    if known:
        return f"{metric!r:.80} is not forecast; forecast are {', '.join(snapshot.targets)}"
    return f"no server {server!r:.80} here as of {moment(snapshot.slot + 1, snapshot.step_seconds)}"


def age_s(snapshot: Snapshot, now_s: float) -> float:
    """Wall-clock seconds since the snapshot was published."""
    return round(max(0.0, now_s - snapshot.published_at), 3)


def is_stalled(snapshot: Snapshot, now_s: float) -> bool:
    """Whether the stream stands still: no step for three steps of wall-clock time."""
    return age_s(snapshot, now_s) > SILENT_SLOTS * snapshot.step_seconds


def _sheet(snapshot: Snapshot, want: Wanted) -> Sheet:
    return Sheet(
        want,
        targets=snapshot.targets,
        units=snapshot.units,
        step_seconds=snapshot.step_seconds,
    )


class _Reader:
    """Reads series off one snapshot by name."""

    def __init__(
        self, board: Board, *, model: str | None, computed: ForecastBlock | None, stalled: bool
    ) -> None:
        self._board, self._snapshot = board, board.snapshot
        self._model, self._stalled = model, stalled
        self._rows = dict(board.rows)
        if computed is not None:
            self._rows[CHAMPION] = Rows(computed)
        self._targets = {name: place for place, name in enumerate(self._snapshot.targets)}
        self._computed = frozenset(computed.servers if computed is not None else ())
        self._said: dict[tuple[str, Fallback | None], tuple[SeriesStatus, str | None]] = {}

    def read(self, server: str, metric: str | None, sheet: Sheet) -> None:
        """Put one series on the sheet: whoever can answer first does."""
        known = self._board.servers.get(server)
        target = None if metric is None else self._targets.get(metric)
        if known is None or metric is None or target is None:
            why = nobody(self._snapshot, server, metric, known=known is not None)
            sheet.unknown(server, metric, why)
            return
        state, served = known
        rows = self._answering(server, metric, served)
        fallback = self._fallback(rows)
        said = self._said.get((server, fallback))
        if said is None:
            said = self._said[server, fallback] = self._status(state, fallback)
        gaps = self._board.gaps[server][target]
        standing = Standing(self._snapshot.slot, *said, state.missing_slots, gaps)
        sheet.known(server, target, standing, rows, fallback)

    def _answering(self, server: str, metric: str, served: str | None) -> Rows | None:
        """The first member's block that has every value of the series."""
        first = CHAMPION if server in self._computed else self._model or served
        for member in (first, *BASELINES):
            rows = None if member is None else self._rows.get(member)
            if rows is None:
                continue
            row, column = rows.row.get(server), rows.column.get(metric)
            if row is not None and column is not None and rows.usable[row][column]:
                return rows
        return None

    def _fallback(self, rows: Rows | None) -> Fallback | None:
        """The baseline that answers in place of who was asked; None when nobody has to."""
        for name in BASELINES:
            if rows is not None and rows.block.member == name != self._model:
                return name
        return None

    def _status(
        self, state: ServerStatus, fallback: Fallback | None
    ) -> tuple[SeriesStatus, str | None]:
        step = self._snapshot.step_seconds
        if self._stalled:
            return "stale", "the stream stands still; this was forecast from the last data"
        if state.state in ("stale", "retired"):
            return "stale", f"silent since {moment(state.last_slot + 1, step)}"
        if state.state == "warming_up":
            return "warming_up", (
                f"{state.missing_slots} more slots of {step} s until a version answers"
            )
        if fallback is not None:
            reason = "no trained version yet" if self._snapshot.version is None else "not issued"
            asked = self._model in (None, CHAMPION, ENSEMBLE)
            return "fallback", reason if asked else f"{self._model} cannot answer"
        return "ok", None
