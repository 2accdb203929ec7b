"""A fleet behind HAProxy: open on every interface, the replicas called from this machine."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.serve.callers import OPEN, READER, bearer, every_route, free_ports, tokens_in
from tests.serve.fleet_process import served
from tests.serve.listeners import listeners

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory):
    """The fleet behind HAProxy on every interface."""
    folder = tmp_path_factory.mktemp("haproxy")
    own = Path(tempfile.mkdtemp(prefix="fh-", dir="/tmp"))  # for sockets: their paths are short
    port, direct, *others = free_ports(5)
    names = ("HAPROXY_STATS_PORT", "HAPROXY_METRICS_PORT", "FALLBACK_PROXY_HTTP_PORT")
    environment = {f"RAY_SERVE_{name}": str(at) for name, at in zip(names, others, strict=True)}
    environment |= {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(direct),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(direct + 9),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(own / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(own / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(own / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(own),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(own / "server-state"),
    }
    serve = {
        "host": "0.0.0.0",
        "port": port,
        "allow_anonymous_loopback": False,
        "tokens_file": str(tokens_in(folder)),
    }
    try:
        with served(folder, serve, **environment) as running:
            yield running, others[:2]
    finally:
        shutil.rmtree(own, ignore_errors=True)


def test_behind_haproxy_every_listener_that_runs_anything_wants_a_token(haproxy):
    """What is left, its counters and its statistics page, can be read and nothing else."""
    fleet, counters = haproxy
    found = listeners(fleet.folder, root=fleet.pid)
    public = urlsplit(fleet.url).port
    assert any(one.process == "haproxy" and one.port == public for one in found)
    forged = {"Host": "localhost", "X-Forwarded-For": "127.0.0.1", "X-Fleetcast": "1"}
    answering = []
    for one in found:
        if one.loopback or one.port in counters or one.address == "::":
            continue
        with httpx.Client(base_url=f"http://127.0.0.1:{one.port}", timeout=60.0) as client:
            answering.append(one.process)
            for method, path in every_route(client):
                for headers in ({}, forged):
                    answer = client.request(method, path, headers=headers)
                    allowed = (200, 503) if path in OPEN else (401,)
                    assert answer.status_code in allowed, (one, method, path)
            known = client.get("/api/v1/models", headers=bearer(READER))
            assert known.status_code == 200
    assert "haproxy" in answering
    assert any("ServeReplica" in name and name.endswith(":Gateway") for name in answering)
    names = {one.process for one in found if one.address == "::"}
    assert all(name.startswith("ray::ServeReplica:") for name in names), names


def test_behind_haproxy_a_fleet_without_tokens_does_not_start(haproxy):
    fleet, _ = haproxy
    assert "callers from anywhere would look like this machine" in fleet.anonymous
