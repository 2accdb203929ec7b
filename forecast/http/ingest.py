"""Rows as they come over HTTP: inflate, parse, validate, and say what became of each.

JSON is `{"rows": [...]}` or a bare list of rows, NDJSON one row a line; either may be gzipped. In
NDJSON a line that is no JSON is refused alone. Limits hold before and after inflating, so that a
small body cannot become a large one here.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from forecast.config import Config
from forecast.errors import RequestError, TooLarge, UnsupportedMedia
from forecast.http.api import IngestAnswer, RejectedValue
from forecast.http.series import moment
from forecast.schema import Reject, SampleBlock, Schema, validate_rows

__all__ = ["JSON", "NDJSON", "Kept", "Parsed", "Parser", "listed", "media_type"]

JSON, NDJSON = "application/json", "application/x-ndjson"

_SHOWN = 100
_GZIP = 16 + zlib.MAX_WBITS
_INFLATION = 4
"""How much larger than the largest body its text may be."""
_MOST_MEMBERS = 100
"""Parts a gzip body may be joined from."""


class Kept(Protocol):
    """What the buffer reports of an append."""

    @property
    def accepted(self) -> int: ...
    @property
    def late(self) -> int: ...
    @property
    def repeated(self) -> int: ...
    @property
    def rejected(self) -> Sequence[Reject]: ...
    @property
    def clock_slot(self) -> int | None: ...
    @property
    def closed_slot(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Parsed:
    """One request: what can be kept, and what was refused before the buffer saw it."""

    block: SampleBlock
    rejected: tuple[Reject, ...]


class Parser:
    """Turns request bodies into sample blocks, and the buffer's report into an answer."""

    def __init__(
        self,
        *,
        schema: Schema,
        max_clock_skew_s: int,
        max_body_bytes: int,
        max_inflated_bytes: int,
        max_rows: int = 200_000,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`now` is the wall clock in epoch seconds: later rows are from the future."""
        self._schema = schema
        self._skew_ms = max_clock_skew_s * 1000
        self._max_body = max_body_bytes
        self._max_inflated = max_inflated_bytes
        self._max_rows = max_rows
        self._now = now

    @classmethod
    def from_config(cls, config: Config, *, now: Callable[[], float] = time.time) -> Self:
        """The parser of one panel."""
        limit = config.serve.max_body_mb << 20
        return cls(
            schema=config.panel.schema_of(),
            max_clock_skew_s=config.clock.max_clock_skew,
            max_body_bytes=limit,
            max_inflated_bytes=_INFLATION * limit,
            now=now,
        )

    def parse(self, body: bytes, content_type: str, content_encoding: str) -> Parsed:
        """The rows of a body.

        Raises TooLarge, UnsupportedMedia, and RequestError for a body that cannot be read at all.
        """
        kind = media_type(content_type)
        if kind not in (JSON, NDJSON):
            raise UnsupportedMedia(f"rows come as {JSON} or {NDJSON}, not {kind!r:.80}")
        if len(body) > self._max_body:
            raise TooLarge(f"the body has {len(body)} bytes, the limit is {self._max_body}")
        data = self._inflated(body, content_encoding.strip().lower())
        if not data.strip():
            raise RequestError("the body is empty")
        if kind == NDJSON and data.count(b"\n") > 2 * self._max_rows:
            raise TooLarge(f"more lines than twice the limit of {self._max_rows} rows")
        rows, broken = _lines(data) if kind == NDJSON else (_document(data), {})
        if len(rows) > self._max_rows:
            raise TooLarge(f"{len(rows)} rows in one request, the limit is {self._max_rows}")
        block, rejected = validate_rows(
            rows,
            self._schema,
            now_ms=int(self._now() * 1000),
            max_clock_skew_ms=self._skew_ms,
        )
        return Parsed(block, tuple(broken.get(one.index, one) for one in rejected))

    def answer(self, parsed: Parsed, kept: Kept) -> IngestAnswer:
        """What became of the request."""
        rejected = sorted((*parsed.rejected, *kept.rejected), key=lambda one: one.index)
        step = self._schema.step_seconds
        closed = kept.closed_slot
        return IngestAnswer(
            accepted=kept.accepted,
            rejected_count=len(rejected),
            rejected=[
                RejectedValue(
                    index=one.index, metric=one.metric, reason=one.reason, detail=one.detail
                )
                for one in rejected[:_SHOWN]
            ],
            late=kept.late,
            repeated=kept.repeated,
            clock=None if kept.clock_slot is None else moment(kept.clock_slot, step),
            closed_until=None if closed is None else moment(closed + 1, step),
        )

    def _inflated(self, body: bytes, encoding: str) -> bytes:
        if encoding in ("", "identity"):
            return body
        if encoding != "gzip":
            raise UnsupportedMedia(f"content encoding gzip or none, not {encoding!r:.80}")
        parts: list[bytes] = []
        size, rest = 0, body
        try:
            while rest:
                if len(parts) == _MOST_MEMBERS:
                    raise TooLarge(f"the gzip body has more than {_MOST_MEMBERS} members")
                stream = zlib.decompressobj(_GZIP)
                part = stream.decompress(rest, self._max_inflated - size + 1)
                size += len(part)
                if size > self._max_inflated:
                    raise TooLarge(f"inflates to more than {self._max_inflated} bytes")
                if not stream.eof:
                    raise RequestError("the gzip body is cut short")
                parts.append(part)
                rest = stream.unused_data
        except zlib.error as error:
            raise RequestError(f"the body is not gzip: {error}") from error
        return b"".join(parts)


def media_type(content_type: str) -> str:
    """The type alone, without parameters.

    >>> media_type("Application/JSON; charset=utf-8")
    'application/json'
    """
    return content_type.partition(";")[0].strip().lower()


def listed(tree: object, key: str) -> list[object]:
    """The list in `{key: [...]}`, or the list itself; raises RequestError for anything else."""
    found = tree.get(key) if isinstance(tree, dict) and set(tree) == {key} else tree
    if not isinstance(found, list):
        raise RequestError(f'the body must be {{"{key}": [...]}} or a list of {key}')
    return found


def _document(data: bytes) -> Sequence[object]:
    try:
        tree = _load(data)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    return listed(tree, "rows")


def _lines(data: bytes) -> tuple[list[object], dict[int, Reject]]:
    """The row of every line that is not blank, and the refusal of each that is no JSON."""
    rows: list[object] = []
    broken: dict[int, Reject] = {}
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            rows.append(_load(line))
        except ValueError as error:
            broken[len(rows)] = Reject(len(rows), "malformed", f"not JSON: {error}"[:200])
            rows.append(None)
    return rows, broken


def _load(data: bytes) -> Any:  # noqa: ANN401
    """Parsed JSON; raises ValueError, also for bytes that are no text and for endless nesting."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
