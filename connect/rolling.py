"""The commands about rollouts: who answers for whom, what is on its way, and how to change it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec

import click

from connect.asking import client, client_options, exits
from forecast.errors import ConfigError

P = ParamSpec("P")

_PATH = "/api/v1/rollout"


def _change(command: Callable[P, None]) -> Callable[P, None]:
    """The options of a change."""
    for option in (
        click.option("--if-match", help="The tag that you saw; else what stands now."),
        click.option("--dry-run", is_flag=True, help="Tell what it would do, and do nothing."),
        click.option("--reason", required=True, help="For the audit log."),
    ):
        command = option(command)
    return client_options(command)


@click.command()
@click.option("--set", "table", type=click.Path(path_type=Path), help="A table, as JSON.")
@click.option("--reason", help="For the audit log; needed with --set.")
@click.option("--dry-run", is_flag=True, help="With --set: tell what it would do.")
@click.option("--if-match", help="With --set: the tag that you saw; else what stands now.")
@client_options
@exits
def rollout(
    table: Path | None,
    reason: str | None,
    dry_run: bool,
    if_match: str | None,
    url: str,
    token: str | None,
) -> None:
    """Who answers for which servers, and what is on its way; or let a table of yours stand.

    The file holds what PUT /api/v1/rollout takes: {"everyone": {"3": 1}, "cohorts": [{"name": "b",
    "servers": 0.5, "versions": {"4": 1}}]}.
    """
    if table is None:
        with client(url, token) as asking:
            click.echo(json.dumps(asking.get(_PATH), indent=2))
        return
    if not reason:
        raise ConfigError("--set needs a --reason")
    asked = {**_read(table), "reason": reason, "dry_run": dry_run}
    _tell(url, token, "", asked, if_match, method="PUT")


@click.command()
@click.argument("version", type=int)
@_change
@exits
def promote(version: int, **asked: Any) -> None:  # noqa: ANN401 - click's options
    """Let a version that the gate let pass be champion now, whatever is left of its way."""
    _told("promote", {"version": version}, **asked)


@click.command()
@click.argument("version", type=int)
@click.option("--off", is_flag=True, help="Keep it no longer.")
@_change
@exits
def pin(version: int, off: bool, **asked: Any) -> None:  # noqa: ANN401
    """Keep a version's files, whatever retention says."""
    _told("pin", {"version": version, "keep": not off}, **asked)


@click.command()
@click.argument("version", type=int)
@click.option("--off", is_flag=True, help="Compute it no longer.")
@_change
@exits
def shadow(version: int, off: bool, **asked: Any) -> None:  # noqa: ANN401
    """Compute and score a version beside the others; it answers nobody."""
    _told("shadow", {"version": version, "keep": not off}, **asked)


@click.command()
@click.argument("version", type=int)
@_change
@exits
def retire(version: int, **asked: Any) -> None:  # noqa: ANN401
    """Let a version answer nowhere any more, not even as a way out."""
    _told("retire", {"version": version}, **asked)


def _told(
    action: str,
    what: Mapping[str, Any],
    *,
    reason: str,
    dry_run: bool,
    if_match: str | None,
    url: str,
    token: str | None,
) -> None:
    asked = {**what, "reason": reason, "dry_run": dry_run}
    _tell(url, token, f"/{action}", asked, if_match)


def _tell(
    url: str,
    token: str | None,
    path: str,
    asked: Mapping[str, Any],
    tag: str | None,
    *,
    method: str = "POST",
) -> None:
    with client(url, token) as asking:
        seen = tag or asking.get(_PATH)["tag"]
        answer = asking.change(method, f"{_PATH}{path}", asked, if_match=seen)
        click.echo(json.dumps(answer))


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return found


COMMANDS = (rollout, promote, pin, shadow, retire)
