"""Errors as HTTP tells them: problem details (RFC 9457), one shape for every one.

The problem's type is a place on the page /docs that explains it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forecast import errors
from forecast.errors import NotAuthorized, RequestError, UnknownVersion
from forecast.http.api import FieldProblem, Problem, json_body

log = logging.getLogger("fleetcast.http")

MEDIA_TYPE = "application/problem+json"

_MOST_ERRORS = 20

KINDS: dict[str, str] = {
    **{
        kind.kind: (kind.__doc__ or "").splitlines()[0]
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, RequestError)
    },
    "unknown-version": "No such version or alias.",
    "invalid-request": "A parameter or field is missing, of the wrong type or out of bounds.",
    "not-found": "No such path.",
    "method-not-allowed": "The path does not know this method.",
    "internal-error": "Something went wrong here that the request is not to blame for.",
}
"""What each kind of problem means."""


def install(app: FastAPI) -> None:
    """Let the app answer every error as a problem, unexpected ones included."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(UnknownVersion, _unknown_version)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(_Shield)


def original(error: BaseException) -> BaseException:
    """The error itself when it crossed a process; Ray's copy carries it as `cause`.

    The copy's own text is a traceback, which is nothing to show to a caller.
    """
    cause = getattr(error, "cause", None)
    return original(cause) if isinstance(cause, BaseException) and cause is not error else error


def problem(
    kind: str,
    status: int,
    detail: str,
    path: str,
    *,
    found: Sequence[FieldProblem] = (),
    report: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem as a response."""
    body = Problem(
        type=f"/docs#{kind}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=path,
        errors=list(found),
        report=report,
    )
    return Response(json_body(body), status, headers, MEDIA_TYPE)


async def _request_error(request: Request, error: Exception) -> Response:
    cause = original(error)
    assert isinstance(cause, RequestError)
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(cause, NotAuthorized) else {}
    if cause.retry_after_s:
        headers["Retry-After"] = str(cause.retry_after_s)
    report = getattr(cause, "report", None)
    path = request.url.path
    return problem(cause.kind, cause.status, cause.detail, path, report=report, headers=headers)


async def _unknown_version(request: Request, error: Exception) -> Response:
    return problem("unknown-version", 404, str(original(error)), request.url.path)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        FieldProblem(
            where=".".join(str(part) for part in one["loc"])[:200],
            message=str(one["msg"]).removeprefix("Value error, ")[:300],
        )
        for one in error.errors()[:_MOST_ERRORS]
    ]
    first = f"{found[0].where}: {found[0].message}" if found[0].where else found[0].message
    more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    return problem("invalid-request", 422, first + more, request.url.path, found=found)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "bad-request")
    headers = dict(error.headers or {})
    detail = f"{request.method} {request.url.path}: {error.detail}"
    return problem(kind, error.status_code, detail, request.url.path, headers=headers)


class _Shield:
    """Turns an unexpected error into a problem and a log entry; the caller sees no traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            log.info("%s went away before the answer", scope["path"])
        except Exception:  # whatever a route raises, the caller gets an answer
            if scope["type"] != "http" or started:
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            detail = "unexpected error; the log of this replica says more"
            await problem("internal-error", 500, detail, scope["path"])(scope, receive, send)
