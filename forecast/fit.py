"""How a stored model reads and answers for today's schema.

A version reads the columns its manifest names. A metric added since is not read, one removed is a
gap to it, one renamed (an alias) is read under its new name. Only what a model must have in common
with the panel makes it unusable: step, lengths, levels, and at least one target.

Legend: N windows, H horizon, T targets, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forecast.errors import ArtifactError
from forecast.schema import Metric, Schema
from forecast.windows import RawWindows

if TYPE_CHECKING:
    from forecast.model import Model, ModelSpec


@dataclass(frozen=True, slots=True)
class Fit:
    """One model's place in today's schema."""

    names: Mapping[str, str]
    """Today's metric name -> the name the model knows it under."""
    columns: tuple[int | None, ...]
    """Per target of today: its place among the model's targets; None where it has none."""

    @classmethod
    def of(
        cls, spec: ModelSpec, schema: Schema, *, context: int, horizon: int, levels: Sequence[float]
    ) -> Fit:
        """Match a model with the schema; raises ArtifactError saying why it cannot serve it."""
        window = spec.window
        shape = {
            "a step of {} s": (window.step_seconds, schema.step_seconds),
            "{} slots of context": (window.context, context),
            "{} slots of horizon": (window.horizon, horizon),
            "quantiles {}": (tuple(spec.quantiles), tuple(levels)),
        }
        for said, (has, needs) in shape.items():
            if has != needs:
                raise ArtifactError(f"the model has {said.format(has)}, the panel {needs}")
        names = {}
        for old in window.metrics:
            for new in schema.metrics:
                if _same(old, new):
                    names[new.name] = old.name
        targets = list(window.targets)
        known = [names.get(target) for target in schema.targets]
        columns = tuple(targets.index(name) if name in targets else None for name in known)
        if all(column is None for column in columns):
            raise ArtifactError(
                f"the model forecasts {targets}, none of the targets {list(schema.targets)}"
            )
        return cls(names=names, columns=columns)

    @property
    def complete(self) -> bool:
        """Whether the model forecasts every target of today."""
        return None not in self.columns

    def windows(self, raw: RawWindows) -> RawWindows:
        """The windows under the names the model knows."""
        return replace(raw, metrics=tuple(self.names.get(name, name) for name in raw.metrics))

    def answers(self, values_NHTQ: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's values in the order of today's targets, NaN where it has none."""
        shape = (*values_NHTQ.shape[:2], len(self.columns), values_NHTQ.shape[3])
        answered = np.full(shape, np.nan, np.float32)
        for place, column in enumerate(self.columns):
            if column is not None:
                answered[:, :, place] = values_NHTQ[:, :, column]
        return answered

    def predict(self, model: Model, raw: RawWindows) -> NDArray[np.float32]:
        """Quantiles [N, H, T, Q] for today's targets, natural units."""
        return self.answers(model.predict(self.windows(raw)))


def _same(old: Metric, new: Metric) -> bool:
    return (
        (old.name == new.name or old.name in new.aliases)
        and old.unit == new.unit
        and old.kind == new.kind
    )
