"""What a site sends with a delta, and what the aggregator says of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

MOST_SAMPLES = 10**9
"""No update speaks for more windows: a weight of 1e12 would be the whole round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateMeta:
    """Whose delta it is, what it was made from, and what it counts."""

    site: str
    sequence: int
    """Rises with every update of the site, from 0; the same number again is the same update."""
    base_version: int
    """The global version that the site began from."""
    schema_hash: str
    """Of the layout of the flat vector: see `Layout.schema_hash`."""
    samples: int
    """Windows that were learned from: the update's weight in a mean."""
    role: str = ""
    """What its servers are for: whom its role part is merged with. "": several, or unknown."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def fault(self) -> str:
        """What is wrong with these values by themselves; "" when nothing is.

        A message from outside may hold anything: the answer is a verdict, never an exception.
        """
        names: dict[str, Any] = {
            "site": self.site,
            "schema_hash": self.schema_hash,
            "role": self.role,
        }
        for name, text in names.items():
            if not isinstance(text, str) or len(text) > 256:
                return f"{name} is no string of at most 256 characters"
        numbers: dict[str, Any] = {"sequence": self.sequence, "base_version": self.base_version}
        for name, number in {**numbers, "samples": self.samples}.items():
            if isinstance(number, bool) or not isinstance(number, int):
                return f"{name} {number!r} is no integer"
        if not self.site:
            return "the site has no name"
        if not 0 <= self.sequence < 2**63 or not 0 <= self.base_version < 2**63:
            return f"sequence {self.sequence} and base_version {self.base_version} start at 0"
        if not 0 < self.samples <= MOST_SAMPLES:
            return f"samples {self.samples} is not in 1 to {MOST_SAMPLES}"
        return ""


class Verdict(StrEnum):
    """What became of an update."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """It was counted before; nothing changed."""
    STALE = "stale"
    """Made from a version too long ago, or from one that is not accepted."""
    MALFORMED = "malformed"
    """Not of the schema, the shape or the kind that is merged here."""
    NON_FINITE = "non_finite"
    OUTLIER = "outlier"
    """Far larger than what sites send."""
    LIMITED = "limited"
    """The site, or the sites, sent as much as is taken; it may come again in a later round."""
    UNAUTHORISED = "unauthorised"
    """Not a site of this federation."""
    QUARANTINED = "quarantined"
    """The site sent bad updates; this one was not looked at."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to an update."""

    verdict: Verdict
    reason: str
    """In words and numbers; "" when there is nothing to say."""
    round: int
    """The round that was open."""
    version: int
    """The global version now: what the site should begin its next update from."""
    staleness: int = 0
    """Accepted global versions since the one it was made from."""
    again: bool = False
    """Whether it was judged before: there is nothing new to remember."""
    durable: bool = False
    """Whether it survives the aggregator: else the site keeps the update and offers it again."""

    @property
    def counted(self) -> bool:
        """Whether the update is in the aggregate, by this call or an earlier one."""
        return self.verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE)
