"""Pausing and resuming learning over HTTP."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from forecast.pauses import Pause
from tests.forecast.http.http_scene import (
    SLOT,
    WRITE,
    FakeService,
    client,
    problem_of,
    snapshot,
)

PAUSE, RESUME = "/api/v1/learning/pause", "/api/v1/learning/resume"


class SteeredService(FakeService):
    """Remembers what it was asked for, and is paused by it."""

    def __init__(self) -> None:
        super().__init__(snapshot())
        self.paused = None

    async def pause(self, reason, who, request_id):
        self.asked.append(request_id)
        self.paused = Pause(who, reason, SLOT, learning=True)
        return replace(await self.models(), paused=self.paused)

    async def resume(self, reason, who, request_id):
        self.asked.append(request_id)
        return await self.models()


async def send(service, path, body, headers=WRITE):
    async with client(service) as http:
        return await http.post(path, content=json.dumps(body), headers=headers)


async def test_learning_is_paused_and_resumed_with_a_reason():
    service = SteeredService()
    answer = await send(service, PAUSE, {"reason": "audit"}, {**WRITE, "Idempotency-Key": "k"})
    told = {"who": "anonymous", "reason": "audit", "slot": SLOT, "learning": True}
    assert answer.json() == {"paused": told, "revision": 4}
    answer = await send(service, RESUME, {"reason": "seen"})
    assert answer.json() == {"paused": None, "revision": 4}
    assert service.asked[0] == "anonymous/k"


async def test_where_learning_stands_is_told_with_what_it_brought():
    async with client(SteeredService()) as http:
        told = (await http.get("/api/v1/learning")).json()
        accuracy = (await http.get("/api/v1/accuracy")).json()
    assert told["paused"] is None
    assert told["breaker"] == {
        "enabled": True,
        "state": "open",
        "failures": 0,
        "opened_at": "2025-12-31T23:05:00Z",
        "probe_at": "2026-01-01T05:05:00Z",
    }
    gain = told["gain"]
    assert (gain["since"], gain["until"]) == ("2025-12-31T00:05:00Z", "2026-01-01T00:05:00Z")
    assert [(one["role"], one["ratio"]) for one in gain["gains"]] == [("all", 0.03), ("web", -0.01)]
    assert (gain["version"], gain["restores_after_seconds"]) == (2, 72 * 3600)
    assert accuracy["learning_gain"] == gain


async def test_while_the_controller_is_silent_the_rest_is_told():
    class Silent(SteeredService):
        async def learning(self):
            return None

    async with client(Silent()) as http:
        told = (await http.get("/api/v1/learning")).json()
        accuracy = await http.get("/api/v1/accuracy")
    assert told == {"paused": None, "breaker": None, "gain": None}
    assert (accuracy.status_code, accuracy.json()["learning_gain"]) == (200, None)


@pytest.mark.parametrize("path", [PAUSE, RESUME])
async def test_without_a_reason_or_with_a_word_nobody_knows_nothing_changes(path):
    for body in ({}, {"reason": ""}, {"reason": "why", "until": "tomorrow"}, ["why"]):
        problem_of(await send(SteeredService(), path, body), 422, "unprocessable")
    async with client(SteeredService()) as http:
        broken = await http.post(path, content=b"{", headers=WRITE)
    problem_of(broken, 400, "bad-request")
