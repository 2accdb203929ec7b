"""Who can reach a served fleet, over which sockets, and what a hostile caller gets."""

from __future__ import annotations

import gzip
import json
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from connect.stream import Client
from tests.serve.callers import (
    AGENT,
    OPEN,
    READER,
    bearer,
    entry,
    every_route,
    free_ports,
    tokens_in,
    who_may,
)
from tests.serve.fleet_process import served
from tests.serve.listeners import listeners, process_name, resident_bytes, session_pids

pytestmark = [pytest.mark.ray, pytest.mark.slow]

JSON, NDJSON = "application/json", "application/x-ndjson"
MIB = 1 << 20
RAY_METHODS = {
    "gcs_server": ("NodeInfoGcsService/GetAllNodeInfo",),
    "raylet": ("NodeManagerService/GetNodeStats", "ObjectManagerService/Pull"),
    "ray::ServeController": ("CoreWorkerService/PushTask",),
}
ROW = {"timestamp": 1, "server": "web-01", "metrics": {"cpu_usage_ratio": 0.5}}


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate of this machine and its key."""
    files = folder / f"{name}.pem", folder / f"{name}.key"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    written = ["-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(
        ["openssl", *command.split(), *subject, *written], check=True, capture_output=True
    )
    return files


def problem_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and kind, once the answer is a problem and no trace."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert "Traceback" not in answer.text
    return answer.status_code, answer.json()["type"].removeprefix("/docs#")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("secured")


@pytest.fixture(scope="module")
def fleet(folder):
    """`fleetcast run` with tokens and a certificate; nothing was fed."""
    cert, key = certificate(folder, "server")
    serve = {
        "port": free_ports(1)[0],
        "allow_anonymous_loopback": False,
        "tokens_file": str(tokens_in(folder)),
        "tls_certificate": str(cert),
        "tls_key": str(key),
        "max_body_mb": 2,
    }
    with served(folder, serve) as running:
        yield running


@pytest.fixture(scope="module")
def http(fleet, folder):
    trusted = ssl.create_default_context(cafile=folder / "server.pem")
    with httpx.Client(base_url=fleet.url, verify=trusted, timeout=60.0) as client:
        yield client


@pytest.fixture
def ingest(http):
    def post(content, kind=JSON, **headers):
        sent = bearer(AGENT, **{"Content-Type": kind}, **headers)
        return http.post("/api/v1/ingest", content=content, headers=sent)

    return post


def memory(fleet) -> int:
    """What Serve's processes hold together."""
    pids = session_pids(fleet.folder)
    return sum(resident_bytes(pid) for pid in pids if "Serve" in process_name(pid))


def test_only_the_replicas_own_port_is_open_to_the_network(fleet):
    """Serve binds the port by which replicas call each other everywhere; Ray's token guards it."""
    found = listeners(fleet.folder, root=fleet.pid)
    names = {one.process for one in found}
    assert {"gcs_server", "raylet", "ray::ProxyActor"} <= names
    open_to_all = [one for one in found if not one.loopback]
    assert all(one.process.startswith("ray::ServeReplica:") for one in open_to_all), open_to_all
    assert len({one.process for one in open_to_all}) == len(open_to_all)


def test_rays_own_ports_want_rays_token(fleet):
    import grpc
    from ray.serve.generated import serve_pb2, serve_pb2_grpc

    found = listeners(fleet.folder, root=fleet.pid)
    codes: dict[str, set[str]] = {}
    for one in found:
        if one.loopback:
            continue
        with grpc.insecure_channel(f"127.0.0.1:{one.port}") as channel:
            replica = serve_pb2_grpc.ASGIServiceStub(channel)
            call = replica.HandleRequest
            for metadata in ((), (("authorization", "Bearer " + "0" * 64),)):
                with pytest.raises(grpc.RpcError) as refused:
                    call(serve_pb2.ASGIRequest(), metadata=metadata, timeout=30)
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    for one in found:
        for method in RAY_METHODS.get(one.process, ()):
            with (
                grpc.insecure_channel(f"127.0.0.1:{one.port}") as channel,
                pytest.raises(grpc.RpcError) as refused,
            ):
                channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=30)
            # A process has several ports, of which each knows its own service only.
            codes.setdefault(method, set()).add(refused.value.code().name)
    assert len(codes) == 4
    for method, seen in codes.items():
        assert "UNAUTHENTICATED" in seen, method
        assert seen <= {"UNAUTHENTICATED", "UNIMPLEMENTED"}, method
    for path in ("/api/serve/applications/", "/api/jobs/", "/nodes?view=summary"):
        assert httpx.get(fleet.dashboard + path, timeout=30.0).status_code == 401


