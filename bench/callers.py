"""Callers over plain sockets: one thread and one open connection each.

The clients of a bench share the cores with what they measure, so they must cost little.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from forecast.errors import FleetcastError

_TIMEOUT_S = 300.0
_IDLE_S = 2.0
_CHUNK = 1 << 16


def request(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join((*lines, "", "")).encode() + body


def free_port() -> int:
    """A port of this machine on which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Caller:
    """One connection that is kept open; after a pause a new one, as servers close idle ones."""

    def __init__(self, port: int) -> None:
        self._port, self._used_s = port, 0.0
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def call(self, sent: bytes) -> bytes | bytearray:
        """The body of the answer; raises FleetcastError for any other status than 200."""
        if time.monotonic() - self._used_s > _IDLE_S:
            self.close()
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), _TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(sent)
        head, begun = self._head(self._socket)
        lines = head.lower().split(b"\r\n")
        length = next(
            (int(line[15:]) for line in lines if line.startswith(b"content-length:")), None
        )
        if length is not None:
            body = self._body(self._socket, begun, length)
        elif b"transfer-encoding: chunked" in lines:
            body = self._chunks(self._socket, begun)
        else:
            raise FleetcastError(f"an answer of unknown length: {head[:300]!r}")
        if b" 200 " not in lines[0]:
            raise FleetcastError(f"{sent[:80]!r}: {lines[0]!r} {body[:300]!r}")
        if b"connection: close" in lines:
            self.close()
        self._used_s = time.monotonic()
        return body

    @staticmethod
    def _head(connection: socket.socket) -> tuple[bytes, bytes]:
        got = b""
        while b"\r\n\r\n" not in got:
            part = connection.recv(_CHUNK)
            if not part:
                raise FleetcastError(f"the connection ended within the head: {got[:200]!r}")
            got += part
        head, _, begun = got.partition(b"\r\n\r\n")
        return head, begun

    @staticmethod
    def _body(connection: socket.socket, begun: bytes, length: int) -> bytes | bytearray:
        if len(begun) == length:
            return begun
        body = bytearray(length)
        body[: len(begun)] = begun
        at, view = len(begun), memoryview(body)
        while at < length:
            count = connection.recv_into(view[at:])
            if not count:
                raise FleetcastError(f"the connection ended after {at} of {length} bytes")
            at += count
        return body

    @staticmethod
    def _chunks(connection: socket.socket, begun: bytes) -> bytes:
        """A body in chunks (RFC 9112), without trailers."""
        got, at, chunks = bytearray(begun), 0, list[bytes]()
        while True:
            end = got.find(b"\r\n", at)
            size = int(got[at:end], 16) if end >= 0 else 0
            if end >= 0 and len(got) >= end + size + 4:
                if not size:
                    return b"".join(chunks)
                chunks.append(bytes(got[end + 2 : end + 2 + size]))
                at = end + size + 4
                continue
            part = connection.recv(_CHUNK)
            if not part:
                raise FleetcastError(f"the connection ended after {len(got)} bytes of chunks")
            got += part


@dataclass(frozen=True, slots=True)
class Load:
    """What callers saw: seconds of every call, and of all of them together."""

    seconds: tuple[float, ...]
    wall_s: float

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.seconds) / self.wall_s

    def percentile_ms(self, share: float) -> float:
        """Milliseconds within which so many percent of the calls were answered."""
        return float(np.percentile(self.seconds, share)) * 1e3

    def __add__(self, other: Load) -> Load:
        return Load((*self.seconds, *other.seconds), self.wall_s + other.wall_s)


def for_a_while(port: int, requests: Sequence[bytes], *, clients: int, seconds: float) -> Load:
    """So many callers ask without a pause, each its way through the requests."""
    started = threading.Barrier(clients + 1)
    end = [0.0]

    def ask(number: int) -> list[float]:
        took = []
        with Caller(port) as caller:
            caller.call(requests[number % len(requests)])
            started.wait()
            turn, began = number, time.perf_counter()
            while began < end[0]:
                caller.call(requests[turn % len(requests)])
                now = time.perf_counter()
                took.append(now - began)
                turn, began = turn + 1, now
        return took

    def begin() -> float:
        began = time.perf_counter()
        end[0] = began + seconds
        started.wait()
        return began

    return _all(started, ask, begin)


def together(port: int, sent: bytes, *, clients: int) -> Load:
    """So many callers ask the same once, all at the same time."""
    started = threading.Barrier(clients + 1)

    def ask(_: int) -> list[float]:
        with Caller(port) as caller:
            started.wait()
            began = time.perf_counter()
            caller.call(sent)
            return [time.perf_counter() - began]

    def begin() -> float:
        began = time.perf_counter()
        started.wait()
        return began

    return _all(started, ask, begin)


def _all(
    started: threading.Barrier, ask: Callable[[int], list[float]], begin: Callable[[], float]
) -> Load:
    found: list[list[float]] = []
    errors: list[Exception] = []

    def run(number: int) -> None:
        try:
            found.append(ask(number))
        except Exception as error:  # told by whoever waits for the threads
            errors.append(error)
            started.abort()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(started.parties - 1)]
    for thread in threads:
        thread.start()
    try:
        began = begin()
    except threading.BrokenBarrierError:
        began = time.perf_counter()  # nobody began; why is told below
    for thread in threads:
        thread.join()
    if errors:
        raise next(
            (e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0]
        )
    return Load(tuple(s for took in found for s in took), time.perf_counter() - began)
