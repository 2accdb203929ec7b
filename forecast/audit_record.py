"""One record of the audit log: a line of JSON that names the hash before it and its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from forecast.canonical import canonical, plain, sha256
from forecast.errors import AuditError

FORMAT = 1
GENESIS = "0" * 64
"""What the first record names as the hash before it."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One line of the log."""

    sequence: int
    """1, 2, 3, ..."""
    kind: str
    """`register`, `promote`, `reject`, `rollback`, `alias`, or any other event's name."""
    slot: int
    """Event time of the decision."""
    who: str
    time_s: float
    """Wall clock, seconds since 1970; says when, decides nothing."""
    key: str | None
    """At most one record has a given key; a repeated call finds it and changes nothing."""
    detail: dict[str, Any]
    state: dict[str, Any] | None
    """The whole state after this record; None when it changed none."""
    previous: str
    hash: str

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in the file."""
        return {"format": FORMAT, **asdict(self)}


_NAMES = {"format", *(field.name for field in fields(AuditRecord))}


def line_of(
    *,
    sequence: int,
    kind: str,
    slot: int,
    who: str,
    time_s: float,
    key: str | None,
    detail: Mapping[str, Any],
    state: Mapping[str, Any] | None,
    previous: str,
) -> bytes:
    """The line of a new record, with its hash and its line end."""
    body = {
        "format": FORMAT,
        "sequence": sequence,
        "kind": kind,
        "slot": int(slot),
        "who": who,
        "time_s": float(time_s),
        "key": key,
        "detail": plain(detail),
        "state": None if state is None else plain(state),
        "previous": previous,
    }
    return canonical({**body, "hash": _hash(body)}) + b"\n"


def record_of(line: bytes, *, where: str) -> AuditRecord:
    """The record in a line; raises AuditError unless it is one of ours that hashes to what it says.

    `where` names file and place for the error.
    """
    try:
        found = json.loads(line)
    except ValueError as error:
        raise AuditError(f"{where}: not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        number = found.get("format") if isinstance(found, dict) else found
        raise AuditError(f"{where}: format {number!r}; this code reads {FORMAT}")
    body = {name: value for name, value in found.items() if name != "hash"}
    try:
        whole = found.keys() == _NAMES and found["hash"] == _hash(body)
        whole = whole and canonical(found) + b"\n" == line
    except ValueError:  # a NaN, which no record of ours holds
        whole = False
    if not whole:
        raise AuditError(f"{where}: the record was changed: its hash does not fit its content")
    del found["format"]
    return AuditRecord(**found)


def _hash(body: Mapping[str, Any]) -> str:
    return sha256(canonical(body))