def test_every_route_but_four_wants_a_token(http):
    for method, path in every_route(http):
        answer = http.request(method, path)
        if path in OPEN:
            assert answer.status_code in (200, 503), path  # 503: not ready, as it should say
        else:
            assert problem_of(answer) == (401, "not-authorized"), (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"


def test_a_fleet_with_a_certificate_answers_no_plain_http_and_proves_who_it_is(fleet, folder):
    plain = fleet.url.replace("https:", "http:")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{plain}/healthz", timeout=30.0)
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(f"{fleet.url}/healthz", timeout=30.0)
    stranger, _ = certificate(folder, "stranger")
    for ca_file, fails in ((folder / "server.pem", False), (stranger, True)):
        client = Client(fleet.url, token=READER, ca_file=ca_file, patience_s=0.0)
        if fails:
            with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                client.status()
        else:
            assert client.status()["fleet"] == "secured"
        client.close()


def test_a_token_does_what_its_scopes_say(http, ingest):
    rows = json.dumps({"rows": [ROW]})
    assert ingest(rows).status_code == 202
    body = bearer(READER, **{"Content-Type": JSON})
    refused = http.post("/api/v1/ingest", content=rows, headers=body)
    assert problem_of(refused) == (403, "forbidden")
    assert "'grafana'" in refused.text
    assert READER not in refused.text
    assert problem_of(http.get("/metrics", headers=bearer(AGENT))) == (403, "forbidden")


def test_tokens_change_while_the_fleet_runs(http, folder):
    path, old = folder / "tokens.toml", (folder / "tokens.toml").read_text()

    def status(token: str) -> int:
        return http.get("/api/v1/models", headers=bearer(token)).status_code

    assert (status(READER), status("fresh-token")) == (200, 401)
    path.write_text(old + entry("fresh-token", "grafana", "read"))
    assert (status(READER), status("fresh-token")) == (200, 200)
    path.write_text(old.replace(entry(READER, "grafana", "read"), ""))
    assert (status(READER), status("fresh-token")) == (401, 401)
    path.write_text(old)
    assert status(READER) == 200


def test_a_body_that_is_or_becomes_too_large_is_refused_and_not_kept(fleet, ingest):
    assert ingest(b"[]").status_code == 202
    before = memory(fleet)
    bomb = gzip.compress(bytes(1 << 30), 9)
    assert len(bomb) < 2 * MIB
    refused = [
        ingest(b" " * (3 * MIB)),
        ingest(b" " * MIB for _ in range(64)),  # in chunks, without a length
        *(ingest(bomb, **{"Content-Encoding": "gzip"}) for _ in range(3)),
    ]
    assert {problem_of(answer) for answer in refused} == {(413, "too-large")}
    assert memory(fleet) - before < 128 * MIB


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 400),
        (b'{"rows":' + b'[{"metrics":' * 50_000, 400),
        (b'[{"timestamp": ' + b"9" * 5000 + b"}]", 400),
        (b"\xff\xfe\x00", 400),
        (b"", 400),
        (b"3", 400),
    ],
)
def test_a_hostile_body_is_a_problem_of_the_caller(ingest, body, status):
    assert problem_of(ingest(body)) == (status, "bad-request")


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"1e999", b"1" + b"0" * 400])
def test_a_value_that_is_no_finite_number_is_refused_alone(ingest, value):
    row = b'{"timestamp": 1, "server": "web-01", "metrics": {"cpu_usage_ratio": ' + value + b"}}"
    answer = ingest(b"[" + row + b"]")
    assert answer.status_code == 202
    [found] = answer.json()["rejected"]
    assert (found["index"], found["reason"]) == (0, "not_finite")


class _Trap:
    """Code that a pickle would run where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_route_reads_a_pickle(http, folder):
    import cloudpickle

    sprung = folder / "sprung"
    trap = cloudpickle.dumps(_Trap(sprung))
    kinds = ("application/python-pickle", "application/octet-stream", "application/x-pickle")
    for method, path in every_route(http):
        token = who_may(method, path)
        for kind in kinds if method not in ("GET", "DELETE") else ():
            sent = bearer(token, **{"Content-Type": kind})
            answer = http.request(method, path, content=trap, headers=sent)
            assert problem_of(answer) == (415, "unsupported-media"), path
        answer = http.request(
            method, path, content=trap, headers=bearer(token, **{"Content-Type": JSON})
        )
        read = method in ("GET", "DELETE")  # which have no body
        assert answer.status_code in ((200, 404, 503) if read else (400,)), path
    assert not sprung.exists()


def test_no_log_and_no_state_holds_a_token(fleet, folder, http):
    http.get("/api/v1/status", headers=bearer("a-wrong-guess"))
    secrets = [token.encode() for token in (READER, AGENT, "a-wrong-guess")]
    files = [path for root in (fleet.folder, folder) for path in Path(root).rglob("*")]
    files = [path for path in files if path.is_file() and not path.is_symlink()]
    assert any(path.suffix == ".log" for path in files)
    for path in files:
        try:
            found = path.read_bytes()
        except FileNotFoundError:  # Ray's own files beside a running cluster come and go
            continue
        assert not [secret for secret in secrets if secret in found], path


def test_the_gateway_refuses_to_start_where_strangers_could_call(monkeypatch, tmp_path):
    from actors import exposure
    from forecast.errors import ConfigError
    from serve_app import Gateway
    from tests.actors.scenario import small_config, small_replay

    gateway = object.__new__(Gateway)
    gateway._config = small_config(tmp_path, small_replay())
    found = exposure.Exposure("0.0.0.0", tls=False, haproxy=False, direct=False, ray_token=True)
    monkeypatch.setattr(exposure, "exposure", lambda: found)
    with pytest.raises(ConfigError, match=r"Serve listens on '0\.0\.0\.0'"):
        gateway.__serve_build_asgi_app__()
