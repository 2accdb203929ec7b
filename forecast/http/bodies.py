"""What comes in a request's body and headers: bounded, and of a type that is read here."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from forecast.errors import RequestError, TooLarge, TooSlow, Unprocessable, UnsupportedMedia
from forecast.http.ingest import JSON, NDJSON, media_type
from forecast.http.queries import Asked, ForecastRequest

Asking = TypeVar("Asking", bound=Asked)

_MOST_QUESTION_BYTES = 8 << 20
"""The body of a question; one of rows may be longer."""
_MOST_REQUEST_BYTES = 1 << 20
_LONGEST_KEY = 200
_BODY_S = 60.0
"""A body has arrived by then, or never: while it is read it takes one of the gateway's places."""

FORECAST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/ForecastRequest"}}},
    }
}
"""For OpenAPI: the body of POST /forecast."""

_ROW: dict[str, Any] = {
    "type": "object",
    "required": ["timestamp", "metrics"],
    "properties": {
        "timestamp": {"description": "ISO 8601 (UTC unless it says), or epoch seconds"},
        "server": {"type": "string"},
        "labels": {
            "type": "object",
            "description": "instead of server, where several labels name one",
        },
        "role": {"type": "string"},
        "timezone": {"type": "string", "description": "IANA name"},
        "metrics": {
            "type": "object",
            "additionalProperties": {"type": ["number", "null"]},
            "description": "values by metric; null is a gap",
        },
    },
}

ROWS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "required": ["rows"],
                    "properties": {"rows": {"type": "array", "items": _ROW}},
                }
            },
            NDJSON: {"schema": {"type": "string", "description": "one row a line"}},
        },
    }
}
"""For OpenAPI: the body of POST /ingest."""


async def read_body(request: Request, limit: int, *, within_s: float = _BODY_S) -> bytes:
    """The whole body.

    Raises TooLarge as soon as it is known to be over the limit, TooSlow when its end is not there
    in time.
    """
    said = request.headers.get("content-length", "")
    if said.isdecimal() and (len(said) > 15 or int(said) > limit):
        raise TooLarge(f"the body has {said[:20]} bytes, the limit is {limit}")
    parts, size = [], 0
    try:
        async with asyncio.timeout(within_s):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise TooLarge(f"the body has more than {limit} bytes")
                parts.append(part)
    except TimeoutError:
        raise TooSlow(f"{size} bytes of the body in {within_s:g} s, and no end of it") from None
    return b"".join(parts)


async def read_json(request: Request, limit: int, *, what: str = "the body") -> bytes:
    """The whole body of a request that says it is JSON; raises as `read_kind`."""
    return await read_kind(request, JSON, limit, what=what)


async def read_kind(request: Request, kind: str, limit: int, *, what: str) -> bytes:
    """The whole body of a request that says it is of this media type.

    Raises UnsupportedMedia where it says something else, and as `read_body` does.
    """
    said = media_type(request.headers.get("content-type", ""))
    if said != kind:
        raise UnsupportedMedia(f"{what} comes as {kind}, not {said!r:.80}")
    return await read_body(request, limit)


async def forecast_request(request: Request) -> ForecastRequest:
    """The question in the body.

    Raises UnsupportedMedia, TooLarge, RequestError for what is no JSON, RequestValidationError for
    what is no question.
    """
    body = await read_json(request, _MOST_QUESTION_BYTES, what="a question")
    if not body.strip():
        raise RequestError("the body is empty; {} asks for the whole fleet")
    try:
        return ForecastRequest.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        if found[0]["type"] == "json_invalid":
            raise RequestError(f"the body is not JSON: {found[0]['msg']}") from error
        raise RequestValidationError(found) from error


async def asked_of(request: Request, kind: type[Asking]) -> Asking:
    """A small request in the body.

    Raises UnsupportedMedia, TooLarge, RequestError for what is no JSON, Unprocessable naming the
    first thing that is wrong with it.
    """
    body = await read_json(request, _MOST_REQUEST_BYTES)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise RequestError(f"the body is not JSON: {first['msg']}") from error
        where = ".".join(str(part) for part in first["loc"])
        raise Unprocessable(f"{where or 'the body'}: {first['msg']}") from error


def request_id(request: Request) -> str:
    """The header `Idempotency-Key`, told apart by who sends it; without one a fresh id.

    Raises Unprocessable for a key that is too long or unprintable.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return uuid.uuid4().hex
    if not 0 < len(key) <= _LONGEST_KEY or not key.isprintable():
        raise Unprocessable(f"Idempotency-Key must have 1 to {_LONGEST_KEY} printable characters")
    return f"{request.state.principal.name}/{key}"
