"""A federation at its centre: the aggregator, its book of rounds, and the sites' verdicts.

Nothing runs by itself: whoever asks or sends something turns the round when it is due.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from train.federated.aggregator import Aggregator
from train.federated.book import RoundBook
from train.federated.compression import Codec, Encoded, decode
from train.federated.frame import FloatArray
from train.federated.update import Receipt, UpdateMeta, Verdict
from train.federated.verdict import SiteScore, VerdictRules, decide

_FLOOR = 0.1
_MOST_NAMED = 100
"""Sites that are named of a version."""
CODECS = get_args(Codec)


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationRules:
    """What the centre tells the sites, and how their scores decide."""

    verdict: VerdictRules
    score_deadline_s: float = 600.0
    decay_rounds: int = 0
    """Versions over which the sites' rate falls to a tenth; 0: it stays."""
    codec: Codec = "float32"
    keep_rounds: int = 200


class Federation:
    """Plain Python. Not safe for several threads."""

    def __init__(
        self, aggregator: Aggregator, rules: FederationRules, book: RoundBook, *, now_s: float
    ) -> None:
        """`book` goes with the aggregator's state: what a crash left between the two is mended.

        The book is written first. So a decision that it holds is carried out now, and a step that
        only it knows was lost, and will be made again.
        """
        self.aggregator, self.rules, self.book = aggregator, rules, book
        self._size = aggregator.shared().size
        self._digests: dict[int, str] = {}
        waits = aggregator.history.given if aggregator.history.pending else None
        if book.pending is not None and book.pending.version != waits:
            book.lost()
        if waits is None:
            return
        found = book.of_version(waits)
        if found is not None and found["decision"] is not None:
            self._carry_out(found)
        elif book.pending is None and aggregator.last is not None:
            book.ended(aggregator.last, now_s, gated=True)

    def current(self, site: str) -> dict[str, Any]:
        """What a site needs to know now, as plain JSON values."""
        one, pending = self.aggregator, self.book.pending
        candidate = None if pending is None else pending.version
        made = self.book.of_version(one.version) or {}
        return {
            "round": one.round,
            "version": one.version,
            "schema_hash": one.schema_hash,
            "codec": self.rules.codec,
            "rate": self.rate(one.version),
            "digest": self._digest(one.version),
            "candidate": candidate,
            "candidate_digest": None if candidate is None else self._digest(candidate),
            # Of who may not score nothing is waited for.
            "scored": pending is not None and (site in pending.scores or not self._may_score(site)),
            "sent": one.open.sites.get(site, 0),
            "keep_previous": self.book.keeps_previous(site, one.version),
            "quarantined": one.admission.sites.until(site) > one.round,
            # Which round and whose updates made the version, as long as the book knows it.
            "made_in": made.get("round"),
            "made_of": made.get("sites", [])[:_MOST_NAMED],
        }

    def rate(self, version: int) -> float:
        """Of the sites' recipe, for updates of a version: along half a cosine."""
        over = self.rules.decay_rounds
        if not over:
            return 1.0
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, version / over)))
        return _FLOOR + (1 - _FLOOR) * fall

    def offer(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Receipt:
        """Take an update as it came: its meta data, its codec, the arrays of that."""
        receipt = self._offered(header, arrays)
        self.book.received(receipt)
        return receipt

    def model(self, version: int, role: str = "") -> FloatArray | None:
        """[size] the last accepted version, or the candidate; None for any other."""
        if version == self.aggregator.version:
            return self.aggregator.shared(role)
        found = self.aggregator.candidate(role)
        return found[1] if found is not None and found[0] == version else None

    def _digest(self, version: int) -> str | None:
        """Short, of a version's vector: one that is restored gives the same numbers to others.

        Here a number is used once, so it is computed once.
        """
        if version not in self._digests and (vector := self.model(version)) is not None:
            newest = list(self._digests.items())[-1:]
            made = hashlib.sha256(vector.tobytes()).hexdigest()[:16]
            self._digests = {**dict(newest), version: made}
        return self._digests.get(version)

    def score(self, told: SiteScore) -> bool:
        """Take a site's score of the candidate; whether it was new.

        Of a site that is not of this federation nothing is kept: any name could speak.
        """
        return self._may_score(told.site) and self.book.scored(told)

    def turn(self, now_s: float) -> bool:
        """Decide on a candidate and end a round where that is due; whether anything changed."""
        changed, pending = False, self.book.pending
        if pending is not None:
            late = now_s >= pending.since_s + self.rules.score_deadline_s
            if late or set(pending.sites) <= set(pending.scores):
                scores = list(pending.scores.values())
                decision = decide(scores, self.rules.verdict, version=pending.version)
                self._carry_out(self.book.decided(decision))
                changed = True
        report = self.aggregator.maybe_step(now_s) if self.book.pending is None else None
        if report is not None:
            self.book.ended(report, now_s, gated=self.aggregator.settings.gated)
            changed = True
        return changed

    def numbers(self) -> dict[str, Any]:
        """For telemetry; every label is one of a few."""
        one, last = self.aggregator, self.aggregator.last
        return {
            "version": one.version,
            "round": one.round,
            "updates": one.open.updates,
            "participants": 0 if last is None else len(last.sites),
            "median_norm": 0.0 if last is None else last.median_norm,
            "step_norm": 0.0 if last is None else last.step_norm,
            "staleness": 0 if last is None else last.most_staleness,
            "quarantined": len(one.admission.sites.quarantined(one.round)),
            "rounds": dict(self.book.outcomes),
            "verdicts": dict(self.book.verdicts),
        }

    def _may_score(self, site: str) -> bool:
        """Whether it is named; where none are, whether a good update of it is known."""
        pending = self.book.pending
        if pending is None:
            return False
        admission = self.aggregator.admission
        if admission.allowed is not None:
            return site in admission.allowed
        return site in pending.sites or admission.sites.heard(site)

    def _offered(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Receipt:
        one, meta = self.aggregator, _meta_of(header)
        if isinstance(meta, str):
            return Receipt(Verdict.MALFORMED, meta, one.round, one.version)
        codec = header.get("codec", "float32")
        if codec not in CODECS:
            return Receipt(Verdict.MALFORMED, f"codec {codec!r:.80}", one.round, one.version)
        try:
            delta = decode(Encoded(codec, arrays), self._size)
        except ValueError:
            # The aggregator says what is wrong, and remembers who sent it.
            delta = np.zeros(0, np.float32)
        return one.offer(meta, delta)

    def _carry_out(self, found: Mapping[str, Any]) -> None:
        if found["decision"]["accept"]:
            self.aggregator.accept_step(found["version"])
        else:
            self.aggregator.reject_step(found["version"])


def _meta_of(header: Mapping[str, Any]) -> UpdateMeta | str:
    """The meta data, or what is wrong with it."""
    wanted = set(UpdateMeta.__dataclass_fields__)
    given = {name: value for name, value in header.items() if name != "codec"}
    if unknown := sorted(set(given) - wanted):
        return f"unknown field {unknown[0]!r:.80}"
    if missing := sorted(wanted - {"role"} - set(given)):
        return f"no {missing[0]}"
    return UpdateMeta(**given)
