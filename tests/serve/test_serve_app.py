"""The Serve application over real HTTP, on the session's Ray cluster."""

from __future__ import annotations

import json
import socket
import time

import httpx
import pytest
import ray

from actors import handles
from actors.session import Session
from connect.stream import Client
from forecast.errors import ConfigError
from serve_app import build
from tests.actors.scenario import small_config, small_replay

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REPLAY = small_replay()
HEADERS = {"X-Fleetcast": "1"}
_DEADLINE_S = 180.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def fleet(ray_cluster, tmp_path_factory):
    """A served fleet that has seen its history and has a first model; its session."""
    from ray import serve

    from actors import topology

    port = _free_port()
    config = small_config(tmp_path_factory.mktemp("served"), REPLAY)
    config = config.model_copy(
        update={"fleet": "served", "serve": config.serve.model_copy(update={"port": port})}
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build(config), name="fleetcast-served", route_prefix="/")
    session = Session(Client(f"http://127.0.0.1:{port}"), REPLAY)
    for _ in session.feed_history():
        pass
    deadline = time.monotonic() + _DEADLINE_S
    for status in session.wait_for_model():
        assert time.monotonic() < deadline, status
    for _ in session.stream(REPLAY.start_slot, REPLAY.start_slot + 30):
        pass
    while _behind(status := session.client.status()):
        assert time.monotonic() < deadline, status
    yield session
    session.client.close()
    serve.delete("fleetcast-served")
    topology.stop(config)


def _behind(status) -> bool:
    """Whether the newest closed slot is not published yet."""
    return status["forecast"]["slot"] != status["buffer"]["closed_slot"]


@pytest.fixture
def http(fleet):
    with httpx.Client(base_url=fleet.client.base_url, timeout=30.0) as client:
        yield client


def test_the_forecast_of_record_names_the_version_that_made_it(http):
    server, metric = REPLAY.source.servers[0], REPLAY.schema.targets[0]
    query = {"server": server, "metric": metric}
    answer = http.get("/api/v1/forecast", params=query).json()
    [series] = answer["series"]
    assert series["status"] == "ok"
    assert series["fallback"] is None
    members = {one["member"]: one for one in series["members"]}
    assert members["champion"]["version"] == answer["version"] >= 1
    experts = {"climatology", "copy_last", "least_squares", "quantile_network", "seasonal_naive"}
    assert members.keys() == {"champion", *experts}
    assert sum(one["weight"] for one in series["members"]) == pytest.approx(1, abs=1e-3)
    # The same from its place on record, by name.
    [again] = _record(http, "ensemble", series=[{"server": server, "metric": metric}])["series"]
    assert again["quantiles"] == series["quantiles"]
    assert len(series["timestamps"]) == len(series["quantiles"]["0.5"]) == 6


def test_the_forecaster_computes_what_is_on_record(http):
    """Serving loads the same artifact and cuts the same windows as the controller did."""
    body = {"model": "champion"}
    recorded = _record(http, "champion")
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        computed = http.post("/api/v1/forecast", json=body, headers=HEADERS).json()
        pairs = list(zip(computed["series"], recorded["series"], strict=True))
        if all(ours["members"] == theirs["members"] for ours, theirs in pairs):
            break
        # A Forecaster pulls a new champion by itself, a little after the controller made it one.
        assert time.monotonic() < deadline, computed["series"][0]["members"]
    assert computed["warnings"] == []
    assert computed["revision"] == recorded["revision"]
    for ours, theirs in pairs:
        assert ours["quantiles"].keys() == theirs["quantiles"].keys()
        for level, values in theirs["quantiles"].items():
            # What is of record was rounded: to less than 1/4096 of an interval of each step.
            assert ours["quantiles"][level] == pytest.approx(values, rel=2e-3, abs=1e-4)


def _record(http, model, **asked):
    body = {"model": model, "record": True, **asked}
    return http.post("/api/v1/forecast", json=body, headers=HEADERS).json()


