"""The commands by which people steer a running fleet: rollback, pause, resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from connect.asking import client, client_options, exits

_reason = click.option("--reason", required=True, help="For the audit log.")


@click.command()
@click.option("--to", help="A version, a time or an age such as 3d; else the step before.")
@click.option("--dry-run", is_flag=True, help="Tell what it would do, and do nothing.")
@_reason
@client_options
@exits
def rollback(to: str | None, dry_run: bool, reason: str, url: str, token: str | None) -> None:
    """Let an earlier version serve again; what came after it is withdrawn.

    With a time, who was champion then. Promotion is paused until `resume`.
    """
    version = int(to) if to is not None and to.isdecimal() else None
    asked = {"to": version, "to_time": None if version is not None else to, "reason": reason}
    asked |= {"dry_run": dry_run}
    _tell(url, token, "/api/v1/rollout/rollback", asked)


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
