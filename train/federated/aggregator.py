"""The aggregator: offers of deltas in, rounds, and one global model out. Plain Python and numpy.

McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data";
asynchronous as Nguyen et al. 2022, "Federated learning with buffered asynchronous aggregation".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from train.federated.partition import Layout, Scope
from train.federated.report import Outcome, RoundReport
from train.federated.settings import AggregatorSettings
from train.federated.update import Receipt, UpdateMeta, Verdict

FloatArray = NDArray[np.float32]


class Aggregator:
    """Merges what sites send; never raises for what one of them sent.

    The shared part of the model is a flat vector [size] of `layout`: the global part, the same for
    all, and a role part, one for each role. Not safe for several threads.
    """

    def __init__(
        self,
        layout: Layout,
        start: FloatArray,
        *,
        settings: AggregatorSettings,
        version: int = 0,
        sites: Collection[str] | None = None,
    ) -> None:
        """`start` [size] is the shared part of version `version`, every role's at first.

        `sites` may send updates; unset, any may.
        """
        self._layout, self._settings = layout, settings
        self._global, self._role = layout.part(Scope.GLOBAL), layout.part(Scope.ROLE)
        self._allowed = None if sites is None else frozenset(sites)
        self._version, self._next, self._round = version, version + 1, 0
        self._history = [version]
        self._vectors = {"": start.copy()}
        self._candidate: dict[str, FloatArray] | None = None
        self._seen: set[tuple[str, int]] = set()
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._mass: Counter[str] = Counter()
        self._sites: set[str] = set()
        self._verdicts: Counter[Verdict] = Counter()
        self._since: float | None = None
        self._stalest = 0

    @property
    def version(self) -> int:
        """The last accepted global version."""
        return self._version

    @property
    def round(self) -> int:
        """The round that is open."""
        return self._round

    def shared(self, role: str = "") -> FloatArray:
        """[size] what a site of this role begins from: the last accepted version."""
        return self._vectors.get(role, self._vectors[""]).copy()

    def candidate(self, role: str = "") -> tuple[int, FloatArray] | None:
        """Number and vector [size] of the step that waits for its verdict, if one does."""
        if self._candidate is None:
            return None
        return self._next - 1, self._candidate.get(role, self._candidate[""]).copy()

    def offer(self, meta: UpdateMeta, delta: FloatArray) -> Receipt:
        """Take a site's delta [size] against the global version it names, or say why not.

        The array is only read, and not needed after the call.
        """
        verdict, reason, staleness = self._judge(meta, delta)
        self._verdicts[verdict] += 1
        if verdict is Verdict.ACCEPTED:
            self._seen.add((meta.site, meta.sequence))
            weight = meta.samples * (1 + staleness) ** -self._settings.staleness_power
            roles = {"", meta.role}
            for role in roles:
                total = self._sums.setdefault(role, np.zeros(self._layout.size, np.float64))
                part = slice(None) if role == meta.role else self._global
                total[part] += weight * delta[part].astype(np.float64)
            self._mass["global"] += meta.samples
            self._mass[f"role/{meta.role}"] += meta.samples
            self._sites.add(meta.site)
            self._stalest = max(self._stalest, staleness)
        return Receipt(verdict, reason, self._round, self._version, staleness)

    def maybe_step(self, now_s: float) -> RoundReport | None:
        """End the round when it is due: a step, or a report that it is held; else None."""
        count = self._verdicts[Verdict.ACCEPTED]
        if self._since is None and count:
            self._since = now_s
        if self._candidate is not None or self._since is None:
            return None
        late = now_s >= self._since + self._settings.deadline_s
        enough = len(self._sites) >= self._settings.quorum
        if not enough or (count < self._settings.updates and not late):
            return self._report("held", f"{len(self._sites)} sites") if late else None
        samples = self._mass["global"]
        step = np.zeros(self._layout.size, np.float64)
        self._candidate = {}
        for role in {*self._vectors, *self._sums}:
            base = self._vectors.get(role, self._vectors[""])
            step[:] = 0
            if self._global.stop:
                merged = sum(total[self._global] for total in self._sums.values())
                step[self._global] = merged / samples
            if mass := self._mass[f"role/{role}"]:
                step[self._role] = self._sums[role][self._role] / mass
            moved = base + self._settings.learning_rate * step
            self._candidate[role] = moved.astype(np.float32)
        self._next += 1
        report = self._report("stepped", "")
        self._close()
        if not self._settings.gated:
            self.accept_step()
        return report

    def accept_step(self) -> None:
        """The candidate becomes the global version; raises ValueError when there is none."""
        if self._candidate is None:
            raise ValueError("no step waits for a verdict")
        self._vectors, self._candidate = self._candidate, None
        self._version = self._next - 1
        self._history = [*self._history, self._version][-self._settings.most_staleness - 1 :]

    def reject_step(self) -> None:
        """The candidate is dropped: weights and moments are those of the last accepted version."""
        if self._candidate is None:
            raise ValueError("no step waits for a verdict")
        self._candidate = None

    def _judge(self, meta: UpdateMeta, delta: FloatArray) -> tuple[Verdict, str, int]:
        if fault := meta.fault():
            return Verdict.MALFORMED, fault, 0
        if self._allowed is not None and meta.site not in self._allowed:
            return Verdict.UNAUTHORISED, f"{meta.site!r} is no site of this federation", 0
        if (meta.site, meta.sequence) in self._seen:
            return Verdict.DUPLICATE, "", 0
        if meta.schema_hash != self._layout.schema_hash:
            return Verdict.MALFORMED, f"schema {meta.schema_hash[:12]} is not merged here", 0
        if meta.base_version not in self._history:
            return Verdict.STALE, f"version {meta.base_version} is none of {self._history}", 0
        if delta.dtype != np.float32 or delta.shape != (self._layout.size,):
            got = f"{delta.dtype} {delta.shape}"
            return Verdict.MALFORMED, f"got {got}, need float32 ({self._layout.size},)", 0
        if not math.isfinite(float(np.linalg.norm(delta))):
            return Verdict.NON_FINITE, "the delta is not finite", 0
        places = len(self._history) - 1 - self._history.index(meta.base_version)
        return Verdict.ACCEPTED, "", places

    def _report(self, outcome: Outcome, reason: str) -> RoundReport:
        return RoundReport(
            round=self._round,
            outcome=outcome,
            reason=reason,
            version=self._next - 1 if outcome == "stepped" else self._version,
            base_version=self._version,
            sites=tuple(sorted(self._sites)),
            updates=self._verdicts[Verdict.ACCEPTED],
            samples=self._mass["global"],
            verdicts={str(name): count for name, count in sorted(self._verdicts.items())},
            median_norm=0.0,
            most_staleness=self._stalest,
            step_norm=0.0,
            capped=False,
        )

    def _close(self) -> None:
        self._sums, self._mass = {}, Counter()
        self._sites, self._verdicts = set(), Counter()
        self._since, self._stalest = None, 0
        self._round += 1
