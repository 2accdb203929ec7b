"""Windows: what the buffer cuts, what the model reads, and the one transform between them.

Training and serving call the same `transform`, so a forecast is made from the features the model
learned on. Everything is numpy: a window is a slice of the grid, never a data frame.

Legend: N windows, L context slots, H horizon slots, M metrics, T targets, Q quantile levels,
C real columns, K categorical columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from forecast import features
from forecast.schema import Metric
from forecast.window_spec import WindowSpec

__all__ = ["RawWindows", "WindowSpec", "Windows", "inverse", "transform"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Index = IntArray | BoolArray | Sequence[int]
Floats = NDArray[np.float64]

_AT_A_TIME = 1024
"""Windows turned into features at a time, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class RawWindows:
    """N windows as the buffer cuts them: natural units, NaN where nothing is known.

    Raises ValueError when the arrays do not fit each other.
    """

    servers: tuple[str, ...]
    roles: tuple[str, ...]
    timezones: tuple[str, ...]
    """IANA names, one per window like `servers` and `roles`."""
    metrics: tuple[str, ...]
    context: int
    horizon: int
    step_seconds: int
    origin: IntArray
    """[N] the last slot of the context."""
    values: FloatArray
    """[N, L+H, M]; the horizon part is all NaN in windows cut without labels."""
    daily: FloatArray
    """[N, L+H, M] the value one day before each slot."""
    weekly: FloatArray
    """[N, L+H, M] the value one week before each slot."""
    spread: FloatArray
    """[N, M] long-run deviation of the server's metric in the metric's transformed space."""

    def __post_init__(self) -> None:
        count, length = len(self.servers), self.context + self.horizon
        shape = (count, length, len(self.metrics))
        wanted = {
            "roles": (len(self.roles), count),
            "timezones": (len(self.timezones), count),
            "origin": (self.origin.shape, (count,)),
            "values": (self.values.shape, shape),
            "daily": (self.daily.shape, shape),
            "weekly": (self.weekly.shape, shape),
            "spread": (self.spread.shape, (count, len(self.metrics))),
        }
        for name, (got, need) in wanted.items():
            if got != need:
                raise ValueError(f"windows of {count} servers: {name} is {got}, need {need}")

    def __len__(self) -> int:
        return len(self.servers)

    def select(self, index: Index) -> RawWindows:
        """The windows at these positions (or where a mask is true), in the order given."""
        rows = _positions(index, len(self))
        return replace(
            self,
            servers=tuple(self.servers[row] for row in rows),
            roles=tuple(self.roles[row] for row in rows),
            timezones=tuple(self.timezones[row] for row in rows),
            origin=self.origin[rows],
            values=self.values[rows],
            daily=self.daily[rows],
            weekly=self.weekly[rows],
            spread=self.spread[rows],
        )

    def parts(self, size: int) -> Iterator[RawWindows]:
        """The windows in order, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield self.select(range(start, min(start + size, len(self))))

    @staticmethod
    def concat(parts: Sequence[RawWindows]) -> RawWindows:
        """All windows of `parts`, in order; they must agree on metrics, lengths and step."""
        if not parts:
            raise ValueError("nothing to concatenate: no windows given")
        first = parts[0]
        kind = (first.metrics, first.context, first.horizon, first.step_seconds)
        for part in parts[1:]:
            other = (part.metrics, part.context, part.horizon, part.step_seconds)
            if other != kind:
                raise ValueError(f"windows of different kinds: {kind} and {other}")
        return replace(
            first,
            servers=tuple(name for part in parts for name in part.servers),
            roles=tuple(role for part in parts for role in part.roles),
            timezones=tuple(zone for part in parts for zone in part.timezones),
            origin=np.concatenate([part.origin for part in parts]),
            values=np.concatenate([part.values for part in parts]),
            daily=np.concatenate([part.daily for part in parts]),
            weekly=np.concatenate([part.weekly for part in parts]),
            spread=np.concatenate([part.spread for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Windows:
    """N windows as the model reads them.

    `*_cont` hold the columns of `WindowSpec.reals`; columns of `unknown_reals` are 0 in the
    decoder. `target`, like every value of a target or metric, is in units of the window's scale
    around the window's center.
    """

    encoder_cont: FloatArray
    """[N, L, C]"""
    decoder_cont: FloatArray
    """[N, H, C]"""
    encoder_cat: IntArray
    """[N, L, K]"""
    decoder_cat: IntArray
    """[N, H, K]"""
    target: FloatArray
    """[N, H, T] scaled labels, NaN where unknown."""
    center: Floats
    """[N, T] last value of the context in the metric's transformed space."""
    scale: Floats
    """[N, T] in the metric's transformed space, above 0."""
    ceiling: Floats
    """[N, T] in natural units: no forecast exceeds it; infinite for a target not read as log1p."""

    def __len__(self) -> int:
        return len(self.encoder_cont)

    def select(self, index: Index) -> Windows:
        """The windows at these positions (or where a mask is true), in the order given."""
        rows = _positions(index, len(self))
        return Windows(
            encoder_cont=self.encoder_cont[rows],
            decoder_cont=self.decoder_cont[rows],
            encoder_cat=self.encoder_cat[rows],
            decoder_cat=self.decoder_cat[rows],
            target=self.target[rows],
            center=self.center[rows],
            scale=self.scale[rows],
            ceiling=self.ceiling[rows],
        )


