"""Verdicts on updates, as the audit log holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from forecast.audit import AuditRecord

Judged = Literal["promoted", "accepted", "rejected"]
VERDICTS: Mapping[str, Judged] = {
    "accept": "accepted",
    "promote": "promoted",
    "reject": "rejected",
}
"""Kinds of audit records that hold one. `accepted`: on its way to everyone, by a rollout.

In the order in which an update's is looked up: one that was accepted is promoted by its rollout.
"""


def by_hand(record: AuditRecord) -> bool:
    """Whether it is a person's promotion, which the gate had no say in."""
    return record.kind == "promote" and "action" in record.detail


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """One verdict of the gate, as the audit log holds it."""

    sequence: int
    time_s: float
    slot: int
    verdict: Judged
    update_id: str | None
    version: int | None
    parent: int | None
    who: str
    reasons: tuple[str, ...]
    report: dict[str, Any]
    """The gate's report, empty when it gave none."""
    lineage: dict[str, Any]
    """What the version was trained from; empty when it was refused before it was registered."""

    @classmethod
    def of(cls, record: AuditRecord) -> Self:
        """The verdict in a record of one of these kinds."""
        detail = record.detail
        return cls(
            sequence=record.sequence,
            time_s=record.time_s,
            slot=record.slot,
            verdict=VERDICTS[record.kind],
            update_id=detail["update_id"],
            version=detail["version"],
            parent=detail["lineage"].get("parent"),
            who=record.who,
            reasons=tuple(detail["reasons"]),
            report=detail["report"],
            lineage=detail["lineage"],
        )
