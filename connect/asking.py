"""What commands share that ask a running fleet: their options, one client, their exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from functools import wraps
from typing import Any, ParamSpec

import click
import httpx

from connect.stream import Client
from forecast.errors import ConfigError, DataError, FleetcastError

P = ParamSpec("P")

_URL = "http://127.0.0.1:8000"


def exits(command: Callable[P, None]) -> Callable[P, None]:
    """Turn our errors into a plain message and the documented exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ConfigError, DataError) as error:
            fail(str(error), 2)
        except httpx.HTTPStatusError as error:
            fail(f"{error.response.status_code}: {error.response.text}", 1)
        except httpx.TransportError as error:
            fail(f"unreachable: {error}", 3)
        except (FleetcastError, RuntimeError) as error:  # RuntimeError: what Ray and Serve raise
            fail(str(error), 1)

    return run


def fail(message: str, code: int) -> None:
    """Say what went wrong, and leave with this exit code."""
    click.echo(f"fleetcast: {message}", err=True)
    sys.exit(code)


def client_options(command: Callable[P, None]) -> Callable[P, None]:
    """The options that say which fleet is asked, and by whom."""
    command = click.option("--token", envvar="FLEETCAST_TOKEN", help="Bearer token.")(command)
    return click.option("--url", default=_URL, envvar="FLEETCAST_URL", show_default=True)(command)


def client(url: str, token: str | None) -> closing[Client]:
    """Who asks the running system, once: a person waits for the answer."""
    return closing(Client.from_environment(url, token=token, patience_s=0.0))


def get(url: str, token: str | None, path: str) -> Any:  # noqa: ANN401 - JSON
    """The JSON at a path."""
    with client(url, token) as asking:
        return asking.get(path)
