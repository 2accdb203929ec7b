"""The book of a federation's rounds: what became of each, and what sites said of a candidate.

    [round 7: a step] ──► pending: scores of sites ──► decided: accepted or rejected ──► noted

A decision is in the book before anything follows from it; after a crash it is carried out again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from forecast.errors import StateError
from train.federated.report import RoundReport
from train.federated.update import Receipt
from train.federated.verdict import GlobalDecision, SiteScore

FORMAT = 1


@dataclass(slots=True)
class Pending:
    """A step that waits for its verdict."""

    version: int
    since_s: float
    """Wall clock."""
    sites: tuple[str, ...]
    """Who took part: they are waited for."""
    scores: dict[str, SiteScore] = field(default_factory=dict)


class RoundBook:
    """Plain Python; the newest `keep` rounds."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self.rounds: list[dict[str, Any]] = []
        """Oldest first: a report, and of a step its decision and whether it was noted."""
        self.pending: Pending | None = None
        self.verdicts: Counter[str] = Counter()
        """Receipts by verdict, for ever."""
        self.outcomes: Counter[str] = Counter()
        """Rounds by what became of them, for ever."""

    def received(self, receipt: Receipt) -> None:
        """Count an answer to an update."""
        self.verdicts[receipt.verdict.value] += 1

    def ended(self, report: RoundReport, now_s: float, *, gated: bool) -> None:
        """A round ended; the same one again, after a crash, takes the place of the first."""
        if self.rounds and self.rounds[-1]["round"] == report.round:
            self.outcomes[self.rounds.pop()["outcome"]] -= 1
        waits = gated and report.outcome == "stepped"
        made = {**report.to_json(), "decision": None, "noted": report.outcome != "stepped"}
        self.rounds = [*self.rounds, made][-self._keep :]
        self.outcomes[report.outcome] += 1
        self.pending = Pending(report.version, now_s, report.sites) if waits else None

    def scored(self, score: SiteScore) -> bool:
        """A site's score of the candidate; its first one counts. Whether it was new."""
        if self.pending is None or score.version != self.pending.version:
            return False
        if score.site in self.pending.scores:
            return False
        self.pending.scores[score.site] = score
        return True

    def lost(self) -> None:
        """The pending step is not in the aggregator's state: it will be made again."""
        if self.rounds and self.pending is not None:
            last = self.rounds[-1]
            if last["version"] == self.pending.version and last["decision"] is None:
                self.outcomes[self.rounds.pop()["outcome"]] -= 1
        self.pending = None

    def decided(self, decision: GlobalDecision) -> dict[str, Any]:
        """What becomes of the pending candidate; its round, with the decision."""
        assert self.pending is not None
        found = self.of_version(self.pending.version)
        assert found is not None, self.pending.version
        scores = [each.to_json() for _, each in sorted(self.pending.scores.items())]
        found["decision"] = {**decision.to_json(), "scores": scores}
        self.outcomes["accepted" if decision.accept else "rejected"] += 1
        self.pending = None
        return found

    def of_version(self, version: int) -> dict[str, Any] | None:
        """The round that made a version or candidate."""
        steps = (each for each in reversed(self.rounds) if each["outcome"] == "stepped")
        return next((each for each in steps if each["version"] == version), None)

    def unnoted(self) -> list[dict[str, Any]]:
        """Steps whose fate is known and not yet in the audit log."""
        waits = None if self.pending is None else self.pending.version
        return [each for each in self.rounds if not each["noted"] and each["version"] != waits]

    def keeps_previous(self, site: str, version: int) -> bool:
        """Whether a site goes on with what it had when this version was accepted."""
        found = self.of_version(version)
        decision = None if found is None else found["decision"]
        return decision is not None and site in list(decision["keep_previous"])

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        pending = None
        if self.pending is not None:
            scores = [each.to_json() for each in self.pending.scores.values()]
            pending = {
                "version": self.pending.version,
                "since_s": self.pending.since_s,
                "sites": list(self.pending.sites),
                "scores": scores,
            }
        return {
            "format": FORMAT,
            "rounds": self.rounds,
            "pending": pending,
            "verdicts": dict(self.verdicts),
            "outcomes": dict(self.outcomes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, keep: int) -> Self:
        """What `to_json` wrote; raises StateError for another format."""
        if data.get("format") != FORMAT:
            raise StateError(f"the book of rounds has format {data.get('format')}, need {FORMAT}")
        made = cls(keep)
        made.rounds = list(data["rounds"])[-keep:]
        made.verdicts, made.outcomes = Counter(data["verdicts"]), Counter(data["outcomes"])
        if (pending := data["pending"]) is not None:
            scores = [SiteScore.from_json(each) for each in pending["scores"]]
            made.pending = Pending(
                pending["version"],
                pending["since_s"],
                tuple(pending["sites"]),
                {each.site: each for each in scores},
            )
        return made
