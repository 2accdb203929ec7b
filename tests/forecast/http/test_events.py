"""Events over HTTP: told, listed page by page, taken back; who may; what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from forecast.errors import Conflict, UnknownVersion
from forecast.http.auth import Guard
from forecast.touched import Touched
from tests.forecast.http.http_scene import SLOT, WRITE, FakeService, client, problem_of, snapshot

EVENTS, ROLLBACK = "/api/v1/events", "/api/v1/rollout/rollback"
OUTAGE = {"id": "e1", "kind": "incident", "servers": ["web-1"], "start": "2026-01-01T08:00:00Z"}


class EventService(FakeService):
    """Keeps events in its buffer's book; what comes late was learned from by version 3."""

    def __init__(self) -> None:
        super().__init__(snapshot())
        self.told_by, self.rolled_back = [], []

    async def events(self):
        return self.buffer.events.events.now()

    async def tell_events(self, events, who):
        self.told_by.append(who)
        late = {event.id: Touched((3,), 2) for event in events if event.id == "late"}
        return [(one, late.get(one.told.event.id)) for one in self.buffer.events.tell(events)]

    async def withdraw_event(self, event_id):
        return self.buffer.events.withdraw(event_id)

    async def champion_at(self, slot):
        if slot < SLOT - 288:
            raise UnknownVersion("version 1 was champion then, and its files are gone")
        return 2

    async def rollback(self, to, reason, who, request_id, *, expected, dry_run):
        if to == 9:
            raise Conflict("version 9 is rejected and never was champion")
        self.rolled_back.append((to, reason, who, request_id))
        return replace(await self.models(), aliases={"champion": 2})


async def send(service, method, path, body=None, headers=WRITE, guard=None):
    content = None if body is None else json.dumps(body)
    async with client(service, guard) as http:
        return await http.request(method, path, content=content, headers=headers)


async def test_an_event_is_told_listed_ended_and_taken_back():
    service = EventService()
    told = (await send(service, "POST", EVENTS, {"events": [OUTAGE]})).json()
    assert (told["accepted"], told["rejected_count"], service.told_by) == (1, 0, ["anonymous"])
    [event] = told["events"]
    assert event["unknown_servers"] == ["web-1"]  # the buffer has heard of nobody yet
    assert (event["changed"], event["late"], event["way_back"]) == (True, False, None)

    ended = {**OUTAGE, "end": "2026-01-01T09:30:00+00:00"}
    assert (await send(service, "POST", EVENTS, [ended])).json()["events"][0]["changed"]
    assert not (await send(service, "POST", EVENTS, [ended])).json()["events"][0]["changed"]
    [listed] = (await send(service, "GET", EVENTS)).json()["events"]
    assert (listed["start"], listed["end"]) == ("2026-01-01T08:00:00Z", "2026-01-01T09:30:00Z")

    gone = await send(service, "DELETE", f"{EVENTS}/e1")
    assert (gone.status_code, gone.json()["id"]) == (200, "e1")
    assert (await send(service, "GET", EVENTS)).json() == {"events": [], "next_after": None}
    unknown = await send(service, "DELETE", f"{EVENTS}/no/such")
    assert "'no/such'" in problem_of(unknown, 404, "unknown-event")


async def test_what_is_wrong_with_one_event_is_told_and_the_rest_is_kept():
    service = EventService()
    body = {"events": [{**OUTAGE, "kind": "party"}, OUTAGE, 7]}
    told = (await send(service, "POST", EVENTS, body)).json()
    assert [event["id"] for event in told["events"]] == ["e1"]
    assert [one["index"] for one in told["rejected"]] == [0, 2]
    assert "kind must be one of" in told["rejected"][0]["detail"]


async def test_an_incident_that_comes_late_offers_the_way_back():
    service = EventService()
    [event] = (await send(service, "POST", EVENTS, [{**OUTAGE, "id": "late"}])).json()["events"]
    back = event["way_back"]
    assert (event["touched_versions"], back["version"], back["path"]) == ([3], 2, ROLLBACK)
    answer = await send(
        service, back["method"], back["path"], back["body"], {**WRITE, "Idempotency-Key": "k"}
    )
    assert answer.json()["champion"] == 2
    reason = "incident late was reported late"
    assert service.rolled_back == [(2, reason, "anonymous", "anonymous/k")]


