"""The commands about what is kept: `fleetcast audit`, `backup`, `restore`."""

from __future__ import annotations

import base64
import getpass
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from connect.asking import client, client_options, exits, fail
from forecast import backup as backups
from forecast.audit import verify as verify_log
from forecast.audit_segments import Chain
from forecast.canonical import sha256
from forecast.config import Panel
from forecast.errors import AuditError, ConfigError, StateError
from forecast.evidence_files import EvidenceFiles
from forecast.restore import restore as restore_backup

_AUDIT = "/api/v1/audit"

_offline = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Read the files there instead of asking a running fleet.",
)
_panel = click.option(
    "--panel",
    default=Panel.model_fields["name"].default,
    show_default=True,
    help="With --state-dir: the panel whose files are read.",
)


@click.group()
def audit() -> None:
    """The audit log: who changed what, when and why."""


@audit.command()
@click.option("--kind", "kinds", multiple=True, help="Only records of this kind, or these.")
@click.option("--since", help="A time with an offset, or a duration back such as 24h.")
@click.option("--before", type=int, help="Records before this number: the next page.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@client_options
@exits
def show(url: str, token: str | None, **query: Any) -> None:
    """Records, newest first, each a line of JSON."""
    asked = {"kind": list(query.pop("kinds")), **query}
    with client(url, token) as asking:
        found = asking.get(_AUDIT, **{name: value for name, value in asked.items() if value})
    for record in found["records"]:
        click.echo(json.dumps(record))
    if (before := found["next_before"]) is not None:
        click.echo(f"more: --before {before}", err=True)


@audit.command()
@click.option("--head", help="The hash of a record, kept elsewhere, that must still be there.")
@_offline
@_panel
@client_options
@exits
def verify(
    head: str | None, state_dir: Path | None, panel: str, url: str, token: str | None
) -> None:
    """Check every record; exit code 1, and where, when one was changed, cut, added or moved.

    Prints the hash of the last one: kept elsewhere, it lets a log that was cut be found.
    """
    if state_dir is not None:
        check = verify_log(_audit_dir(state_dir, panel), head)
        click.echo(json.dumps({"records": check.records, "head": check.head}))
        return
    with client(url, token) as asking:
        found = asking.get(f"{_AUDIT}/verify", **({} if head is None else {"head": head}))
    click.echo(json.dumps(found))


@audit.command()
@click.argument("update_id")
@_offline
@_panel
@client_options
@exits
def reproduce(
    update_id: str, state_dir: Path | None, panel: str, url: str, token: str | None
) -> None:
    """Decide again, here, from the evidence of a verdict; exit code 1 when it is not the same."""
    from train.evidence import reproduce as decide_again

    if state_dir is not None:
        kind, detail, data = _kept(state_dir, panel, update_id)
    else:
        kind, detail, data = _asked(url, token, update_id)
    again = decide_again(kind, detail, data)
    told = {
        "update_id": update_id,
        "equal": not again.differs,
        "differs": again.differs,
        "promote": again.promote,
        "reasons": again.reasons,
    }
    click.echo(json.dumps(told))
    if again.differs:
        fail(f"{update_id}: decided otherwise now: {', '.join(again.differs)}", 1)


@click.command()
@click.argument("name")
@client_options
@exits
def backup(name: str, url: str, token: str | None) -> None:
    """Copy the running fleet, whole, into the folder NAME below its `backup.directory`."""
    with client(url, token) as asking:
        click.echo(json.dumps(asking.post("/api/v1/backups", {"name": name}, timeout_s=None)))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    required=True,
    help="The `state_dir` of the config that will read it.",
)
@click.option("--storage", type=click.Path(path_type=Path), help="Its `storage_path`, where set.")
@click.option("--dry-run", is_flag=True, help="Only check that the backup is whole.")
@exits
def restore(folder: Path, state_dir: Path, storage: Path | None, dry_run: bool) -> None:
    """Check a backup and make it the state of a fleet, in a place that has none."""
    if dry_run:
        manifest = backups.check(folder)
    else:
        manifest = restore_backup(
            folder,
            state_dir=state_dir,
            storage=storage,
            who=getpass.getuser(),
            now_s=time.time(),
        )
    click.echo(json.dumps({**backups.told(folder, manifest), "restored": not dry_run}))


def _audit_dir(state_dir: Path, panel: str) -> Path:
    """The log's folder; raises ConfigError where there is none."""
    folder = state_dir / panel / "audit"
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no audit log; is --panel the right one?")
    return folder


def _kept(state_dir: Path, panel: str, update_id: str) -> tuple[str, dict[str, Any], bytes]:
    """Kind and detail of the verdict on an update, and its evidence, from the files alone."""
    from train.evidence import evidence_of

    found = None
    for record in Chain(_audit_dir(state_dir, panel)):
        if record.detail.get("update_id") != update_id or "report" not in record.detail:
            continue
        # The end of its rollout, or a person, promoted it later, from no evidence.
        if found is None or "decided_from" in record.detail["report"]:
            found = record
    if found is None:
        raise AuditError(f"no verdict on {update_id!r} is on record")
    files = EvidenceFiles(state_dir / panel / "evidence", keep_slots=0)
    data = files.read(evidence_of(found.detail), slot=found.slot)
    return found.kind, found.detail, data


def _asked(url: str, token: str | None, update_id: str) -> tuple[str, dict[str, Any], bytes]:
    """The same from a running fleet; what it sent as evidence must be what is on record."""
    from train.evidence import evidence_of

    with client(url, token) as asking:
        found = asking.get(f"{_AUDIT}/decisions/{quote(update_id, safe='')}")
    record, data = found["record"], base64.b64decode(found["evidence"])
    if sha256(data) != evidence_of(record["detail"]):
        raise StateError(f"{update_id}: the evidence that came is not the one on record")
    return record["kind"], record["detail"], data


COMMANDS = (audit, backup, restore)
