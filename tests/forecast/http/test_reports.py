"""What the system says of itself over HTTP, and the pages people read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from forecast.http import api
from forecast.http.drift import DriftAnswer
from forecast.http.gain import GainedAccuracy
from forecast.http.problems import KINDS
from tests.forecast.http.http_scene import (
    SLOT,
    FakeService,
    get,
    problem_of,
    snapshot,
)

# Reports


async def test_accuracy_shows_the_baselines_beside_the_champion():
    service = FakeService(snapshot())
    query = {"since": "1h", "server": "web-1", "metric": "cpu"}
    response = await get(service, "/api/v1/accuracy", **query)
    answer = GainedAccuracy.model_validate(response.json())
    assert [one.member for one in answer.members] == ["champion", "copy_last", "seasonal_naive"]
    assert [one.horizon for one in answer.members[0].horizons] == [1, 2, 3, 4]
    assert answer.members[0].pooled.coverage == {"0.8": 0.75}
    assert service.asked == [(SLOT + 1 - 12, "web-1", "cpu")]
    assert (answer.since, answer.scored_until) == ("2025-12-31T23:05:00Z", "2026-01-01T00:05:00Z")


@pytest.mark.parametrize(
    ("since", "slot"),
    [("2026-01-01T00:00:00Z", SLOT), ("2026-01-01T01:00:00+01:00", SLOT), ("99999d", 0)],
)
async def test_since_is_a_time_or_a_duration(since, slot):
    service = FakeService(snapshot())
    assert (await get(service, "/api/v1/learning/updates", since=since, limit=1)).status_code == 200
    assert service.asked == [(1, slot)]


@pytest.mark.parametrize("since", ["lately", "2026-01-01", "2026-01-01T00:00:00", "1e9"])
async def test_a_since_that_is_no_time_is_a_problem(since):
    response = await get(FakeService(snapshot()), "/api/v1/accuracy", since=since)
    problem_of(response, 422, "unprocessable")


async def test_updates_tell_the_verdict_and_what_it_was_about():
    response = await get(FakeService(snapshot()), "/api/v1/learning/updates")
    answer = api.UpdatesAnswer.model_validate(response.json())
    refused, base = answer.updates
    assert (refused.kind, refused.verdict, refused.parent) == ("update", "rejected", 3)
    assert refused.report["wql"] is None
    assert (base.kind, base.as_of) == ("base", "2025-12-31T23:20:00Z")


async def test_drift_tells_where_since_when_and_by_what():
    response = await get(FakeService(snapshot()), "/api/v1/drift")
    (alarm,) = DriftAnswer.model_validate(response.json()).alarms
    assert (alarm.confirmed, alarm.update_due) == ("2026-01-01T00:05:00Z", True)
    (server,) = alarm.servers
    assert (server.server, server.channel) == ("web-1", "level of cpu")
    assert server.since == "2025-12-31T23:05:00Z"


async def test_before_anything_is_watched_drift_says_so():
    class Fresh(FakeService):
        async def drift(self):
            return {"enabled": False}

    answer = DriftAnswer.model_validate((await get(Fresh(None), "/api/v1/drift")).json())
    assert (answer.enabled, answer.detector, answer.alarms) == (False, None, [])


@pytest.mark.parametrize("limit", ["0", "1001", "many", "-1"])
async def test_a_limit_out_of_bounds_is_a_problem(limit):
    response = await get(FakeService(snapshot()), "/api/v1/learning/updates", limit=limit)
    problem_of(response, 422, "invalid-request")


async def test_models_come_oldest_first_with_their_aliases():
    answer = api.ModelsAnswer.model_validate(
        (await get(FakeService(snapshot()), "/api/v1/models")).json()
    )
    assert [one.version for one in answer.versions] == [2, 3]
    assert answer.aliases == {"champion": 3, "base": 2}


async def test_one_model_is_found_by_alias_and_an_unknown_one_is_not():
    found = await get(FakeService(snapshot()), "/api/v1/models/champion")
    assert found.json() == {"version": 3, "loss": None, "steps": 7}
    problem_of(await get(FakeService(None), "/api/v1/models/nobody"), 404, "unknown-version")


async def test_servers_come_page_by_page():
    service = FakeService(snapshot())
    first = (await get(service, "/api/v1/servers", limit=3)).json()
    assert [one["name"] for one in first["servers"]] == ["new-1", "old-1", "web-1"]
    rest = (await get(service, "/api/v1/servers", limit=3, after=first["next_after"])).json()
    assert ([one["name"] for one in rest["servers"]], rest["next_after"]) == (["web-2"], None)
    active = (await get(service, "/api/v1/servers", state="active", role="web")).json()
    assert [one["name"] for one in active["servers"]] == ["web-1", "web-2"]
    assert active["servers"][0]["last_seen"] == "2026-01-01T00:05:00Z"
    problem_of(await get(service, "/api/v1/servers", state="dead"), 422, "invalid-request")


# Operation


async def test_readiness_is_given_while_anything_can_answer():
    ready = await get(FakeService(snapshot()), "/readyz")
    assert (ready.status_code, ready.json()["missing"]) == (200, [])
    fallback = await get(FakeService(snapshot(version=None)), "/readyz")
    assert fallback.status_code == 200
    assert fallback.json()["missing"] == ["trained version: baselines answer"]
    stalled = await get(FakeService(replace(snapshot(), published_at=0.0)), "/readyz")
    assert stalled.json()["missing"] == ["fresh data: the stream stands still"]
    empty = await get(FakeService(None), "/readyz")
    assert (empty.status_code, empty.json()["ready"]) == (503, False)


async def test_liveness_needs_nothing():
    assert (await get(FakeService(None), "/healthz")).json() == {"status": "ok"}


async def test_metrics_are_prometheus_text():
    response = await get(FakeService(None), "/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.text == "fleetcast_servers 4\n"


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_pages_load_nothing_from_elsewhere_and_run_no_script(path):
    response = await get(FakeService(snapshot()), path)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for sign in ("<script", "http://", "https://", "@import", "src="):
        assert sign not in response.text


async def test_the_status_page_escapes_what_it_shows():
    page = (await get(FakeService(snapshot()), "/")).text
    assert "buffer.rows" in page
    assert "&lt;b&gt;" in page


async def test_the_docs_name_every_route_its_fields_and_every_problem():
    page = (await get(FakeService(snapshot()), "/docs")).text
    for text in ("POST /api/v1/forecast", "GET /api/v1/learning/updates", "GET /readyz"):
        assert text in page
    for field in ("thresholds", "as_of", "since", "horizon"):
        assert f"<code>{field}</code>" in page
    assert all(f'id="{kind}"' in page for kind in KINDS)


async def test_the_openapi_document_holds_together():
    document = (await get(FakeService(snapshot()), "/openapi.json")).json()
    schemas = document["components"]["schemas"]
    references = {
        part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]
    }
    assert references <= set(schemas)
    assert {"ForecastRequest", "InlineContext", "ForecastAnswer", "IngestAnswer"} <= references
