"""Notices reach a real HTTP server: once where it takes them, a bounded number of times else."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256

import pytest

from connect.webhook import Notice, Outbox, Webhook
from forecast.errors import StateError


def notice(slot=7, kind="breaker_open", text="learning stops"):
    return Notice(kind, slot, text, "web", "servers")


DIGEST = sha256(b"learning stops").hexdigest()[:12]


class Receiver:
    """An HTTP server that answers with the statuses given, then with 200; keeps what came."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.came: list[tuple[str, dict[str, object]]] = []

    @asynccontextmanager
    async def listening(self):
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"

    async def _answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = [line.partition(": ") for line in head.split("\r\n")[1:]]
        headers = {name.lower(): value for name, _, value in lines}
        body = await reader.readexactly(int(headers["content-length"]))
        self.came.append((headers["idempotency-key"], json.loads(body)))
        status = self.statuses.pop(0) if self.statuses else 200
        writer.write(
            f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()


class Pauses:
    """Waits for nobody; remembers how long it was asked to."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)


async def deliver(outbox, url, *, tries=3, pauses=None):
    await Webhook(url, timeout_s=5.0, tries=tries, pause=pauses or Pauses()).deliver(outbox)


async def test_a_notice_is_posted_as_json_with_its_key_and_then_gone(tmp_path):
    outbox, receiver = Outbox(tmp_path / "notices.json"), Receiver()
    outbox.put([notice(), notice(8, "rollback", "version 3 serves again")])
    async with receiver.listening() as url:
        await deliver(outbox, url)
    assert [key for key, _ in receiver.came] == [
        f"web:servers:7:breaker_open:{DIGEST}",
        notice(8, "rollback", "version 3 serves again").key,
    ]
    assert receiver.came[0][1] == {
        "kind": "breaker_open",
        "slot": 7,
        "text": "learning stops",
        "fleet": "web",
        "panel": "servers",
    }
    assert (outbox.waiting, outbox.sent, outbox.given_up) == ((), 2, 0)
    assert Outbox(tmp_path / "notices.json").waiting == ()


async def test_one_that_is_not_taken_at_first_comes_again_later_and_later():
    outbox, receiver, pauses = Outbox(), Receiver(503, 500), Pauses()
    outbox.put([notice()])
    async with receiver.listening() as url:
        await deliver(outbox, url, tries=4, pauses=pauses)
    assert [key for key, _ in receiver.came] == [notice().key] * 3
    assert pauses.asked == [2.0, 4.0]
    assert (outbox.sent, outbox.given_up) == (1, 0)


async def test_one_that_nobody_takes_is_given_up_and_counted_and_the_next_one_is_sent(caplog):
    outbox, receiver = Outbox(), Receiver(500, 500)
    outbox.put([notice(), notice(8, "resumed", "learning goes on")])
    async with receiver.listening() as url:
        await deliver(outbox, url, tries=2)
    assert [key for key, _ in receiver.came] == [notice().key] * 2 + [
        notice(8, "resumed", "learning goes on").key
    ]
    assert (outbox.waiting, outbox.sent, outbox.given_up) == ((), 1, 1)
    assert "nobody was told: learning stops (status 500)" in caplog.text


async def test_two_fleets_panels_or_texts_make_two_notices(tmp_path):
    mine, receiver = notice(), Receiver()
    others = [
        replace(mine, fleet="db"),
        replace(mine, panel="nodes"),
        replace(mine, text="another"),
    ]
    outbox = Outbox(tmp_path / "notices.json")
    outbox.put([mine, *others, mine])
    async with receiver.listening() as url:
        await deliver(outbox, url)
    assert [body["text"] for _, body in receiver.came] == [
        mine.text,
        mine.text,
        mine.text,
        "another",
    ]
    assert len({key for key, _ in receiver.came}) == 4


async def test_where_nobody_listens_it_is_given_up_and_the_address_stays_secret(caplog):
    outbox = Outbox()
    outbox.put([notice()])
    await deliver(outbox, "http://127.0.0.1:9/a-secret-path")
    assert (outbox.waiting, outbox.given_up) == ((), 1)
    assert "a-secret-path" not in caplog.text


async def test_a_step_done_again_tells_nobody_twice(tmp_path):
    path, receiver = tmp_path / "notices.json", Receiver()
    outbox = Outbox(path)
    outbox.put([notice()])
    outbox.put([notice()])
    assert len(outbox.waiting) == 1
    async with receiver.listening() as url:
        await deliver(outbox, url)
        again = Outbox(path)
        again.put([notice()])
        await deliver(again, url)
    assert len(receiver.came) == 1


async def test_what_was_not_sent_waits_on_disk_for_the_next_start(tmp_path):
    Outbox(tmp_path / "notices.json").put([notice()])
    again = Outbox(tmp_path / "notices.json")
    assert again.waiting == (notice(),)
    assert again.changed.is_set()


async def test_the_outbox_is_bounded(caplog):
    outbox = Outbox()
    outbox.put([notice(slot) for slot in range(150)])
    assert (len(outbox.waiting), outbox.given_up) == (100, 50)
    assert outbox.waiting[0].slot == 50


async def test_sending_goes_on_beside_whoever_puts_something_in():
    outbox, receiver = Outbox(), Receiver()
    async with receiver.listening() as url:
        running = asyncio.create_task(
            Webhook(url, timeout_s=5.0, tries=1, pause=Pauses()).run(outbox)
        )
        for slot in (1, 2):
            outbox.put([notice(slot)])
            async with asyncio.timeout(30):
                while outbox.waiting:
                    await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [body["slot"] for _, body in receiver.came] == [1, 2]


def test_a_file_of_another_format_or_damaged_is_refused_by_name(tmp_path):
    path = tmp_path / "notices.json"
    for text in ("{", '{"format": 9, "waiting": [], "taken": []}', '{"format": 1}'):
        path.write_text(text)
        with pytest.raises(StateError, match=r"notices\.json"):
            Outbox(path)
