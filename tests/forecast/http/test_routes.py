"""The API as a client sees it: real routes over a fleet without Ray."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from dataclasses import replace

import pytest

from forecast.errors import Busy, UnknownVersion
from forecast.http import api
from forecast.http.auth import Guard
from tests.forecast.http.http_scene import (
    FORECAST,
    INGEST,
    NDJSON,
    NOW_S,
    ROW,
    SLOT,
    STEP,
    WRITE,
    FakeService,
    ask,
    client,
    get,
    only,
    post,
    problem_of,
    snapshot,
)

READS = (
    "accuracy", "learning/updates", "models", "models/champion", "servers", "status", "forecast",
    "drift",
)  # fmt: skip


# GET /forecast


async def test_the_forecast_of_record_of_one_series_is_one_look_up():
    response = await get(FakeService(snapshot()), FORECAST, server="web-1", metric="cpu")
    series = only(response)
    assert series["quantiles"]["0.5"] == [0.3] * 4
    assert series["members"] == [{"member": "champion", "version": 3, "weight": 1.0}]
    api.ForecastAnswer.model_validate(response.json())


async def test_without_a_server_the_whole_fleet_is_answered():
    response = await get(FakeService(snapshot()), FORECAST)
    assert len(response.json()["series"]) == 8
    response = await get(FakeService(snapshot()), FORECAST, server=["web-1", "x"], metric="cpu")
    assert [one["status"] for one in response.json()["series"]] == ["ok", "unknown"]


@pytest.mark.parametrize(
    "params",
    [
        {"horizon": "1 hour"},
        {"horizon": "0s"},
        {"horizon": "999999999999999999999d"},
        {"horizon": "-5m"},
        {"horizon": "2h"},
        {"server": ""},
        {"server": "x" * 600},
        {"servr": "web-1"},
        {"metric": ["a"] * 101},
    ],
)
async def test_a_query_that_makes_no_sense_is_a_problem(params):
    response = await get(FakeService(snapshot()), FORECAST, **params)
    kind = "unprocessable" if params == {"horizon": "2h"} else "invalid-request"
    detail = problem_of(response, 422, kind)
    assert next(iter(params)) in detail


async def test_an_answer_that_is_known_already_is_not_sent_again():
    service = FakeService(snapshot())
    first = await get(service, FORECAST)
    tag = first.headers["etag"]
    assert tag == f'W/"{SLOT}-3"'
    for known in (tag, f'"a", {tag}', tag.removeprefix("W/"), "*"):
        again = await get(service, FORECAST, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await get(service, FORECAST, headers={"If-None-Match": '"other"'})).status_code == 200


@pytest.mark.parametrize(
    "change", [{"revision": SLOT + 1}, {"version": 4}, {"published_at": NOW_S - 3 * STEP - 1}]
)
async def test_a_new_step_another_version_or_a_stall_makes_a_new_answer(change):
    service = FakeService(snapshot())
    tag = (await get(service, FORECAST)).headers["etag"]
    service.newest = replace(service.newest, **change)
    assert (await get(service, FORECAST, headers={"If-None-Match": tag})).status_code == 200


async def test_before_the_first_slot_there_is_nothing_to_answer_and_when_to_ask_again():
    for response in (await get(FakeService(None), FORECAST), await ask(FakeService(None))):
        assert "first slot" in problem_of(response, 503, "not-ready")
        assert response.headers["retry-after"] == "5"


# POST /ingest


async def test_rows_are_acknowledged_after_they_are_kept():
    service = FakeService(snapshot())
    response = await post(service, INGEST, json.dumps({"rows": [ROW]}).encode())
    assert response.status_code == 202
    answer = api.IngestAnswer.model_validate(response.json())
    assert (answer.accepted, answer.rejected, answer.clock) == (1, [], "2026-01-01T00:00:00Z")
    assert service.buffer.status().rows == 1


async def test_bad_rows_are_named_and_the_rest_is_kept():
    lines = [json.dumps(ROW), "nonsense", json.dumps({**ROW, "metrics": {"cpu": 7}})]
    response = await post(FakeService(None), INGEST, "\n".join(lines).encode(), NDJSON)
    answer = response.json()
    assert (response.status_code, answer["accepted"], answer["rejected_count"]) == (202, 1, 2)
    assert [(one["index"], one["metric"], one["reason"]) for one in answer["rejected"]] == [
        (1, None, "malformed"),
        (2, "cpu", "out_of_bounds"),
    ]


async def test_the_same_idempotency_key_keeps_rows_once():
    service = FakeService(None)
    headers = {**WRITE, "Idempotency-Key": "batch-7"}
    body = json.dumps([ROW]).encode()
    first, again = [await post(service, INGEST, body, headers) for _ in range(2)]
    assert first.json() == again.json()
    assert again.json()["repeated"] == 0
    third = await post(service, INGEST, body)
    assert third.json()["repeated"] == 1
    assert len(set(service.asked)) == 2


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb"])
async def test_an_idempotency_key_of_no_use_is_refused(key):
    headers = {**WRITE, "Idempotency-Key": key}
    problem_of(await post(FakeService(None), INGEST, b"[]", headers), 422, "unprocessable")


@pytest.mark.parametrize("body", [b"", b"{", b"3", b'{"rows": 3}', b"\x00"])
async def test_a_body_that_is_no_rows_is_a_bad_request(body):
    problem_of(await post(FakeService(None), INGEST, body), 400, "bad-request")


async def test_gzip_is_read_and_a_bomb_is_not():
    headers = {**WRITE, "Content-Encoding": "gzip"}
    response = await post(FakeService(None), INGEST, gzip.compress(b"[]"), headers)
    assert response.status_code == 202
    bomb = gzip.compress(b"[" + b" " * 5_000_000 + b"]")
    response = await post(FakeService(None), INGEST, bomb, headers)
    assert "inflates" in problem_of(response, 413, "too-large")
    headers["Content-Encoding"] = "br"
    problem_of(await post(FakeService(None), INGEST, b"[]", headers), 415, "unsupported-media")


async def test_a_body_over_the_limit_is_refused_before_it_is_read():
    async with client(FakeService(None), max_body_bytes=1000) as http:
        said = {**WRITE, "Content-Length": "5000"}
        told = await http.post(INGEST, content=b"x" * 5000, headers=said)
        lied = await http.post(
            INGEST, content=b"x" * 5000, headers={**WRITE, "Content-Length": "3"}
        )
        unsaid = await http.post(INGEST, content=_chunks(3), headers=WRITE)
    assert "has 5000 bytes, the limit is 1000" in problem_of(told, 413, "too-large")
    for response in (lied, unsaid):
        assert "more than 1000 bytes" in problem_of(response, 413, "too-large")


async def _chunks(count: int):
    for _ in range(count):
        yield b"x" * 600


async def test_a_full_system_says_when_to_come_back():
    class Full(FakeService):
        async def ingest(self, body, content_type, content_encoding, request_id):
            raise Busy("ingest is full", retry_after_s=7)

    response = await post(Full(None), INGEST, b"[]")
    assert problem_of(response, 503, "busy") == "ingest is full"
    assert response.headers["retry-after"] == "7"


# Who may call


@pytest.mark.parametrize("path", [INGEST, FORECAST])
async def test_a_page_from_elsewhere_cannot_write(path):
    service = FakeService(snapshot())
    plain = {"Content-Type": "text/plain", "Origin": "http://evil.example"}
    problem_of(await post(service, path, b"[]", plain), 415, "unsupported-media")
    typed = {"Content-Type": "application/json", "Origin": "http://evil.example"}
    problem_of(await post(service, path, b"[]", typed), 403, "forbidden")
    async with client(service) as http:
        asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        preflight = await http.options(path, headers=asked)
    assert "access-control-allow-origin" not in preflight.headers
    assert service.asked == []


@pytest.mark.parametrize("path", [*(f"/api/v1/{name}" for name in READS), "/", "/metrics", "/docs"])
async def test_a_foreign_host_name_is_refused_everywhere(path):
    response = await get(FakeService(snapshot()), path, headers={"Host": "evil.example:8000"})
    problem_of(response, 403, "forbidden")


async def test_with_tokens_every_door_wants_its_scope(tmp_path):
    path = tmp_path / "tokens.toml"
    digest = hashlib.sha256(b"secret").hexdigest()
    path.write_text(f'[[tokens]]\nname = "a"\nsha256 = "{digest}"\nscopes = ["read"]\n')
    guard = Guard(host="0.0.0.0", tokens_file=path, allow_anonymous_loopback=False)
    async with client(FakeService(snapshot()), guard) as http:
        bearer = {"Authorization": "Bearer secret", "Host": "fleet.example"}
        for name in READS:
            denied = await http.get(f"/api/v1/{name}")
            problem_of(denied, 401, "not-authorized")
            assert denied.headers["www-authenticate"] == "Bearer"
            assert (await http.get(f"/api/v1/{name}", headers=bearer)).status_code == 200
        for open_path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert (await http.get(open_path)).status_code == 200
        for closed_path in ("/", "/metrics"):
            problem_of(await http.get(closed_path), 401, "not-authorized")
        problem_of(await http.post(INGEST, content=b"[]", headers=bearer), 403, "forbidden")


# When things go wrong


@pytest.mark.parametrize(("method", "path"), [("GET", "/nope"), ("GET", "/api/v1"), ("PUT", "/x")])
async def test_an_unknown_path_is_a_problem(method, path):
    async with client(FakeService(None)) as http:
        problem_of(await http.request(method, path), 404, "not-found")


async def test_a_method_a_path_does_not_know_is_a_problem():
    async with client(FakeService(None)) as http:
        response = await http.delete(FORECAST)
    problem_of(response, 405, "method-not-allowed")
    assert response.headers["allow"]


async def test_an_unexpected_error_is_logged_and_tells_the_caller_nothing(caplog):
    class Broken(FakeService):
        async def models(self):
            raise ValueError("secret path /var/lib")

    with caplog.at_level(logging.ERROR):
        response = await get(Broken(None), "/api/v1/models")
    problem_of(response, 500, "internal-error")
    assert "secret" not in response.text
    assert "secret path" in caplog.text


async def test_an_error_that_crossed_a_process_is_told_by_its_cause():
    class Copy(UnknownVersion):
        cause = UnknownVersion("no version 9")

        def __str__(self):
            return "Traceback (most recent call last): ..."

    class Remote(FakeService):
        async def model(self, name):
            raise Copy

    response = await get(Remote(None), "/api/v1/models/9")
    assert problem_of(response, 404, "unknown-version") == "no version 9"
