"""The aggregator: offers of deltas in, rounds, and one global model out. Plain Python and numpy.

McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data";
asynchronous as Nguyen et al. 2022, "Federated learning with buffered asynchronous aggregation".
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from train.federated.admission import Admission, Refused
from train.federated.history import History
from train.federated.mean import norm_of
from train.federated.partial import Partial
from train.federated.partition import Layout, Scope
from train.federated.pool import Pool
from train.federated.report import Outcome, RoundReport
from train.federated.rounds import OpenRound
from train.federated.settings import AggregatorSettings
from train.federated.sites import Sites
from train.federated.update import Receipt, UpdateMeta, Verdict

FloatArray = NDArray[np.float32]

GLOBAL = "global"
"""The pool of what all sites share; `role/web` is what sites of role `web` do."""


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
        node: str = "root",
    ) -> None:
        """`start` [size] is the shared part of version `version`, every role's at first.

        `sites` may send updates; unset, any may. `node` names it in a tree. Raises ValueError for
        a vector that does not fit the layout.
        """
        if start.dtype != np.float32 or start.shape != (layout.size,):
            raise ValueError(f"start is {start.dtype} {start.shape}, need float32 {layout.size}")
        self.settings, self.schema_hash, self.node = settings, layout.schema_hash, node
        self._parts = {scope: layout.part(scope) for scope in (Scope.GLOBAL, Scope.ROLE)}
        self.admission = Admission(
            size=layout.size, schema_hash=layout.schema_hash, settings=settings, allowed=sites
        )
        self.nodes = Sites(settings.most_sites)
        """Whose partials were merged."""
        self.open = OpenRound()
        self.pools = {
            name: Pool(start[self._parts[scope]].copy(), settings)
            for name, scope in ((GLOBAL, Scope.GLOBAL), (_pool_of(""), Scope.ROLE))
        }
        self.history = History(version, most_staleness=settings.most_staleness)
        self.outgoing: Partial | None = None
        self.partials = 0
        self.last: RoundReport | None = None
        """Of the round before; a call that was lost on the way back finds it here."""
        self.epoch = 0
        """Rises whenever a vector or a moment changes."""

    @property
    def version(self) -> int:
        """The last accepted global version."""
        return self.history.last

    @property
    def round(self) -> int:
        """The round that is open."""
        return self.open.number

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that have a part of their own."""
        return tuple(name.removeprefix("role/") for name in self.pools if name != GLOBAL)

    def shared(self, role: str = "") -> FloatArray:
        """[size] what a site of this role begins from: the last accepted version."""
        return np.concatenate([self.pools[GLOBAL].vector, self._role(role).vector])

    def candidate(self, role: str = "") -> tuple[int, FloatArray] | None:
        """Number and vector [size] of the step that waits for its verdict, if one does."""
        if not self.history.pending:
            return None
        both = (self.pools[GLOBAL], self._role(role))
        found = [pool.vector if pool.proposed is None else pool.proposed[0] for pool in both]
        return self.history.given, np.concatenate(found)

    def offer(self, meta: UpdateMeta, delta: FloatArray) -> Receipt:
        """Take a site's delta [size] against the global version it names, or say why not.

        The array is only read, and not needed after the call.
        """
        number, taken = self.open.number, self.open.sites.get(meta.site, 0)
        judged = self.admission.judge(meta, delta, round=number, taken=taken, history=self.history)
        if not isinstance(judged, Refused) and not self._make_room(meta.role):
            judged = Refused(Verdict.LIMITED, f"{len(self.roles)} roles are known already")
        if isinstance(judged, Refused):
            if not judged.again:
                self.open.verdicts[judged.verdict.value] += 1
            self.admission.refuse(meta, judged, round=number)
            return Receipt(judged.verdict, judged.reason, number, self.version, again=judged.again)
        for name, scope in ((GLOBAL, Scope.GLOBAL), (_pool_of(meta.role), Scope.ROLE)):
            part = delta[self._parts[scope]]
            self.pools[name].collected.add(meta, part, judged, round=number)
        self.admission.accept(meta, judged)
        staleness, version = judged.staleness, self.version
        self.open.accept(meta.site, judged.samples, staleness=staleness, version=version)
        return Receipt(Verdict.ACCEPTED, "", number, version, staleness)

    def maybe_step(self, now_s: float) -> RoundReport | None:
        """End the round when it is due: a step, or a report that it is held; else None.

        A round of refusals, or with somebody in quarantine, is held at its deadline too: else that
        would never end. While a step waits for its verdict nothing is due; updates are collected.
        """
        settings, now = self.settings, self.open
        waited_for = now.updates or now.verdicts or self.admission.sites.quarantined(now.number)
        if self.history.pending or not waited_for:
            return None
        if now.since_s is None:
            now.since_s = now_s
        late = now_s >= now.since_s + settings.deadline_s
        enough = len(now.sites) >= settings.quorum
        if not late and (now.updates < settings.updates or not enough):
            return None
        if not enough:
            return self._hold(f"{len(now.sites)} of {settings.quorum} sites", now_s)
        if waits := self.pools[GLOBAL].collected.waits():
            return self._hold(waits, now_s) if late else None
        return self._step()

    def accept_step(self, version: int | None = None) -> None:
        """The candidate becomes the global version; nothing happens when it is that already.

        `version`, its number, makes a repeated call safe. Raises ValueError when no such candidate
        waits.
        """
        if self.history.accept(version):
            for pool in self.pools.values():
                pool.accept()
            self.epoch += 1

    def reject_step(self, version: int | None = None) -> None:
        """The candidate is dropped: weights and moments are those of the last accepted version.

        Its number is not used again. A repeated call with it does nothing; raises ValueError when
        no such candidate waits, or when it was accepted.
        """
        if self.history.reject(version):
            for pool in self.pools.values():
                pool.reject()
            self.epoch += 1

    def adopt(self, version: int, shared: Mapping[str, FloatArray]) -> None:
        """Go on from a version that another aggregator accepted: `shared` [size] by role.

        What a leaf of a tree does after each step of its root. Its moments begin anew. Raises
        ValueError for a version that is not later, or vectors that do not fit.
        """
        if version <= self.history.given:
            raise ValueError(f"version {version} is not after {self.history.given}")
        size = self._parts[Scope.ROLE].stop
        if "" not in shared or any(each.shape != (size,) for each in shared.values()):
            raise ValueError(f"need vectors [{size}], one for the role ''")
        for role, each in shared.items():
            pool = self.pools.setdefault(_pool_of(role), Pool(each, self.settings))
            pool.replace(each[self._parts[Scope.ROLE]])
        self.pools[GLOBAL].replace(shared[""][self._parts[Scope.GLOBAL]])
        self.history.adopt(version)
        self.epoch += 1

    def partial(self) -> Partial | None:
        """What was collected, for the aggregator above; None when nothing was.

        It is the same one until `confirm` says that it arrived, and what comes meanwhile is for
        the next.
        """
        if self.outgoing is None and self.open.updates:
            self.outgoing = Partial(
                node=self.node,
                sequence=self.partials,
                schema_hash=self.schema_hash,
                base_version=self.open.version,
                counts=self.open,
                norms=self.admission.norms.fresh,
                samples=self.admission.samples.fresh,
                pools={n: pool.hand_over() for n, pool in self.pools.items() if pool.collected},
            )
            self._close()
        return self.outgoing

    def confirm(self, sequence: int) -> None:
        """The partial of this number arrived above."""
        if self.outgoing is not None and self.outgoing.sequence == sequence:
            self.outgoing = None
            self.partials += 1

    def merge(self, partial: Partial) -> Receipt:
        """Take what a leaf collected; the same partial again changes nothing."""
        number, version = self.open.number, self.version
        if partial.schema_hash != self.schema_hash:
            reason = f"schema {partial.schema_hash[:12]}, need {self.schema_hash[:12]}"
            return Receipt(Verdict.MALFORMED, reason, number, version)
        if self.nodes.verdict(partial.node, partial.sequence) is not None:
            return Receipt(Verdict.DUPLICATE, "", number, version)
        staleness = self.history.staleness(partial.base_version)
        if staleness is None:
            reason = f"version {partial.base_version} is none of {self.history.accepted}"
            return Receipt(Verdict.STALE, reason, number, version)
        new = [name for name in partial.pools if name not in self.pools]
        if new and len(self.pools) + len(new) > self.settings.most_roles + 1:
            reason = f"{len(self.roles)} roles are known already, {len(new)} more came"
            return Receipt(Verdict.LIMITED, reason, number, version)
        for name in new:
            self._make_room(name.removeprefix("role/"))
        scale = float((1 + staleness) ** -self.settings.staleness_power)
        for name, collected in partial.pools.items():
            self.pools[name].collected.merge(collected, scale=scale)
        self.open.merge(partial.counts, version=version)
        self.admission.norms.merge(partial.norms)
        self.admission.samples.merge(partial.samples)
        self.nodes.accept(partial.node, partial.sequence)
        return Receipt(Verdict.ACCEPTED, "", number, version, staleness)

    def _step(self) -> RoundReport:
        """A proposal from every pool that has enough; they wait, or are accepted at once."""
        longest, waits, norms, cut = self._longest_step(), [], [], False
        for name, pool in self.pools.items():
            if not pool.collected:
                continue
            if reason := pool.collected.waits():
                waits.append(f"{name}: {reason}")
                continue
            norm, short = pool.propose(longest)
            norms.append(norm)
            cut |= short
        proposed = [pool.proposed[0] for pool in self.pools.values() if pool.proposed is not None]
        self.epoch += 1
        if not all(math.isfinite(norm_of(each)) for each in proposed):
            for pool in self.pools.values():
                pool.reject()
            self.last = self._report("held", "the step is not finite")
            self._close()
            return self.last
        length = math.sqrt(sum(norm**2 for norm in norms))
        number, reason = self.history.propose(), "; ".join(waits)
        self.last = self._report("stepped", reason, version=number, step_norm=length, capped=cut)
        self._close()
        if not self.settings.gated:
            self.accept_step()
        return self.last

    def _hold(self, reason: str, now_s: float) -> RoundReport:
        """Report that the round goes on under the next number; a quarantine counts rounds."""
        self.last = self._report("held", reason)
        if not self.open.updates and self.admission.norms.fresh.any():
            self.admission.close()  # what all send is usual in time, also when all was refused
        self.open = self.open.carried(now_s)
        return self.last

    def _report(
        self,
        outcome: Outcome,
        reason: str,
        *,
        version: int | None = None,
        step_norm: float = 0.0,
        capped: bool = False,
    ) -> RoundReport:
        return RoundReport.of(
            self.open,
            self.admission,
            outcome=outcome,
            reason=reason,
            version=self.version if version is None else version,
            base_version=self.version,
            step_norm=step_norm,
            capped=capped,
        )

    def _close(self) -> None:
        self.admission.end(self.open.number, self.history)
        self.open = self.open.next()

    def _longest_step(self) -> float:
        median = self.admission.norms.quantile(0.5, fresh=True)
        return self.settings.step_cap * median if self.settings.step_cap else math.inf

    def _role(self, role: str) -> Pool:
        return self.pools.get(_pool_of(role), self.pools[_pool_of("")])

    def _make_room(self, role: str) -> bool:
        """Whether the role has a pool, now at least; a new one begins where unknown roles are."""
        if _pool_of(role) in self.pools:
            return True
        if len(self.pools) > self.settings.most_roles:
            return False
        self.pools[_pool_of(role)] = Pool(self._role("").vector, self.settings)
        self.epoch += 1
        return True


def _pool_of(role: str) -> str:
    return f"role/{role}"
