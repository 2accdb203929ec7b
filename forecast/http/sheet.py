"""Series as JSON, many at once: all numbers of one block in one go, and no object per series.

The fields and their order are those of `forecast.http.api.SeriesForecast`.

Legend: K series, S servers, H horizon steps, T targets, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from forecast.http import distribution
from forecast.http.api import Fallback
from forecast.http.queries import Threshold
from forecast.http.series import Standing, Wanted, moment
from forecast.record import ForecastBlock

FloatArray = NDArray[np.float64]

_SERIES = (
    b'{"server":%b,"metric":%b,"unit":%b,%b,"quantiles":%b,'
    b'"missing_slots":%d,"gap_slots":%d,"breaches":%b}'
)
_STAND = b'%b,"members":%b,%b'
_UNKNOWN = (
    b'{"server":%b,"metric":%b,"unit":null,"status":"unknown","detail":%b,"fallback":null,'
    b'"members":[],"as_of":null,"timestamps":[],"quantiles":{},"missing_slots":null,'
    b'"gap_slots":null,"breaches":[]}'
)


class Rows:
    """Where each server's and each target's values stand in a block, and which are usable."""

    def __init__(self, block: ForecastBlock) -> None:
        self.block = block
        self.row = {name: row for row, name in enumerate(block.servers)}
        self.column = {name: column for column, name in enumerate(block.targets)}
        finite_ST: NDArray[np.bool_] = np.all(np.isfinite(block.values), axis=(1, 3))
        self.usable: list[list[bool]] = finite_ST.tolist()
        """[S, T] whether every value of a series is a number."""


@dataclass(slots=True)
class _Numbers:
    """The series that one block answers: their places in the sheet, their rows and columns."""

    rows: Rows
    places: list[int] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    column: list[int] = field(default_factory=list)


class Sheet:
    """Collects the series of an answer in order, then writes them."""

    def __init__(
        self, want: Wanted, *, targets: Sequence[str], units: Sequence[str], step_seconds: int
    ) -> None:
        self._want, self._step = want, step_seconds
        self._targets = list(targets)
        self._named = [(_text(target), _text(unit)) for target, unit in zip(targets, units)]  # noqa: B905
        self._series: list[tuple[Any, ...] | bytes] = []
        self._numbers: dict[int, _Numbers] = {}
        self._standing: dict[tuple[object, ...], tuple[bytes, bytes, bytes]] = {}

    def unknown(self, server: str, metric: str | None, detail: str) -> None:
        """A series that does not exist, and why."""
        self._series.append(_UNKNOWN % (_text(server), _text(metric), _text(detail)))

    def known(
        self,
        server: str,
        target: int,
        standing: Standing,
        rows: Rows | None,
        fallback: Fallback | None,
    ) -> None:
        """A series of a target by its number; without rows it only says how things stand.

        `rows` say who made the values, `fallback` whether in another's place.
        """
        said = (standing.status, standing.detail, fallback, standing.origin, id(rows))
        known = self._standing.get(said)
        if known is None:
            known = self._standing[said] = self._stand(standing, fallback, rows)
        before, members, after = known
        if rows is not None and (weights := rows.block.weights) is not None:
            place = rows.row[server], rows.column[self._targets[target]]
            members = _members(rows.block.members, rows.block.versions, weights[place].tolist())
        told = _STAND % (before, members, after)
        if rows is not None:
            numbers = self._numbers.setdefault(id(rows), _Numbers(rows))
            numbers.places.append(len(self._series))
            numbers.row.append(rows.row[server])
            numbers.column.append(rows.column[self._targets[target]])
        self._series.append((server, target, told, standing.missing_slots, standing.gap_slots))

    def write(self) -> list[bytes]:
        """Every series as JSON, in the order they came."""
        quantiles = [b"{}"] * len(self._series)
        breaches = [b"[]"] * len(self._series)
        for numbers in self._numbers.values():
            block = numbers.rows.block
            found = block.values[numbers.row, : self._want.steps, numbers.column]
            q_KHQ = found.astype(np.float64)
            shown = quantiles_json(q_KHQ, block.levels, self._want.levels)
            for place, text in zip(numbers.places, shown, strict=True):
                quantiles[place] = text
            if self._want.thresholds:
                self._limits(numbers, q_KHQ, breaches)
        names: dict[str, bytes] = {}
        written = []
        for one, numbers_of, limits in zip(self._series, quantiles, breaches, strict=True):
            if isinstance(one, bytes):
                written.append(one)
                continue
            server, target, told, missing, gaps = one
            name = names.get(server)
            if name is None:
                name = names[server] = _text(server)
            metric, unit = self._named[target]
            written.append(_SERIES % (name, metric, unit, told, numbers_of, missing, gaps, limits))
        return written

    def _stand(
        self, standing: Standing, fallback: Fallback | None, rows: Rows | None
    ) -> tuple[bytes, bytes, bytes]:
        """The fields from `status` to `timestamps`, which many series share: before `members`, the
        one member of a block without weights, and after it."""
        first, steps = standing.origin + 1, self._want.steps if rows is not None else 0
        before = {
            "status": standing.status,
            "detail": standing.detail,
            "fallback": fallback,
        }
        after = {
            "as_of": moment(first, self._step),
            "timestamps": [moment(first + step, self._step) for step in range(steps)],
        }
        members = b"[]"
        if rows is not None:
            members = _members([rows.block.member], [rows.block.version], [1.0])
        return orjson.dumps(before)[1:-1], members, orjson.dumps(after)[1:-1]

    def _limits(self, numbers: _Numbers, q_KHQ: FloatArray, breaches: list[bytes]) -> None:
        levels = numbers.rows.block.levels
        for place, column, q_HQ in zip(numbers.places, numbers.column, q_KHQ, strict=True):
            metric = numbers.rows.block.targets[column]
            asked = (one for one in self._want.thresholds if one.metric in (None, metric))
            breaches[place] = orjson.dumps([_breach(limit, q_HQ, levels) for limit in asked])


def quantiles_json(
    q_KHQ: FloatArray, levels: Sequence[float], wanted: Sequence[float]
) -> list[bytes]:
    """Per series its quantiles as a JSON object of lists, by level.

    A number has as many digits as tell its float32 from the next one: half as many as a double's,
    and no noise behind them.

    >>> quantiles_json(np.array([[[0.1, 0.2], [0.3, 0.4]]]), (0.1, 0.9), (0.1, 0.9))
    [b'{"0.1":[0.1,0.3],"0.9":[0.2,0.4]}']
    """
    count, steps = q_KHQ.shape[:2]
    # Interpolation can move two equal values apart by one bit, hence their order comes last.
    shown_KHQ = distribution.ordered(distribution.at_levels(q_KHQ, levels, wanted))
    by_level = shown_KHQ.swapaxes(1, 2).astype(np.float32, order="C").reshape(-1, steps)
    # One call for all numbers, taken apart afterwards: several times faster than a list a level.
    text = orjson.dumps(by_level, option=orjson.OPT_SERIALIZE_NUMPY)
    paths = text[2:-2].split(b"],[")
    form = b"{%b}" % b",".join(b'"%b":[%%b]' % f"{level:.10g}".encode() for level in wanted)
    size = len(wanted)
    return [form % tuple(paths[at : at + size]) for at in range(0, count * size, size)]


def _members(
    names: Sequence[str], versions: Sequence[int | None], weights: Sequence[float]
) -> bytes:
    """`forecast.http.api.Member` of each."""
    return orjson.dumps(
        [
            {"member": name, "version": version, "weight": round(weight, 4)}
            for name, version, weight in zip(names, versions, weights, strict=True)
        ]
    )


def _breach(limit: Threshold, q_HQ: FloatArray, levels: Sequence[float]) -> dict[str, Any]:
    """`forecast.http.api.Breach` of one limit."""
    if limit.above is not None:
        chance = distribution.above(q_HQ, levels, limit.above)
    else:
        assert limit.below is not None
        chance = distribution.below(q_HQ, levels, limit.below)
    rounded = [round(share, 6) for share in chance.tolist()]
    return {
        "above": limit.above,
        "below": limit.below,
        "probability": rounded,
        "any_step_at_least": max(rounded),
    }


def _text(value: str | None) -> bytes:
    # A lone surrogate is no text that JSON could carry; a client's question may hold one.
    return orjson.dumps(value if value is None else value.encode(errors="replace").decode())
