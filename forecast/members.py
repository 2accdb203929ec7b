"""The members of the ensemble that are loaded here, and what each one forecasts.

A new version is loaded beside the one that serves, proved by its probe, and only then swapped in:
a version that cannot be loaded leaves the last good one serving.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from forecast import baselines, least_squares, quantile_network
from forecast.artifact import Artifact, unpack
from forecast.climatology import climatology
from forecast.derived import Limits
from forecast.errors import UnknownVersion
from forecast.fit import Fit
from forecast.raw_windows import AT_A_TIME, RawWindows
from forecast.record import CHAMPION, TWIN, ForecastBlock
from forecast.twin import twin_servers
from forecast.windows import Windows, transform

if TYPE_CHECKING:
    from forecast.baselines import BaselineTables
    from forecast.fast.serving import Precision
    from forecast.least_squares import LeastSquaresTables
    from forecast.model import Model
    from forecast.quantile_network import QuantileNetwork
    from forecast.schema import Schema

COPY_LAST = "copy_last"
SEASONAL_NAIVE = "seasonal_naive"
CLIMATOLOGY = "climatology"
LEAST_SQUARES = "least_squares"
QUANTILE_NETWORK = "quantile_network"


@dataclass(frozen=True, slots=True)
class MemberTables:
    """What the members that are no versions know."""

    baselines: BaselineTables
    least_squares: LeastSquaresTables
    network: QuantileNetwork | None = None
    """None: it issues nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """Windows to forecast, and the version that was asked, already loaded."""

    raw: RawWindows
    version: int
    model: Model
    fit: Fit


class Members:
    """Loaded versions, the newest few, the one that answers as champion, and those beside it.

    `keep` says how many are loaded beside those that issue.
    `device` is where networks compute; a GPU's answers differ from the CPU's in the last bits.
    `precision` is that of the CPU's tables.
    """

    def __init__(
        self,
        *,
        schema: Schema,
        context: int,
        horizon: int,
        levels: Sequence[float],
        keep: int = 3,
        device: Literal["cpu", "cuda"] = "cpu",
        precision: Precision = "float32",
    ) -> None:
        self._device = device
        self._precision = precision
        self._outside = 0
        self._schema, self._levels = schema, tuple(levels)
        self._context, self._horizon = context, horizon
        self._keep = keep
        self._models: dict[int, tuple[Model, Fit]] = {}
        """The longest unused first."""
        self._champion: int | None = None
        self._beside: dict[str, int] = {}
        self._twin: int | None = None

    @property
    def champion(self) -> int | None:
        """The version that answers as champion; None before the first."""
        return self._champion

    @property
    def issuing(self) -> dict[str, int]:
        """The versions that issue forecasts of record, newest first, by the member's name."""
        return {} if self._champion is None else {CHAMPION: self._champion, **self._beside}

    @property
    def twin(self) -> int | None:
        """The version that issues on a few servers, to compare with; None: no other than these."""
        return self._twin

    @property
    def complete(self) -> bool:
        """Whether there is a champion and it forecasts every target of today's schema."""
        return self._champion is not None and self._models[self._champion][1].complete

    @property
    def outside(self) -> int:
        """Windows since the start that the exact form answered: an input beyond the tables."""
        models = self._models  # replaced, never changed: versions are loaded in another thread
        return self._outside + sum(model.outside for model, _ in models.values())

    def loaded(self, version: int) -> bool:
        """Whether this version can answer without loading."""
        return version in self._models

    def load(self, version: int, artifact: Artifact, *, holding: Collection[int] = ()) -> None:
        """Load a version beside the others; raises ArtifactError and changes nothing.

        The longest unused make room, but none that issues and none of `holding`: what is loaded to
        be swapped in together.
        """
        if version not in self._models:
            # Proved by its probe, on the CPU; there, that forecast has warmed it up, too.
            precision = self._precision if self._device == "cpu" else None
            model = unpack(artifact, fingerprint=None, precision=precision)
            if self._device != "cpu":
                model = model.serving(self._device)
            fit = Fit.of(
                model.spec,
                self._schema,
                context=self._context,
                horizon=self._horizon,
                levels=self._levels,
            )
            made = (model, fit)
        else:
            made = self._models[version]
        kept = {known: one for known, one in self._models.items() if known != version}
        kept[version] = made
        issuing = {*self.issuing.values(), *(() if self._twin is None else (self._twin,))}
        held = {version, *holding, *issuing}
        unused = [known for known in kept if known not in held]
        most = self._keep + max(0, len(issuing) - 1)
        for oldest in unused[: max(0, len(kept) - most)]:
            self._outside += kept.pop(oldest)[0].outside
        self._models = kept

    def swap(
        self, version: int, beside: Mapping[str, int] | None = None, twin: int | None = None
    ) -> None:
        """Let a loaded version answer as champion, and others issue beside it: references change.

        `beside` names them by the member's name, newest first; `twin` issues on a few servers.
        Raises UnknownVersion when one is not loaded.
        """
        others = dict(beside or {})
        for one in (version, *others.values(), *(() if twin is None else (twin,))):
            if one not in self._models:
                raise UnknownVersion(f"version {one} is not loaded")
        self._champion, self._beside, self._twin = version, others, twin

    def forecast(self, raw: RawWindows, version: int | None = None) -> NDArray[np.float32]:
        """Quantiles [N, H, T, Q] in natural units, from `version` or the champion.

        NaN for a target that the version does not know. Raises UnknownVersion.
        """
        [values] = self.predict([self.request(raw, version)])
        return values

    def of_record(self, raw: RawWindows) -> dict[str, NDArray[np.float32]]:
        """Quantiles [N, H, T, Q] of every version that issues; they share one build of windows."""
        issuing = self.issuing
        made = self.predict([self.request(raw, version) for version in issuing.values()])
        return dict(zip(issuing, made, strict=True))

    def request(self, raw: RawWindows, version: int | None = None) -> Request:
        """A forecast to be made with one version, even if others push it out of here meanwhile.

        Raises UnknownVersion when it is not loaded.
        """
        chosen = self._champion if version is None else version
        if chosen is None or chosen not in self._models:
            raise UnknownVersion(f"version {chosen} is not loaded")
        return Request(raw, chosen, *self._models[chosen])

    @staticmethod
    def predict(requests: Sequence[Request]) -> list[NDArray[np.float32]]:
        """Quantiles [N, H, T, Q] of each request, one pass of the network per version.

        Versions that are asked for the same windows and read them alike share one build of them: so
        an ensemble's members do.
        """
        answers: dict[int, NDArray[np.float32]] = {}
        for places in _by_windows(requests):
            raws = [requests[at].raw for at in places[0]]
            asked = [requests[mine[0]] for mine in places]
            found = _together(asked, RawWindows.concat(raws) if len(raws) > 1 else raws[0])
            for mine, values in zip(places, found, strict=True):
                start = 0
                for at, raw in zip(mine, raws, strict=True):
                    answers[at] = values[start : start + len(raw)]
                    start += len(raw)
        return [answers[at] for at in range(len(requests))]


