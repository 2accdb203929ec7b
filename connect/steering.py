"""The commands by which people steer a running fleet: rollback, pause, resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from connect.asking import client, client_options, exits

_reason = click.option("--reason", required=True, help="For the audit log.")


@click.command()
@click.option("--to", type=int, help="A version that served before; else the previous one.")
@_reason
@client_options
@exits
def rollback(to: int | None, reason: str, url: str, token: str | None) -> None:
    """Let an earlier version serve again; what came after it is withdrawn.

    Promotion is paused until `resume`.
    """
    _tell(url, token, "/api/v1/rollout/rollback", {"to": to, "reason": reason})


@click.command()
@_reason
@client_options
@exits
def pause(reason: str, url: str, token: str | None) -> None:
    """Stop learning: no training starts, nothing is promoted; what serves goes on serving."""
    _tell(url, token, "/api/v1/learning/pause", {"reason": reason})


@click.command()
@_reason
@client_options
@exits
def resume(reason: str, url: str, token: str | None) -> None:
    """Let learning and promotion go on, after a pause, a rollback or a breaker that opened."""
    _tell(url, token, "/api/v1/learning/resume", {"reason": reason})


def _tell(url: str, token: str | None, path: str, asked: Mapping[str, Any]) -> None:
    with client(url, token) as asking:
        click.echo(json.dumps(asking.post(path, asked)))


COMMANDS = (rollback, pause, resume)