async def test_events_come_in_pages_by_their_start():
    service = EventService()
    starts = ["2026-01-03", "2026-01-01", "2026-01-02"]
    kinds = ["deploy", "incident", "maintenance"]
    servers = [["web-1"], ["web-2"], []]
    await send(service, "POST", EVENTS, [
        {"kind": kind, "start": start, "servers": names}
        for kind, start, names in zip(kinds, starts, servers, strict=True)
    ])  # fmt: skip
    seen, after = [], ""
    while True:
        page = (await send(service, "GET", f"{EVENTS}?limit=1{after}")).json()
        seen += [event["kind"] for event in page["events"]]
        if page["next_after"] is None:
            break
        after = f"&after={page['next_after']}"
    assert seen == ["incident", "maintenance", "deploy"]

    async def kinds_of(query):
        events = (await send(service, "GET", f"{EVENTS}?{query}")).json()["events"]
        return [event["kind"] for event in events]

    assert await kinds_of("server=web-1") == ["maintenance", "deploy"]
    assert await kinds_of("kind=incident") == ["incident"]


async def test_what_is_kept_can_always_be_listed_page_by_page():
    service = EventService()
    longest = {**OUTAGE, "id": "x" * 512, "start": 0}
    half = {**OUTAGE, "id": "e2", "note": "\ud800"}  # half of a pair: JSON may hold it, UTF-8 not
    told = (await send(service, "POST", EVENTS, [half, longest, OUTAGE])).json()
    assert [(one["index"], one["reason"]) for one in told["rejected"]] == [(0, "malformed")]
    first = (await send(service, "GET", f"{EVENTS}?limit=1")).json()
    then = (await send(service, "GET", f"{EVENTS}?after={first['next_after']}")).json()
    assert [one["id"] for one in first["events"] + then["events"]] == [longest["id"], "e1"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("POST", EVENTS, {"event": []}, 400, "bad-request"),
        ("POST", EVENTS, [OUTAGE] * 1001, 413, "too-large"),
        ("GET", f"{EVENTS}?kind=party", None, 422, "invalid-request"),
        ("GET", f"{EVENTS}?after=yesterday", None, 422, "unprocessable"),
        ("POST", ROLLBACK, {"to": 2}, 422, "unprocessable"),
        ("POST", ROLLBACK, {"to": 9, "reason": "why not"}, 409, "conflict"),
    ],
)
async def test_a_request_that_makes_no_sense_is_a_problem(method, path, body, status, kind):
    problem_of(await send(EventService(), method, path, body), status, kind)


async def test_going_back_to_a_time_goes_to_who_was_champion_then():
    service = EventService()
    for when in ("12h", "2025-12-31T12:00:00Z"):
        body = {"to_time": when, "reason": "bad since noon"}
        assert (await send(service, "POST", ROLLBACK, body)).json()["champion"] == 2
    assert [to for to, *_ in service.rolled_back] == [2, 2]
    gone = await send(service, "POST", ROLLBACK, {"to_time": "3d", "reason": "bad for days"})
    assert "its files are gone" in problem_of(gone, 404, "unknown-version")
    for wrong in ({"to_time": "soon"}, {"to_time": "12h", "to": 2}):
        answer = await send(service, "POST", ROLLBACK, {**wrong, "reason": "why not"})
        assert "to_time" in problem_of(answer, 422, "unprocessable")


async def test_who_feeds_the_stream_may_tell_events_and_who_operates_may_go_back(tmp_path):
    path = tmp_path / "tokens.toml"
    scopes = ("read", "ingest", "operate")
    path.write_text(
        "".join(
            f'[[tokens]]\nname = "{one}"\nscopes = ["{one}"]\n'
            f'sha256 = "{hashlib.sha256(one.encode()).hexdigest()}"\n'
            for one in scopes
        )
    )
    guard = Guard(host="0.0.0.0", tokens_file=path, allow_anonymous_loopback=False)
    calls = {
        ("GET", EVENTS): None,
        ("POST", EVENTS): [OUTAGE],
        ("DELETE", f"{EVENTS}/e1"): None,
        ("POST", ROLLBACK): {"reason": "test"},
    }
    service, passed = EventService(), {}
    for scope in scopes:
        headers = {"Authorization": f"Bearer {scope}", "Content-Type": "application/json"}
        for (method, where), body in calls.items():
            answer = await send(service, method, where, body, headers, guard)
            if answer.status_code == 200:
                passed.setdefault(scope, []).append((method, where.rpartition("/")[2]))
            else:
                problem_of(answer, 403, "forbidden")
    assert passed == {
        "read": [("GET", "events")],
        "ingest": [("POST", "events"), ("DELETE", "e1")],
        "operate": [("POST", "rollback")],
    }
    assert service.told_by == ["ingest"]
