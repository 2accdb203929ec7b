"""Two plain pages: where the system stands, and what the API knows. No script, no other host."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi.responses import HTMLResponse

from forecast.config_files import leaves
from forecast.http.problems import KINDS

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid #8884; }
code, pre { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; }
"""

_LINKS = (
    ("/docs", "what the API knows"),
    ("/api/v1/forecast", "forecasts of the whole fleet"),
    ("/api/v1/accuracy", "errors, the baselines beside"),
    ("/api/v1/learning/updates", "what was learned, and the verdicts"),
    ("/api/v1/models", "versions and aliases"),
    ("/api/v1/servers", "servers"),
    ("/api/v1/status", "where each part stands"),
    ("/metrics", "the same for Prometheus"),
    ("/readyz", "readiness"),
)


def home(title: str, status: Mapping[str, Any]) -> HTMLResponse:
    """The status page: a table of every number in the status, and links."""
    said = {key: "-" if value is None else value for key, value in leaves(status).items()}
    rows = "".join(_row(_code(key), _code(value)) for key, value in said.items())
    links = "".join(f'<li><a href="{path}">{path}</a>: {what}</li>' for path, what in _LINKS)
    body = f"<ul>{links}</ul><h2>Status</h2><table>{rows}</table>"
    return _page(title, body)


def docs(title: str, openapi: Mapping[str, Any]) -> HTMLResponse:
    """Every route of the OpenAPI document, its parameters and body, and every kind of problem."""
    parts = [
        '<p>Machine-readable: <a href="/openapi.json">/openapi.json</a>. Writes need '
        "<code>Content-Type: application/json</code> (or <code>application/x-ndjson</code>) and, "
        "without a token, <code>X-Fleetcast: 1</code>.</p>"
    ]
    schemas = openapi.get("components", {}).get("schemas", {})
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation, schemas))
    parts.append("<h2>Problems</h2><p>Errors are <code>application/problem+json</code>.</p>")
    kinds = "".join(
        f'<tr id="{kind}"><td>{_code(kind)}</td><td>{escape(said)}</td></tr>'
        for kind, said in sorted(KINDS.items())
    )
    parts.append(f"<table>{kinds}</table>")
    return _page(title, "".join(parts))


def _operation(
    path: str, method: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> str:
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2>"]
    if said := operation.get("description"):
        parts.append(f"<p>{escape(said)}</p>")
    rows = [
        _row(_code(one["name"]), escape(one.get("description", "")))
        for one in operation.get("parameters", ())
    ]
    for media in operation.get("requestBody", {}).get("content", {}).values():
        name = media["schema"].get("$ref", "").rpartition("/")[2]
        for field, schema in schemas.get(name, {}).get("properties", {}).items():
            rows.append(_row(_code(field), escape(schema.get("description", ""))))
    if rows:
        parts.append(f"<table>{''.join(rows)}</table>")
    return "".join(parts)


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _code(text: object) -> str:
    return f"<code>{escape(str(text))}</code>"


def _page(title: str, body: str) -> HTMLResponse:
    name = escape(title)
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{name}</h1>{body}</body></html>",
        headers=_HEADERS,
    )