def transform(raw: RawWindows, spec: WindowSpec, *, mask_role: BoolArray | None = None) -> Windows:
    """The windows as the model reads them; the only way from measured values to features.

    The center of a metric is its last value in the context, so that an output of 0 repeats it; its
    scale is the largest of the context's deviation, a share of the long-run deviation and the
    declared resolution. A metric that `raw` lacks is all gap. `mask_role` [N] hides the role
    where true: so training learns to forecast for a role it has never seen.

    Raises ValueError when `raw` has another step, context or horizon than `spec`.
    """
    given = (raw.step_seconds, raw.context, raw.horizon)
    wanted = (spec.step_seconds, spec.context, spec.horizon)
    if given != wanted:
        raise ValueError(f"step, context and horizon are {given}, the model reads {wanted}")
    if mask_role is not None:
        shown = zip(raw.roles, mask_role, strict=True)
        raw = replace(raw, roles=tuple("" if hidden else role for role, hidden in shown))
    if len(raw) <= _AT_A_TIME:
        return _transform(raw, spec)
    parts = [_transform(part, spec) for part in raw.parts(_AT_A_TIME)]
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Windows)
    }
    return Windows(**joined)


def _transform(raw: RawWindows, spec: WindowSpec) -> Windows:
    """`transform` without bounds on memory: its float64 arrays are several times the result."""
    values = features.model_space(_gather(raw.values, raw, spec), spec.metrics)
    context_NLM = values[:, : spec.context]
    filled_NLM = features.forward_fill(context_NLM)
    center = filled_NLM[:, -1]
    finest = features.resolutions(center, spec.metrics)
    spread = _gather(raw.spread, raw, spec)
    floor = np.fmax(finest, spec.scale_floor_share * spread)
    scale = np.maximum(features.deviation(context_NLM), floor)

    wanted_columns = list(spec.target_columns)
    lags = [
        features.model_space(_gather(lag, raw, spec), spec.metrics)[..., wanted_columns]
        for lag in (raw.daily, raw.weekly)
    ]
    target_center, target_scale = center[:, wanted_columns], scale[:, wanted_columns]
    blocks = [
        features.static(scale, spread, finest, spec),
        _known(raw, spec, [(lag - target_center[:, None]) / target_scale[:, None] for lag in lags]),
        features.unknown(context_NLM, (filled_NLM - center[:, None]) / scale[:, None], spec),
    ]
    cont = np.concatenate(blocks, axis=2, dtype=np.float32)
    cat = _categories(raw, spec)
    labels = values[:, spec.context :, wanted_columns]
    known = np.concatenate([context_NLM[..., wanted_columns], *lags], axis=1)
    return Windows(
        encoder_cont=cont[:, : spec.context],
        decoder_cont=cont[:, spec.context :],
        encoder_cat=cat[:, : spec.context],
        decoder_cat=cat[:, spec.context :],
        target=((labels - target_center[:, None]) / target_scale[:, None]).astype(np.float32),
        center=target_center,
        scale=target_scale,
        ceiling=features.ceilings(known, _target_metrics(spec), spec.most_growth),
    )


