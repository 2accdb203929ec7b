"""Rollouts over HTTP: what stands, changes with what was seen and why, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from forecast.audit import AuditRecord
from forecast.errors import Conflict, UnknownVersion
from forecast.rolling_out import tag_of
from forecast.rollout import Cohort, Flight, Rollouts, Share, Table
from tests.forecast.http.http_scene import (
    NOW_S,
    SLOT,
    STATES,
    WRITE,
    FakeService,
    client,
    problem_of,
    snapshot,
)

ROLLOUT = "/api/v1/rollout"
FLIGHT = Flight(4, "canary", SLOT - 9, SLOT - 3, canary_share=0.5)
CANARY = Table.canary(3, 4, 0.5)
TOLD = {
    "enabled": True, "slot": SLOT, "version": 4, "verdict": "hold",
    "reasons": ["3 of 6 slots of the canary stage are over"],
    "comparison": {"slots": 3, "change": float("nan")},
}  # fmt: skip


def record(kind, slot, **detail):
    return AuditRecord(7, kind, slot, "gate", NOW_S, None, detail, None, "", "")


class RollingService(FakeService):
    """Version 4 is in its canary; changes are written down."""

    def __init__(self, told=TOLD) -> None:
        super().__init__(snapshot())
        self.told, self.changes = told, []
        self.held = Rollouts(CANARY, FLIGHT, replace(FLIGHT, version=5), (2,), changed=6)

    async def models(self):
        return replace(await super().models(), rollout=self.held)

    async def rollout(self, limit):
        history = [
            record("rollout", SLOT - 3, action="advance", version=4, reasons=["no worse"]),
            record("rollback", SLOT - 20, version=3, reason="bad night"),
        ]
        return await self.models(), self.told, history[:limit]

    async def steer(self, action, **asked):
        self.changes.append((action, asked))
        if asked.get("version") == 9:
            raise Conflict("version 9 was refused: worse", report={"relative_change": 0.02})
        if asked.get("version") == 8:
            raise UnknownVersion("no version 8")
        return await self.models()

    async def rollback(self, to, reason, who, request_id, *, expected, dry_run):
        self.changes.append(("rollback", (to, expected, dry_run)))
        return await self.models()


async def send(service, method, path, body, headers=WRITE, match="*"):
    headers = headers if match is None else {**headers, "If-Match": match}
    async with client(service) as http:
        return await http.request(
            method, f"{ROLLOUT}{path}", content=json.dumps(body), headers=headers
        )


async def look(service, **query):
    async with client(service) as http:
        return await http.get(ROLLOUT, params=query)


async def test_what_stands_is_told_with_its_tag_its_comparison_and_its_history():
    service = RollingService()
    answer = await look(service)
    told = answer.json()
    assert (told["champion"], told["waiting"], told["shadows"], told["enabled"]) == (
        3,
        5,
        [2],
        True,
    )
    assert answer.headers["ETag"] == told["tag"] == tag_of(await service.models()) == '"3-6"'
    canary, everyone = told["cohorts"]
    assert (canary["name"], canary["versions"], canary["servers"]) == ("canary", {"4": 1.0}, 0.5)
    assert (everyone["name"], everyone["versions"]) == ("everyone", {"3": 1.0})
    assert canary["count"] + everyone["count"] == len(STATES)
    assert told["flight"]["stage"] == "canary"
    assert told["flight"]["since"] == "2025-12-31T23:45:00Z"
    assert (told["verdict"], told["comparison"]) == ("hold", {"slots": 3, "change": None})
    assert [one["what"] for one in told["history"]] == ["advance", "rollback"]
    assert told["history"][1]["reasons"] == ["bad night"]
    assert len((await look(service, limit=1)).json()["history"]) == 1


async def test_without_the_controller_who_answers_for_whom_is_told_all_the_same():
    told = (await look(RollingService(told=None))).json()
    assert (told["champion"], told["enabled"], told["comparison"]) == (3, None, None)


async def test_a_comparison_of_what_is_not_in_flight_any_more_is_not_told():
    told = (await look(RollingService(told={**TOLD, "version": 2}))).json()
    assert (told["comparison"], told["verdict"], told["reasons"]) == (None, None, [])


async def test_an_own_table_is_put_with_what_was_seen_and_why():
    service = RollingService()
    body = {
        "everyone": {"3": 1},
        "cohorts": [{"name": "b", "servers": 0.5, "versions": {"3": 0.25, "4": 0.75}}],
        "reason": "A/B",
        "dry_run": True,
    }
    headers = {**WRITE, "Idempotency-Key": "k"}
    answer = await send(service, "PUT", "", body, headers, match='"3-6"')
    assert answer.status_code == 200, answer.text
    assert (answer.json()["dry_run"], "ETag" in answer.headers) == (True, False)
    [(action, asked)] = service.changes
    shares = (Share(3, 0.25), Share(4, 0.75))
    assert (action, asked["table"]) == ("put", Table((Share(3, 1.0),), (Cohort("b", 0.5, shares),)))
    assert (asked["expected"], asked["request_id"], asked["dry_run"]) == (
        '"3-6"',
        "anonymous/k",
        True,
    )


@pytest.mark.parametrize("action", ["promote", "retire", "pin", "shadow"])
async def test_a_version_is_changed_with_what_was_seen_and_why(action):
    service = RollingService()
    answer = await send(service, "POST", f"/{action}", {"version": 4, "reason": "why not"})
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"3-6"')
    assert (service.changes[0][0], service.changes[0][1]["version"]) == (action, 4)
    missing = await send(service, "POST", f"/{action}", {"version": 4, "reason": "x"}, match=None)
    assert "If-Match" in problem_of(missing, 428, "precondition-required")
    problem_of(await send(service, "POST", f"/{action}", {"version": 4}), 422, "unprocessable")
    gone = await send(service, "POST", f"/{action}", {"version": 8, "reason": "x"})
    problem_of(gone, 404, "unknown-version")


async def test_what_the_gate_refused_is_a_conflict_with_its_report():
    body = {"version": 9, "reason": "why not"}
    refused = await send(RollingService(), "POST", "/promote", body)
    assert problem_of(refused, 409, "conflict") == "version 9 was refused: worse"
    assert refused.json()["report"] == {"relative_change": 0.02}


async def test_a_rollback_needs_no_tag_and_honours_one():
    service = RollingService()
    for match in (None, '"3-6"'):
        body = {"reason": "bad", "dry_run": match is not None}
        assert (await send(service, "POST", "/rollback", body, match=match)).status_code == 200
    both = await send(service, "POST", "/rollback", {"reason": "x", "to": 2, "to_time": "3d"})
    problem_of(both, 422, "unprocessable")
    assert service.changes == [
        ("rollback", (None, None, False)),
        ("rollback", (None, '"3-6"', True)),
    ]


async def test_a_dry_run_tells_the_tag_of_what_stands():
    class Moving(RollingService):
        async def rollback(self, *given, **asked):
            return replace(
                await self.models(), aliases={"champion": 2}, rollout=Rollouts(changed=9)
            )

    told = (await send(Moving(), "POST", "/rollback", {"reason": "bad", "dry_run": True})).json()
    assert (told["champion"], told["tag"], told["dry_run"]) == (2, '"3-6"', True)
    told = (await send(Moving(), "POST", "/rollback", {"reason": "bad"})).json()
    assert (told["champion"], told["tag"]) == (2, '"2-9"')


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"everyone": {"3": 0.5}}, "sum to 1"),
        ({"everyone": {"three": 1}}, "versions are numbers"),
        (
            {"everyone": {"3": 1}, "cohorts": [{"name": "B!", "servers": 1, "versions": {"3": 1}}]},
            "B!",
        ),
        ({"everyone": {}}, "everyone"),
        ({"everyone": {"3": 1}, "cohort": []}, "cohort"),
    ],
)
async def test_a_table_that_makes_no_sense_is_refused(body, said):
    service = RollingService()
    refused = await send(service, "PUT", "", {**body, "reason": "x"})
    assert said in problem_of(refused, 422, "unprocessable")
    assert service.changes == []


async def test_resuming_is_where_rollouts_are_steered_too():
    service = RollingService()
    resumed = []

    async def resume(reason, who, request_id):
        resumed.append((reason, who))
        return await service.models()

    service.resume = resume
    assert (await send(service, "POST", "/resume", {"reason": "seen"})).json()["paused"] is None
    assert resumed == [("seen", "anonymous")]
