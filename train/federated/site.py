"""A federated site: it learns at home from windows of its own, and sends what sites share.

    receive(global)  ──► learn(slot)  ──► update and delta of the shared parts  ──► aggregator
    score(candidate) ──► a few numbers ──► aggregator's verdict
    take(global)     ──► adapt(slot)  ──► what answers at home: global, personal, local

What is private (the layout says what: a correction of the output, or whole layers) is composed with
a global vector for as long as it is needed. A process may hold many sites, down to one a server:
they hold the same global vector in memory, and nothing of a network's size of their own.

What a slot asks for is done again with the same result, for nothing but the slot, the seed and what
the site holds decides it; an update's number is its slot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from forecast.errors import NothingNew, StateError
from forecast.fit import Fit
from forecast.model import Model, tied, with_weights
from forecast.packing import pack, unpack
from train.federated.frame import FloatArray, Frame, GlobalModel, SiteSettings, Source
from train.federated.update import UpdateMeta
from train.federated.verdict import SiteScore, score
from train.learner import Learner
from train.recipes import Recipe

if TYPE_CHECKING:
    from forecast.windows import RawWindows

Member = Literal["global", "personal", "local"]

_KIND = "federated-site"
_FORMAT = 1


class Site:
    """One participant. Plain Python and torch; not safe for several threads."""

    def __init__(
        self,
        name: str,
        frame: Frame,
        source: Source,
        *,
        start: Mapping[str, FloatArray],
        shared: Recipe,
        own: Recipe,
        settings: SiteSettings,
        threads: int = 1,
        servers: Sequence[str] | None = None,
        role: str = "",
        local: Model | None = None,
    ) -> None:
        """`start` has the private parameters as they begin; `local` is a model of the site's own.

        `shared` is the recipe of an update of the shared parts, `own` that of the correction; a
        site of a few servers of its source names them.
        """
        if own.moving == "full":
            raise ValueError("what is a site's own moves in part: last_layers or adapter")
        self.name, self.role = name, role
        self.local = local
        self.frame, self._source = frame, source
        self._private = {key: np.array(value, np.float32) for key, value in start.items()}
        self._shared, self._own, self._threads = shared, own, threads
        self._settings = settings
        self.servers = None if servers is None else tuple(servers)
        self._base: GlobalModel | None = None
        self._serving: GlobalModel | None = None
        self._correction: dict[str, FloatArray] = {}
        self._corrects: int | None = None

    @property
    def base(self) -> GlobalModel | None:
        """The last accepted global version: what the next update starts from."""
        return self._base

    @property
    def serving(self) -> GlobalModel | None:
        """The global version that answers here; an older one where the newest was worse."""
        return self._serving

    def take(self, accepted: GlobalModel, *, keep_previous: bool = False) -> None:
        """Begin the next update from an accepted version, and answer with it.

        With `keep_previous` what answers stays, where anything does. Raises ValueError for a vector
        of another layout, or one that is not finite.
        """
        self._refuse(accepted)
        self._base = accepted
        before = self._serving
        if before is None or not keep_previous:
            self._serving = accepted
            if before is None or not np.array_equal(before.vector, accepted.vector):
                # An aggregator that was restored may give a number to another vector.
                self._corrects = None

    def learn(self, as_of: int, *, seed: int, rate: float = 1.0) -> tuple[UpdateMeta, FloatArray]:
        """Learn from what was known at a slot: an update and its delta of the shared parts.

        `rate` scales the recipe's learning rate: the round says it. Private parts that the network
        itself has (an output layer) learn along and stay. Raises NothingNew without a window,
        TrainingError when the training does not stay finite, StateError before anything was taken.
        """
        base, settings = self._given(self._base), self._settings
        windows = self.windows(as_of, count=settings.windows, seed=seed)
        recipe = replace(self._shared, learning_rate=self._shared.learning_rate * rate)
        learner = Learner(recipe, threads=self._threads)
        learned = learner.update(self._composed(base), windows, seed=seed).model
        state, layout = learned.network.state_dict(), self.frame.layout
        categories = self.frame.categories
        after = layout.flatten(state, categories=categories, missing=base.vector)
        self._private = layout.private(state)
        meta = UpdateMeta(
            site=self.name,
            sequence=as_of,
            base_version=base.version,
            schema_hash=layout.schema_hash,
            samples=len(windows),
            role=self.role,
        )
        return meta, after - base.vector

    def adapt(self, as_of: int, *, seed: int) -> bool:
        """Fit the site's correction to the global version that answers here; whether it is kept.

        It is kept when it is no worse on the newest windows, of which it learned nothing; else the
        personal model is the global one. Raises as `learn`.
        """
        serving, settings = self._given(self._serving), self._settings
        windows = self.windows(as_of, count=settings.own_windows, seed=seed)
        plain = self._composed(serving)
        made = Learner(self._own, threads=self._threads).update(plain, windows, seed=seed).model
        found = self._compared(made, plain, as_of, serving.version, seed)
        kept = found.finite and found.change <= 0
        before = plain.weights()
        self._correction = {
            name: weight.numpy(force=True).copy()
            for name, weight in made.weights().items()
            if kept and (name not in before or not torch.equal(weight, before[name]))
        }
        self._corrects = serving.version
        return kept

    def windows(self, as_of: int, *, count: int, seed: int) -> RawWindows:
        """Windows of the site's own to learn from; raises NothingNew when there is none."""
        found = self._source.draw(
            as_of=as_of,
            hours=self._settings.hours,
            count=count,
            seed=seed,
            holdout_hours=self._settings.holdout_hours,
            only=self.servers,
        )
        if not len(found):
            raise NothingNew(f"site {self.name}: no training windows at slot {as_of}")
        return found

    def held_out(self, as_of: int) -> RawWindows:
        """The newest windows of the site's own, which are learned from later at the earliest."""
        return self._source.holdout(
            as_of=as_of,
            hours=self._settings.holdout_hours,
            every=self.frame.spec.window.horizon,
            only=self.servers,
        )

    def score(self, candidate: GlobalModel, as_of: int, *, seed: int) -> SiteScore:
        """How the candidate does here, next to what answers now; both with the private parts.

        Raises ValueError as `take`, StateError before anything was taken.
        """
        self._refuse(candidate, finite=False)
        now = self._composed(self._given(self._serving))
        return self._compared(self._composed(candidate), now, as_of, candidate.version, seed)

    def members(self) -> dict[Member, Model]:
        """What can answer at home: the global model, the site's own form of it, and a local one.

        Raises StateError before anything was taken.
        """
        serving = self._given(self._serving)
        found: dict[Member, Model] = {"global": self._composed(serving)}
        found["personal"] = self._corrected(serving)
        if self.local is not None:
            found["local"] = self.local
        return found

    def predict(self, model: Model, raw: RawWindows) -> FloatArray:
        """Quantiles [N, H, T, Q] in natural units for the targets of the schema."""
        return self._fit(model).predict(model, raw)

    def pack(self) -> bytes:
        """The private state, for the site's own disk; it travels nowhere."""
        versions = {"base": self._base, "serving": self._serving}
        header: dict[str, Any] = {
            "format": _FORMAT,
            "site": self.name,
            "schema_hash": self.frame.layout.schema_hash,
            "corrects": self._corrects,
            "versions": {name: each and each.version for name, each in versions.items()},
        }
        arrays = {f"private.{name}": array for name, array in self._private.items()}
        arrays |= {f"correction.{name}": array for name, array in self._correction.items()}
        arrays |= {f"vector.{name}": one.vector for name, one in versions.items() if one}
        return pack(_KIND, header, arrays)

    def restore(
        self, data: bytes, *, shared: Callable[[GlobalModel], GlobalModel] = lambda one: one
    ) -> None:
        """Go on from what `pack` wrote; raises StateError when it is damaged or another site's.

        `shared` gives what other sites of the process hold of an equal version.
        """
        header, arrays = unpack(_KIND, data)
        wanted = (_FORMAT, self.name, self.frame.layout.schema_hash)
        if (got := tuple(header.get(key) for key in ("format", "site", "schema_hash"))) != wanted:
            raise StateError(f"the state is of {got}, need {wanted}")

        def under(prefix: str) -> dict[str, FloatArray]:
            found = {key: array for key, array in arrays.items() if key.startswith(prefix)}
            return {key.removeprefix(prefix): array.copy() for key, array in found.items()}

        vectors, versions = under("vector."), header["versions"]
        made = {
            name: shared(GlobalModel(versions[name], vector)) for name, vector in vectors.items()
        }
        self._base, self._serving = made.get("base"), made.get("serving")
        if self._base and self._serving and self._base.version == self._serving.version:
            self._serving = self._base
        self._private, self._correction = under("private."), under("correction.")
        self._corrects = header["corrects"]

    def _given(self, taken: GlobalModel | None) -> GlobalModel:
        if taken is None:
            raise StateError(f"site {self.name} has no global model yet: it must take one first")
        return taken

    def _refuse(self, given: GlobalModel, *, finite: bool = True) -> None:
        size = self.frame.layout.size
        if given.vector.shape != (size,) or given.vector.dtype != np.float32:
            got = f"{given.vector.dtype} {given.vector.shape}"
            raise ValueError(f"version {given.version} is {got}, need float32 ({size},)")
        if finite and not np.isfinite(given.vector).all():
            raise ValueError(f"version {given.version} is not finite")

    def _composed(self, given: GlobalModel) -> Model:
        """The whole network, for as long as it is needed; without the correction."""
        layout, categories = self.frame.layout, self.frame.categories
        state = layout.compose(given.vector, self._private, categories=categories)
        weights = {name: torch.from_numpy(array) for name, array in state.items()}
        spec = self.frame.spec
        return Model(spec, with_weights(spec, tied(spec, weights)))

    def _corrected(self, serving: GlobalModel) -> Model:
        """The same with the correction, where it was fitted to this very version."""
        made = self._composed(serving)
        if not self._correction or self._corrects != serving.version:
            return made
        weights = {name: torch.from_numpy(a.copy()) for name, a in self._correction.items()}
        of_adapter = {
            name.removeprefix("adapter."): weights.pop(name)
            for name in list(weights)
            if name.startswith("adapter.")
        }
        if of_adapter:
            made.adapter = made.fresh_adapter()
            made.adapter.load_state_dict(of_adapter)
        made.network.load_state_dict({**made.network.state_dict(), **weights})
        return made

    def _compared(
        self, candidate: Model, current: Model, as_of: int, version: int, seed: int
    ) -> SiteScore:
        """Two models on the held-out windows up to a slot."""
        holdout = self.held_out(as_of)
        return score(
            self.name,
            version,
            holdout,
            targets=self.frame.schema.targets,
            levels=self.frame.spec.quantiles,
            candidate=self.predict(candidate, holdout),
            current=self.predict(current, holdout),
            seed=seed,
        )

    def _fit(self, model: Model) -> Fit:
        window = self.frame.spec.window
        return Fit.of(
            model.spec,
            self.frame.schema,
            context=window.context,
            horizon=window.horizon,
            levels=self.frame.spec.quantiles,
        )