def inverse(quantiles_NHTQ: FloatArray, windows: Windows, spec: WindowSpec) -> FloatArray:
    """Scaled quantiles as values in natural units.

    Sorted over Q, because a network's quantiles may cross, and clipped to each target's bounds and
    to the window's ceiling.
    """
    metrics = _target_metrics(spec)
    scaled_NHQT = np.sort(quantiles_NHTQ, axis=3).astype(np.float64).swapaxes(2, 3)
    moved = scaled_NHQT * windows.scale[:, None, None] + windows.center[:, None, None]
    natural = np.minimum(features.natural_space(moved, metrics), windows.ceiling[:, None, None])
    lower = np.array([-np.inf if m.lower is None else m.lower for m in metrics])
    upper = np.array([np.inf if m.upper is None else m.upper for m in metrics])
    natural = np.clip(natural, lower, upper)
    return np.ascontiguousarray(natural.swapaxes(2, 3), dtype=np.float32)


def _target_metrics(spec: WindowSpec) -> list[Metric]:
    """[T] the declarations of the targets."""
    return [spec.metrics[column] for column in spec.target_columns]


def _gather(values: FloatArray, raw: RawWindows, spec: WindowSpec) -> Floats:
    """The metrics [..., M] the model reads, in its order; all NaN where `raw` has no such one."""
    columns = {name: column for column, name in enumerate(raw.metrics)}
    gathered = np.full((*values.shape[:-1], len(spec.metrics)), np.nan)
    for place, metric in enumerate(spec.metrics):
        if metric.name in columns:
            gathered[..., place] = values[..., columns[metric.name]]
    return gathered


def _known(raw: RawWindows, spec: WindowSpec, lags: Sequence[Floats]) -> Floats:
    """[N, L+H, K] the columns of `known_reals`; an unknown one of the scaled `lags` is 0."""
    steps = np.arange(-spec.context, spec.horizon)
    slots = raw.origin[:, None] + 1 + steps
    seen = [features.observed(lag) for lag in lags]
    values = [features.squashed(np.where(at, lag, 0.0)) for at, lag in zip(seen, lags, strict=True)]
    shares = [at.mean(axis=2, keepdims=True) for at in seen]
    position = steps.astype(np.float32) / np.float32(spec.context)
    relative = np.broadcast_to(position[None, :, None], (*slots.shape, 1))
    calendar = features.calendar(slots, raw.timezones, spec.step_seconds)
    return np.concatenate([calendar, *values, *shares, relative], axis=2)


def _categories(raw: RawWindows, spec: WindowSpec) -> IntArray:
    """[N, L+H, 1] the category of each window's role; 0 for an unknown one."""
    numbers = {role: number for number, role in enumerate(spec.roles)}
    category = np.array([numbers.get(role, 0) for role in raw.roles], dtype=np.int64)
    return np.repeat(category[:, None, None], spec.context + spec.horizon, axis=1)


def _positions(index: Index, count: int) -> IntArray:
    """Row numbers of an index array or a mask of `count` rows."""
    array = np.asarray(index)
    return np.arange(count)[array] if array.size else np.zeros(0, np.int64)
