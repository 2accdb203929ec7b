"""The round that is open: who sent what so far, and since when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from train.federated.update import Verdict


@dataclass(slots=True)
class OpenRound:
    """Counts of one round."""

    number: int = 0
    since_s: float | None = None
    """When its deadline began to run."""
    updates: int = 0
    """That were accepted."""
    samples: int = 0
    stalest: int = 0
    version: int = 0
    """That was accepted when the first update came."""
    sites: Counter[str] = field(default_factory=Counter)
    """Accepted updates by site."""
    verdicts: Counter[str] = field(default_factory=Counter)
    """All offers by verdict."""

    def accept(self, site: str, samples: int, *, staleness: int, version: int) -> None:
        """Count an update that was added."""
        self._first(version)
        self.updates += 1
        self.samples += samples
        self.stalest = max(self.stalest, staleness)
        self.sites[site] += 1
        self.verdicts[Verdict.ACCEPTED.value] += 1

    def merge(self, other: OpenRound, *, version: int) -> None:
        """Count what a leaf of the tree counted; `version` is the one that is accepted here."""
        self._first(version)
        self.updates += other.updates
        self.samples += other.samples
        self.stalest = max(self.stalest, other.stalest)
        self.sites += other.sites
        self.verdicts += other.verdicts

    def _first(self, version: int) -> None:
        """Before something is added: the round's deadline runs from its first update on."""
        if not self.updates:
            self.version, self.since_s = version, None

    def next(self) -> OpenRound:
        """The round after this one."""
        return OpenRound(self.number + 1)

    def carried(self, now_s: float) -> OpenRound:
        """The round after this one when nothing was merged: what was accepted goes on with it."""
        return replace(self, number=self.number + 1, since_s=now_s, verdicts=Counter())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "sites": dict(self.sites), "verdicts": dict(self.verdicts)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        counts = {name: Counter(data[name]) for name in ("sites", "verdicts")}
        return cls(**{**data, **counts})
