"""Answers of GET /forecast kept as bytes while their snapshot is the newest.

An answer is a function of the snapshot, the question and the age, and only the age goes on: the
second time a question is asked it costs a look-up.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from fastapi import Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from forecast.errors import FleetcastError
from forecast.http import answers
from forecast.http.answers import Body
from forecast.http.auth import Guard
from forecast.http.board import Board
from forecast.http.service import Service
from forecast.record import Snapshot

_LIMIT_BYTES = 32 << 20
_ENTRY_BYTES = 500
"""What an entry takes beside its text."""

Key = tuple[bytes, bool]
"""The query as it was sent, and whether the stream stands still."""


class Reads:
    """The newest snapshot's board and the answers made from it, the least asked for dropped first.

    Snapshots are told apart by identity: a replica pulls each one once.
    """

    def __init__(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._board: Board | None = None
        self._kept: OrderedDict[Key, Body] = OrderedDict()
        self._making: dict[Key, asyncio.Future[Body]] = {}
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self._size

    def board(self, snapshot: Snapshot) -> Board:
        """The board of a snapshot; with another one than before all answers are forgotten."""
        if self._board is None or self._board.snapshot is not snapshot:
            self._board = Board(snapshot)
            self._kept.clear()
            self._making = {}  # who waits for one keeps waiting, nobody new joins
            self._size = 0
        return self._board

    def find(self, snapshot: Snapshot, key: Key) -> Body | None:
        """The answer to a question that was answered from this snapshot before."""
        if self._board is None or self._board.snapshot is not snapshot or key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    async def body(self, snapshot: Snapshot, key: Key, make: Callable[[Board], Body]) -> Body:
        """The answer, made in a thread once for all who ask at the same time."""
        board = self.board(snapshot)
        if (kept := self.find(snapshot, key)) is not None:
            return kept
        making = self._making.get(key)
        if making is None:
            making = asyncio.ensure_future(asyncio.to_thread(make, board))
            self._making[key] = making
            making.add_done_callback(lambda done: self._made(board, key, done))
        # Whoever asked first may go away: the others still want the answer.
        return await asyncio.shield(making)

    def _made(self, board: Board, key: Key, made: asyncio.Future[Body]) -> None:
        if board is not self._board:
            return
        self._making.pop(key, None)
        if made.cancelled() or made.exception() is not None:
            return
        body = made.result()
        size = _size(key, body)
        if size > self._limit:
            return
        self._kept[key] = body
        self._size += size
        while self._size > self._limit:
            self._size -= _size(*self._kept.popitem(last=False))


class Shortcut:
    """Answers a repeated GET /forecast before any routing; everything else goes on to the app.

    Whoever may not pass goes on too: the route says why.
    """

    def __init__(
        self, app: ASGIApp, path: str, reads: Reads, service: Service, guard: Guard,
        now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._app, self._path, self._reads = app, path, reads
        self._service, self._guard, self._now = service, guard, now

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        response = None
        if scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == self._path:
            response = await self._known(scope)
        await (response or self._app)(scope, receive, send)

    async def _known(self, scope: AsgiScope) -> Response | None:
        headers, client = Headers(scope=scope), scope.get("client")
        try:
            self._guard.authorise(headers, "GET", client[0] if client else None, "read")
        except FleetcastError:
            return None
        snapshot = await self._service.snapshot()
        if snapshot is None:
            return None
        now_s = self._now()
        key = (scope["query_string"], answers.is_stalled(snapshot, now_s))
        body = self._reads.find(snapshot, key)
        return None if body is None else respond(snapshot, body, headers, now_s)


def respond(snapshot: Snapshot, body: Body, headers: Headers, now_s: float) -> Response:
    """The answer, or 304 when the caller has it already."""
    told = told_of(snapshot, now_s)
    if known(headers.get("if-none-match", ""), told["ETag"]):
        return Response(status_code=304, headers=told)
    aged = body.aged(answers.age_s(snapshot, now_s))
    return Response(aged, 200, told, "application/json")


def told_of(snapshot: Snapshot, now_s: float) -> dict[str, str]:
    """The headers of an answer. Its tag is weak: the age in the body goes on. A stalled stream
    shows, so an answer that a client kept must not.
    """
    stale = "-stale" if answers.is_stalled(snapshot, now_s) else ""
    tag = f'W/"{snapshot.revision}-{snapshot.version}{stale}"'
    return {"ETag": tag, "Cache-Control": "private, no-cache"}


def known(if_none_match: str, etag: str) -> bool:
    """Whether the caller has this answer already (RFC 9110, weak comparison)."""
    if not if_none_match:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or etag.removeprefix("W/") in tags


def _size(key: Key, body: Body) -> int:
    return len(key[0]) + len(body) + _ENTRY_BYTES
