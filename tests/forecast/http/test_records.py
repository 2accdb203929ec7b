"""The record over HTTP: paged, verified, decided again, and a backup asked for."""

from __future__ import annotations

import base64
import json

import pytest

from forecast.audit import AuditLog
from forecast.canonical import sha256
from forecast.errors import Conflict, UnknownUpdate
from tests.forecast.crash_disk import QuickDisk
from tests.forecast.http.http_scene import (
    NOW_S,
    SLOT,
    STEP,
    WRITE,
    FakeService,
    client,
    get,
    problem_of,
    snapshot,
)

AUDIT, BACKUPS = "/api/v1/audit", "/api/v1/backups"
EVIDENCE = b"a few sums"


class RecordedService(FakeService):
    """Has a real audit log of seven records, every third a verdict."""

    def __init__(self, folder) -> None:
        super().__init__(snapshot())
        self.log = AuditLog(folder, segment_bytes=500, disk=QuickDisk())
        for number in range(1, 8):
            kind = "reject" if number % 3 == 0 else "pause"
            detail = {"update_id": f"update-{number}", "n": number}
            self.log.append(
                kind=kind, slot=SLOT - 7 + number, who="ann", time_s=NOW_S, detail=detail
            )
        self.names: list[str] = []

    async def audit(self, *, limit, before, since, kinds):
        found = self.log.records(
            before=before, since_slot=since, kinds=kinds or None, newest_first=True
        )
        return list(found)[:limit]

    async def verify_audit(self, head):
        if head == "0" * 63 + "1":
            raise Conflict("audit.jsonl: the record is missing; 7 are there")
        return self.log.verify(head)

    async def decision(self, update_id):
        if update_id != "update-3":
            raise UnknownUpdate(f"no verdict on {update_id!r} is on record")
        return self.log.record(3), EVIDENCE

    async def backup(self, name):
        if name in self.names:
            raise Conflict(f"{name}: is there already, and not empty")
        self.names.append(name)
        counts = {"slot": SLOT, "files": 3, "bytes": 99, "audit_records": 7}
        told = {"folder": f"/backups/{name}", "fleet": "demo", "panel": "servers"}
        return {**told, **counts, "audit_head": self.log.head}


@pytest.fixture
def service(tmp_path) -> RecordedService:
    return RecordedService(tmp_path)


def numbers(response) -> list[int]:
    return [record["sequence"] for record in response.json()["records"]]


async def test_the_record_is_read_page_by_page_newest_first(service):
    first = await get(service, AUDIT, limit=3)
    assert (numbers(first), first.json()["next_before"]) == ([7, 6, 5], 5)
    last = await get(service, AUDIT, limit=4, before=5)
    assert (numbers(last), last.json()["next_before"]) == ([4, 3, 2, 1], None)
    told = last.json()["records"][1]
    assert (told["kind"], told["who"], told["detail"]["n"]) == ("reject", "ann", 3)
    assert told["hash"] == service.log.record(3).hash
    assert told["slot_begin"] == "2025-12-31T23:40:00Z"


async def test_records_are_chosen_by_kind_and_time(service):
    assert numbers(await get(service, AUDIT, kind=["reject"])) == [6, 3]
    assert numbers(await get(service, AUDIT, kind=["reject", "pause"], since="15m")) == [7, 6, 5]
    assert numbers(await get(service, AUDIT, kind=["nothing"])) == []
    assert STEP == 300


@pytest.mark.parametrize("params", [{"limit": 0}, {"before": 0}, {"kinds": "x"}, {"kind": ""}])
async def test_a_query_that_makes_no_sense_is_a_problem(service, params):
    problem_of(await get(service, AUDIT, **params), 422, "invalid-request")


async def test_the_log_is_verified_up_to_a_hash_that_was_kept_elsewhere(service):
    head = service.log.record(4).hash
    found = await get(service, f"{AUDIT}/verify", head=head)
    assert found.json() == {"records": 7, "head": service.log.head}
    gone = await get(service, f"{AUDIT}/verify", head="0" * 63 + "1")
    assert "is missing" in problem_of(gone, 409, "conflict")
    problem_of(await get(service, f"{AUDIT}/verify", head="short"), 422, "invalid-request")


async def test_a_verdict_comes_with_what_it_was_decided_from(service):
    found = (await get(service, f"{AUDIT}/decisions/update-3")).json()
    assert found["record"]["detail"]["update_id"] == "update-3"
    assert sha256(base64.b64decode(found["evidence"])) == sha256(EVIDENCE)
    unknown = await get(service, f"{AUDIT}/decisions/update-4")
    assert "update-4" in problem_of(unknown, 404, "unknown-update")


async def send(service, body):
    async with client(service) as http:
        return await http.post(BACKUPS, content=json.dumps(body), headers=WRITE)


async def test_a_backup_is_asked_for_by_a_name_and_nothing_else(service):
    made = await send(service, {"name": "nightly-2026.01"})
    assert made.json()["folder"] == "/backups/nightly-2026.01"
    assert made.json()["audit_head"] == service.log.head
    problem_of(await send(service, {"name": "nightly-2026.01"}), 409, "conflict")
    for name in ("", "/etc/x", "../x", "a/b", ".tmp-x", "..", "a" * 101):
        problem_of(await send(service, {"name": name}), 422, "unprocessable")
    assert service.names == ["nightly-2026.01"]