def test_an_earlier_version_answers_by_number(http):
    body = {"model": "1"}
    answer = http.post("/api/v1/forecast", json=body, headers=HEADERS).json()
    assert {m["version"] for series in answer["series"] for m in series["members"]} == {1}


def test_bad_rows_are_refused_by_index_and_the_rest_is_kept(http, fleet):
    status = fleet.client.status()
    seconds = (status["buffer"]["clock_slot"]) * status["step_seconds"]
    good = {"timestamp": seconds, "server": "web-01", "metrics": {"cpu_usage_ratio": 0.5}}
    rows = [
        good,
        {"timestamp": "yesterday", "server": "web-01", "metrics": {"cpu_usage_ratio": 0.5}},
        {**good, "metrics": {"cpu_usage_ratio": 7.0}},
        {**good, "timestamp": time.time() + 86400},
        {**good, "server": "web-77"},
    ]
    answer = http.post("/api/v1/ingest", json={"rows": rows}, headers=HEADERS)
    assert answer.status_code == 202
    found = {(reject["index"], reject["reason"]) for reject in answer.json()["rejected"]}
    assert found == {(1, "malformed"), (2, "out_of_bounds"), (3, "future")}


def test_a_server_with_too_little_history_is_an_answer(http):
    series = http.get("/api/v1/servers").json()["servers"]
    known = {server["name"]: server for server in series}
    assert known["web-77"]["state"] == "warming_up"
    assert known["web-77"]["missing_slots"] > 0


@pytest.mark.parametrize(
    ("method", "path", "sent", "status"),
    [
        ("GET", "/api/v1/nothing", {}, 404),
        ("GET", "/api/v1/forecast?horizon=99d", {}, 422),
        ("GET", "/api/v1/models/77", {}, 404),
        ("POST", "/api/v1/forecast", {"content": b"{", "headers": HEADERS}, 415),
        ("POST", "/api/v1/ingest", {"json": {"rows": []}}, 403),
        ("GET", "/api/v1/forecast", {"headers": {"Host": "evil.example"}}, 403),
        ("POST", "/api/v1/forecast", {"json": {"model": "99"}, "headers": HEADERS}, 404),
    ],
)
def test_nonsense_gets_a_problem_and_not_a_trace(http, method, path, sent, status):
    answer = http.request(method, path, **sent)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert "Traceback" not in answer.text


def test_the_other_routes_answer(http):
    paths = ("/healthz", "/readyz", "/metrics", "/docs", "/", "/openapi.json")
    paths += tuple(f"/api/v1/{name}" for name in ("models", "learning/updates", "accuracy"))
    for path in paths:
        answer = http.get(path)
        assert answer.status_code == 200, (path, answer.text)
    assert "fleetcast_champion_version" in http.get("/metrics").text
    updates = http.get("/api/v1/learning/updates").json()["updates"]
    assert updates[-1]["kind"] == "base"
    assert json.loads(http.get("/api/v1/models").text)["aliases"]["champion"] >= 1


def test_without_tokens_only_loopback_is_served(tmp_path):
    config = small_config(tmp_path, REPLAY)
    closed = config.serve.model_copy(update={"allow_anonymous_loopback": False})
    with pytest.raises(ConfigError, match="token"):
        build(config.model_copy(update={"serve": closed}))
    open_host = config.serve.model_copy(update={"host": "0.0.0.0"})
    with pytest.raises(ConfigError, match="loopback"):
        build(config.model_copy(update={"serve": open_host}))


def test_an_actor_that_is_gone_for_good_is_made_again(fleet):
    panel = fleet.replay.schema.panel
    before = handles.find("served", panel, handles.TRAINER)
    ray.kill(before, no_restart=True)
    deadline = time.monotonic() + _DEADLINE_S
    while handles.find("served", panel, handles.TRAINER) in (None, before):
        assert time.monotonic() < deadline
        time.sleep(0.2)  # polls a condition with a deadline
    while fleet.client.status()["trainer"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
