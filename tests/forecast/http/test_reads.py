"""Repeated reads of the forecast of record: answered from memory, and never with anything else."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from forecast.http import answers
from forecast.http.answers import Body
from forecast.http.auth import Guard
from forecast.http.board import Board
from forecast.http.reads import Reads
from forecast.http.routes import make_app
from tests.forecast.http.http_scene import (
    FORECAST,
    NOW_S,
    SLOT,
    STEP,
    FakeService,
    block,
    client,
    problem_of,
    snapshot,
)


class Counting:
    """Makes a body and counts how often it was asked to."""

    def __init__(self, size: int = 100) -> None:
        self.body, self.made = Body(b"x" * size, b""), 0

    def __call__(self, board: Board) -> Body:
        self.made += 1
        return self.body


async def test_a_question_is_answered_from_memory_the_second_time():
    reads, newest, make = Reads(), snapshot(), Counting()
    for _ in range(3):
        assert await reads.body(newest, (b"server=a", False), make) is make.body
    assert make.made == 1
    assert reads.find(newest, (b"server=a", False)) is make.body


async def test_another_question_or_a_stall_has_an_answer_of_its_own():
    reads, newest, make = Reads(), snapshot(), Counting()
    for key in ((b"server=a", False), (b"server=b", False), (b"server=a", True)):
        await reads.body(newest, key, make)
    assert make.made == 3


async def test_with_another_snapshot_nothing_of_the_last_one_is_answered():
    reads, make = Reads(), Counting()
    old, new = snapshot(), snapshot()
    await reads.body(old, (b"", False), make)
    assert reads.find(new, (b"", False)) is None
    await reads.body(new, (b"", False), make)
    assert make.made == 2
    assert reads.find(old, (b"", False)) is None


async def test_who_asks_at_the_same_time_waits_for_one_answer():
    reads, newest, make = Reads(), snapshot(), Counting()
    asked = (reads.body(newest, (b"", False), make) for _ in range(8))
    assert set(map(id, await asyncio.gather(*asked))) == {id(make.body)}
    assert make.made == 1


async def test_an_answer_made_from_a_replaced_snapshot_is_not_kept():
    reads, old, new = Reads(), snapshot(), snapshot()

    def replaced(board: Board) -> Body:
        return Body(b"old", b"")

    asked = asyncio.ensure_future(reads.body(old, (b"", False), replaced))
    await asyncio.sleep(0)
    reads.board(new)
    assert (await asked).before == b"old"
    assert reads.find(new, (b"", False)) is None
    assert reads.size == 0


async def test_a_question_that_fails_fails_again_and_leaves_nothing():
    reads, newest = Reads(), snapshot()

    def fails(board: Board) -> Body:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await reads.body(newest, (b"", False), fails)
    assert reads.size == 0


async def test_what_is_kept_is_bounded_and_the_least_asked_for_goes_first():
    reads, newest = Reads(limit_bytes=5_000), snapshot()
    make = Counting(1_000)
    for name in (b"a", b"b", b"c"):
        await reads.body(newest, (name, False), make)
    reads.find(newest, (b"a", False))
    await reads.body(newest, (b"d", False), make)
    kept = [name for name in b"abcd" if reads.find(newest, (bytes([name]), False))]
    assert bytes(kept) == b"acd"
    assert reads.size <= 5_000
    await reads.body(newest, (b"large", False), Counting(6_000))
    assert reads.find(newest, (b"large", False)) is None


# The same through the routes


async def read(http, **params):
    response = await http.get(FORECAST, params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_repeated_read_is_the_same_but_for_its_age():
    clock = [NOW_S]
    async with client(FakeService(snapshot()), now=lambda: clock[0]) as http:
        first = await read(http)
        clock[0] += 1.25
        second = await read(http)
    assert (first.pop("age_seconds"), second.pop("age_seconds")) == (12.0, 13.25)
    assert first == second


async def test_a_repeated_read_sees_the_next_step_and_a_stall():
    clock = [NOW_S]
    service = FakeService(snapshot())
    async with client(service, now=lambda: clock[0]) as http:
        assert (await read(http, server="web-1"))["series"][0]["quantiles"]["0.1"] == [0.2] * 4
        moved = (block("champion", 0.5, 3), *service.newest.blocks[1:])
        service.newest = replace(service.newest, revision=SLOT + 1, blocks=moved)
        after = await read(http, server="web-1")
        assert (after["revision"], after["series"][0]["quantiles"]["0.1"]) == (
            SLOT + 1,
            [0.5] * 4,
        )
        assert after["series"][0]["status"] == "ok"
        clock[0] += 3 * STEP
        assert (await read(http, server="web-1"))["series"][0]["status"] == "stale"


async def test_another_query_is_another_answer():
    async with client(FakeService(snapshot())) as http:
        for _ in range(2):
            assert len((await read(http))["series"]) == 8
            assert len((await read(http, server="web-1"))["series"]) == 2
            short = await read(http, server="web-1", horizon="5m")
            assert len(short["series"][0]["timestamps"]) == 1


async def test_a_repeated_read_wants_the_same_permission_and_knows_the_same_tag():
    async with client(FakeService(snapshot())) as http:
        await read(http)
        again = await http.get(FORECAST)
        known = await http.get(FORECAST, headers={"If-None-Match": again.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
        foreign = await http.get(FORECAST, headers={"Host": "evil.example"})
        problem_of(foreign, 403, "forbidden")


async def test_what_cannot_be_asked_is_refused_each_time():
    async with client(FakeService(snapshot())) as http:
        for _ in range(2):
            response = await http.get(FORECAST, params={"horizon": "2h"})
            problem_of(response, 422, "unprocessable")


def test_the_document_still_says_what_an_answer_holds():
    guard = Guard(host="127.0.0.1", tokens_file=None, allow_anonymous_loopback=True)
    app = make_app(FakeService(None), guard, title="t", version="1")
    get = app.openapi()["paths"][FORECAST]["get"]["responses"]["200"]
    schema = get["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/ForecastAnswer"}


def test_the_age_goes_into_the_middle_of_the_answer():
    given = snapshot()
    body = answers.envelope(given, [], answers.wanted(given))
    assert b'"age_seconds":1.5,"step_seconds":300' in body.aged(1.5)
