"""A body is read to its end, to its limit, or until its time is up."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import Request

from forecast.errors import TooLarge, TooSlow
from forecast.http.bodies import read_body


def request(*parts: bytes, headers: dict[str, str] | None = None, ends: bool = True) -> Request:
    """A request whose body comes in parts; one that does not end waits for ever."""
    waiting = list(parts)

    async def receive():
        if waiting:
            part = waiting.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(waiting) or not ends}
        await asyncio.Event().wait()

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


async def test_a_body_comes_whole():
    assert await read_body(request(b"ab", b"", b"c"), 3) == b"abc"


@pytest.mark.parametrize(
    "told",
    [
        request(b"abc", b"d", ends=False),
        request(headers={"content-length": "4"}, ends=False),
        request(headers={"content-length": "9" * 5000}, ends=False),
    ],
)
async def test_a_body_is_refused_as_soon_as_it_is_known_to_be_too_large(told):
    with pytest.raises(TooLarge):
        await read_body(told, 3)


async def test_a_body_without_an_end_gives_its_place_back():
    with pytest.raises(TooSlow, match="2 bytes of the body"):
        await read_body(request(b"a", b"b", ends=False), 3, within_s=0.05)
