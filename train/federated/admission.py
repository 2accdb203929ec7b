"""What may go into the aggregate: every check of an update, before anything of it is added.

The thresholds are those of Thakkar et al. 2019 and TensorFlow Federated's robust aggregator (clip
at a quantile of the norms, refuse far beyond another), but never more than a multiple of the
median: a quarter of bad sites can move the 80 % quantile to where they like, only half of them the
median.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from train.federated.history import History
from train.federated.mean import norm_of
from train.federated.settings import AggregatorSettings
from train.federated.sites import KEPT, Sites
from train.federated.update import UpdateMeta, Verdict
from train.federated.usual import Usual

_CLIP_OVER_MEDIAN = 3.0
_OUTLIER_OVER_MEDIAN = 10.0

_STRIKES = {Verdict.MALFORMED, Verdict.NON_FINITE, Verdict.OUTLIER}
"""What no honest site sends time and again."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A good update: how much of it counts."""

    staleness: int
    samples: int
    """As many as it counts."""
    norm: float
    discount: float
    """By which its delta is multiplied: of staleness and clipping."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One that is not added, and why."""

    verdict: Verdict
    reason: str = ""
    norm: float = 0.0
    """Of an outlier."""
    again: bool = False
    """Whether it was judged before: a repeated call leaves no trace, and is no further offence."""


class Admission:
    """Judges updates, and keeps account of sites and of what is usual. `judge` changes nothing."""

    def __init__(
        self,
        *,
        size: int,
        schema_hash: str,
        settings: AggregatorSettings,
        allowed: Collection[str] | None,
    ) -> None:
        self.sites = Sites(settings.most_sites)
        self.norms, self.samples = Usual(), Usual()
        self._size, self._schema_hash, self._settings = size, schema_hash, settings
        self.allowed = None if allowed is None else frozenset(allowed)
        """Sites that may send and score; None: any may."""

    def judge(
        self, meta: UpdateMeta, delta: object, *, round: int, taken: int, history: History
    ) -> Admitted | Refused:
        """All checks, the cheap ones first; nothing that was sent makes it raise.

        `taken` updates of the site are in the open round.
        """
        refused = self._who(meta, round, taken) or self._what(meta, delta, history)
        if refused is not None or not isinstance(delta, np.ndarray):
            return refused or Refused(Verdict.MALFORMED, f"no array but {type(delta).__name__}")
        norm = norm_of(delta)
        if not math.isfinite(norm):
            return Refused(Verdict.NON_FINITE, f"the delta's norm is {norm}")
        if norm > (most := self.longest()):
            return Refused(Verdict.OUTLIER, f"norm {norm:.3g}, at most {most:.3g} is usual", norm)
        staleness = history.staleness(meta.base_version) or 0
        discount = float((1 + staleness) ** -self._settings.staleness_power)
        clip = self.clip()
        discount *= clip / norm if norm > clip else 1.0
        return Admitted(staleness, int(min(meta.samples, self.heaviest())), norm, discount)

    def accept(self, meta: UpdateMeta, admitted: Admitted) -> None:
        """Remember an update that was added."""
        self.sites.accept(meta.site, meta.sequence, base=meta.base_version)
        self.norms.add(admitted.norm)
        self.samples.add(meta.samples)

    def close(self) -> None:
        """The round ends: what its updates were like is usual now."""
        self.norms.close()
        self.samples.close()

    def end(self, round: int, history: History) -> None:
        """The same of a round that made a step; sites that were silent for long are forgotten."""
        self.close()
        silent, version = self._settings.forget_after, history.staleness
        self.sites.close(round, silent=silent, base=lambda base: version(base) is not None)

    def refuse(self, meta: UpdateMeta, refused: Refused, *, round: int) -> None:
        """Remember one that was not. An outlier's norm counts: what all send is usual in time."""
        if refused.verdict not in _STRIKES or refused.again or not self._speaks(meta):
            return
        known = None if meta.fault() else meta.sequence
        self.sites.strike(meta.site, known, refused.verdict, round)
        self.norms.add(refused.norm)

    def longest(self) -> float:
        """The norm beyond which an update is refused."""
        if not self._settings.outlier_factor:
            return math.inf
        usual = self.norms.quantile(self._settings.outlier_quantile)
        middle = self.norms.quantile(0.5)
        return min(self._settings.outlier_factor * usual, _OUTLIER_OVER_MEDIAN * middle)

    def clip(self) -> float:
        """The norm beyond which a delta is shortened."""
        if not self._settings.clip_quantile:
            return math.inf
        usual = self.norms.quantile(self._settings.clip_quantile)
        return min(usual, _CLIP_OVER_MEDIAN * self.norms.quantile(0.5))

    def heaviest(self) -> float:
        """The samples beyond which an update counts no more: a site says itself how many it has."""
        if not self._settings.samples_cap:
            return math.inf
        return max(1.0, self._settings.samples_cap * self.samples.quantile(0.5))

    def _speaks(self, meta: UpdateMeta) -> bool:
        """Whether an account may be kept under the name that the update gives."""
        site: Any = meta.site
        if not isinstance(site, str) or not 0 < len(site) <= 256:
            return False
        return (self.allowed is None or site in self.allowed) and self.sites.room(site)

    def _who(self, meta: UpdateMeta, round: int, taken: int) -> Refused | None:
        if fault := meta.fault():
            return Refused(Verdict.MALFORMED, fault)
        if self.allowed is not None and meta.site not in self.allowed:
            return Refused(Verdict.UNAUTHORISED, f"{meta.site!r} is no site of this federation")
        before = self.sites.verdict(meta.site, meta.sequence)
        if before is Verdict.ACCEPTED:
            reason = f"sequence {meta.sequence} was counted before"
            return Refused(Verdict.DUPLICATE, reason, again=True)
        if before is Verdict.STALE:
            return Refused(Verdict.STALE, f"sequence {meta.sequence} is older than the last {KEPT}")
        if before is not None:
            return Refused(before, f"sequence {meta.sequence} was refused before", again=True)
        if not self.sites.room(meta.site):
            return Refused(Verdict.LIMITED, f"{len(self.sites)} sites are known, no more are taken")
        if (until := self.sites.until(meta.site)) > round:
            return Refused(Verdict.QUARANTINED, f"heard again from round {until}, this is {round}")
        if taken >= self._settings.per_site:
            return Refused(Verdict.LIMITED, f"{taken} updates of the site are in round {round}")
        return None

    def _what(self, meta: UpdateMeta, delta: object, history: History) -> Refused | None:
        if meta.schema_hash != self._schema_hash:
            need, got = self._schema_hash[:12], meta.schema_hash[:12]
            return Refused(Verdict.MALFORMED, f"schema {got}, need {need}")
        if history.staleness(meta.base_version) is None:
            made = f"version {meta.base_version} is none of the accepted {history.accepted}"
            return Refused(Verdict.STALE, made)
        if not isinstance(delta, np.ndarray):
            return None
        if delta.dtype != np.float32 or delta.shape != (self._size,):
            got = f"got {delta.dtype} {delta.shape}, need float32 ({self._size},)"
            return Refused(Verdict.MALFORMED, got)
        return None
