"""Callers of a served fleet: their tokens, and all they can ask."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import httpx

OPEN = {"/healthz", "/readyz", "/docs", "/openapi.json"}
READER, AGENT, OPERATOR = "reader-4f1c9b", "agent-77d0aa", "operator-5e83d1"


def entry(token: str, name: str, scope: str) -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\nscopes = ["{scope}"]\n'


def tokens_in(folder: Path) -> Path:
    path = folder / "tokens.toml"
    entries = entry(READER, "grafana", "read") + entry(AGENT, "agents", "ingest")
    path.write_text(entries + entry(OPERATOR, "operators", "operate"))
    return path


def bearer(token: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **more}


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def every_route(http: httpx.Client) -> list[tuple[str, str]]:
    """(method, path) of all the app knows, the pages it does not list included."""
    paths = http.get("/openapi.json").json()["paths"]
    listed = [(method.upper(), path) for path, ways in paths.items() for method in ways]
    assert len(listed) > 10
    named = {"{name}": "1", "{event_id}": "1"}
    for place, name in named.items():
        listed = [(way, path.replace(place, name)) for way, path in listed]
    return [*listed, ("GET", "/")]


def who_may(method: str, path: str) -> str:
    """A token with the scope that a route wants."""
    told = path.endswith("/ingest") or ("/events" in path and method != "GET")
    if told or method == "GET" or path.endswith("/forecast"):
        return AGENT if told else READER
    return OPERATOR
