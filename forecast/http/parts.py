"""Series of many servers, part by part: one part is sent while the next is written, and computed.

    compute part 1 ─► write 1 ─► send 1
            compute part 2 ─► write 2 ─► send 2
                    compute part 3 ─► ...

Every part is asked for at once: whoever computes them always has the next one at hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise

from forecast.http.answers import Ends, Series
from forecast.raw_windows import RawWindows
from forecast.record import ForecastBlock

MOST_SERVERS = 128
"""Of one part: few, as nothing hides the writing and the sending of the last one."""


@dataclass(frozen=True, slots=True)
class Made:
    """What was computed for some servers; without a block nothing had to be."""

    block: ForecastBlock | None = None
    raw: RawWindows | None = None
    """What it was computed from, where that is not the newest windows."""


Compute = Callable[[tuple[str, ...], int | None], Awaitable[Made]]
Write = Callable[[Made, Sequence[Series]], list[bytes]]
Instead = Callable[[Sequence[Series], Exception], list[bytes]]
Parts = AsyncGenerator[tuple[Sequence[int], list[bytes]]]
"""Of each part its series' places in the answer, and what is written there."""


async def in_parts(
    series: Sequence[Series],
    version: int | None,
    compute: Compute,
    write: Write,
    instead: Instead | None = None,
) -> Parts:
    """Every series as JSON, part by part; all of them by the version that made the first part.

    What fails in the first part is raised. A later one, whose forerunners may have been sent, is
    written by `instead`, without one it raises too.
    """
    names, numbers = _split(series)
    places: list[list[int]] = [[] for _ in range(0, len(names), MOST_SERVERS)]
    for place, number in enumerate(numbers):
        places[number].append(place)

    async def part(number: int, chosen: int | None) -> tuple[int | None, list[bytes]]:
        mine = names[number * MOST_SERVERS : (number + 1) * MOST_SERVERS]
        made = await compute(tuple(mine), chosen)
        asked = [series[place] for place in places[number]]
        pieces = await asyncio.to_thread(write, made, asked)
        return None if made.block is None else made.block.version, pieces

    tasks = [asyncio.ensure_future(part(number, version)) for number in range(len(places))]
    try:
        for number, task in enumerate(tasks):
            try:
                answered, pieces = await task
                if version is None:
                    version = answered
                elif answered not in (None, version):  # another was swapped in between two parts
                    _, pieces = await part(number, version)
            except Exception as error:
                if number == 0 or instead is None:
                    raise
                asked = [series[place] for place in places[number]]
                pieces = await asyncio.to_thread(instead, asked, error)
            yield places[number], pieces
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Written:
    """The series of an answer: the first part, which is made, and those on their way."""

    count: int
    """Series in all."""
    first: tuple[Sequence[int], list[bytes]]
    rest: Parts

    @property
    def whole(self) -> bool:
        """Whether the first part is all there is."""
        return len(self.first[1]) == self.count

    async def all(self) -> list[bytes]:
        """Every series, in the order in which they were asked for."""
        pieces = [b""] * self.count
        _place(pieces, *self.first)
        async with aclosing(self.rest) as rest:
            async for places, written in rest:
                _place(pieces, places, written)
        return pieces

    async def stream(self) -> AsyncIterator[list[bytes]]:
        """Part by part; only where the series of a server were asked for one after the other."""
        yield self.first[1]
        async with aclosing(self.rest) as rest:
            async for _, written in rest:
                yield written


async def begin(series: Sequence[Series], parts: Parts) -> Written:
    """Wait for the first part; raises what it raises."""
    first = await anext(parts, ((), list[bytes]()))
    return Written(len(series), first, parts)


def in_order(series: Sequence[Series]) -> bool:
    """Whether the parts, one after the other, are the series in the order of `series`."""
    _, numbers = _split(series)
    return all(before <= after for before, after in pairwise(numbers))


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer of several parts on its way; `warnings` are those known when it ends."""

    ends: Ends
    written: Written
    warnings: Sequence[str]

    async def aged(self, age_s: float) -> AsyncIterator[bytes]:
        """The whole answer at an age, part by part."""
        before = self.ends.opening(age_s)
        async for pieces in self.written.stream():
            yield before + b",".join(pieces)
            before = b","
        yield self.ends.closing(self.warnings)


def _split(series: Sequence[Series]) -> tuple[list[str], list[int]]:
    """The servers, each once, and of each series the part that its server is in."""
    names = list(dict.fromkeys(server for server, _ in series))
    part_of = {name: at // MOST_SERVERS for at, name in enumerate(names)}
    return names, [part_of[server] for server, _ in series]


def _place(pieces: list[bytes], places: Sequence[int], written: Sequence[bytes]) -> None:
    for place, piece in zip(places, written, strict=True):
        pieces[place] = piece