def _by_windows(requests: Sequence[Request]) -> list[list[list[int]]]:
    """Places of the requests: by the windows they are about, and of those by version."""
    by_version: dict[int, list[int]] = {}
    for at, request in enumerate(requests):
        by_version.setdefault(request.version, []).append(at)
    found: dict[tuple[int, ...], list[list[int]]] = {}
    for places in by_version.values():
        found.setdefault(tuple(id(requests[at].raw) for at in places), []).append(places)
    return list(found.values())


def _together(asked: Sequence[Request], raw: RawWindows) -> list[NDArray[np.float32]]:
    """What each version forecasts of the same windows."""
    found: list[list[NDArray[np.float32]]] = [[] for _ in asked]
    for part in raw.parts(AT_A_TIME) if len(raw) else [raw]:
        built: dict[Any, Windows] = {}
        for values, request in zip(found, asked, strict=True):
            window, names = request.model.spec.window, request.fit.names
            kind = (window, tuple(sorted(names.items())))
            if kind not in built:
                built[kind] = transform(request.fit.windows(part), window)
            values.append(request.fit.answers(request.model.natural(built[kind])))
    return [np.concatenate(values) for values in found]


def blocks_of_record(
    raw: RawWindows,
    *,
    slot: int,
    members: Members,
    tables: MemberTables,
    schema: Schema,
    levels: Sequence[float],
    ready: np.ndarray,
    twin_share: float = 0.0,
) -> tuple[ForecastBlock, ...]:
    """One block per live member for every server of `raw` (origin `slot`).

    Versions come first, newest first. `ready` [N] bool says which servers have enough context for
    them; the others get NaN from them and are answered by a baseline. The twin, where there is one,
    comes last and names its own servers alone.
    """
    lower, upper = Limits.of(schema).bounds()
    naive = {
        COPY_LAST: baselines.copy_last,
        SEASONAL_NAIVE: baselines.seasonal_naive,
        CLIMATOLOGY: climatology,
    }
    values = {
        name: forecast(raw, tables.baselines, schema.targets, lower=lower, upper=upper)
        for name, forecast in naive.items()
    }
    values[LEAST_SQUARES] = least_squares.least_squares(
        raw, tables.least_squares, schema.targets, lower=lower, upper=upper
    )
    if tables.network is not None:
        values[QUANTILE_NETWORK] = quantile_network.quantile_network(
            raw, tables.network, schema.targets, lower=lower, upper=upper
        )
    issuing = members.issuing
    made = members.of_record(raw.select(np.flatnonzero(ready))) if ready.any() else {}
    by_version = {name: np.full_like(values[COPY_LAST], np.nan) for name in issuing}
    for name, found in made.items():
        by_version[name][ready] = found
    values = {**by_version, **values}
    blocks = [
        ForecastBlock(
            slot=slot,
            member=member,
            version=issuing.get(member),
            servers=raw.servers,
            targets=schema.targets,
            levels=tuple(levels),
            values=block.astype(np.float32),
        )
        for member, block in values.items()
    ]
    if members.twin is None:
        return tuple(blocks)
    rows = [at for at in twin_servers(raw.servers, raw.roles, twin_share) if ready[at]]
    if rows:
        few = raw.select(rows)
        by_twin = members.forecast(few, members.twin).astype(np.float32)
        blocks.append(
            replace(
                blocks[0],
                member=TWIN,
                version=members.twin,
                servers=few.servers,
                values=by_twin,
            )
        )
    return tuple(blocks)
