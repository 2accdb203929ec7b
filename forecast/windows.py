"""Windows: what the buffer cuts, what the model reads, and the one transform between them.

Training and serving call the same `transform`, so a forecast is made from the features the model
learned on. Everything is numpy: a window is a slice of the grid, never a data frame, and features
are written straight to where the network reads them.

Legend: N windows, L context slots, H horizon slots, M metrics, T targets, Q quantile levels,
C real columns, K categorical columns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from forecast import features
from forecast.local_time import calendar
from forecast.raw_windows import Index, RawWindows, positions
from forecast.schema import Metric
from forecast.window_spec import WindowSpec

__all__ = ["RawWindows", "WindowSpec", "Windows", "inverse", "transform"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Floats = NDArray[np.float64]

_AT_A_TIME = 128
"""Windows turned into features at a time: their float64 arrays then stay in a core's cache."""
_CALENDARS_AT_A_TIME = 1024
"""Windows whose calendar is worked out at a time, which bounds the memory."""


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
        rows = positions(index, len(self))
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

    def rows(self, rows: slice) -> Windows:
        """The windows of a slice, in the same memory."""
        return Windows(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def transform(raw: RawWindows, spec: WindowSpec, *, mask_role: BoolArray | None = None) -> Windows:
    """The windows as the model reads them; the only way from measured values to features.

    The center of a metric is its last value in the context, so that an output of 0 repeats it; its
    scale is the largest of the context's deviation, a share of the long-run deviation and the
    declared resolution. A metric that `raw` lacks is all gap. `mask_role` [N] hides the role
    where true: so training learns to forecast for a role it has never seen.

    Raises ValueError when `raw` has another step, context or horizon than `spec`, or the mask
    another length.
    """
    given = (raw.step_seconds, raw.context, raw.horizon)
    wanted = (spec.step_seconds, spec.context, spec.horizon)
    if given != wanted:
        raise ValueError(f"step, context and horizon are {given}, the model reads {wanted}")
    made, plan = _unfilled(len(raw), spec), _Plan.of(raw, spec)
    role = _categories(raw, spec)
    if mask_role is not None:
        if len(mask_role) != len(raw):
            raise ValueError(f"mask_role has {len(mask_role)} values for {len(raw)} windows")
        role[np.asarray(mask_role, dtype=np.bool_)] = 0
    made.encoder_cat[:] = made.decoder_cat[:] = role[:, None, None]
    _fill_calendar(made, raw, plan)
    for start in range(0, len(raw), _AT_A_TIME):
        rows = slice(start, start + _AT_A_TIME)
        _fill(made.rows(rows), raw.rows(rows), plan)
    return made


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where `transform` finds each metric and where its columns go, worked out once a call."""

    spec: WindowSpec
    columns: list[int | None]
    """Of `RawWindows.metrics`, for each metric the model reads; None where there is no such one."""
    targets: list[int]
    """[T] among the metrics the model reads."""
    target_metrics: list[Metric]
    known: int
    """First column of `known_reals`: the calendar's."""
    lags: int
    after_lags: int
    """First of the columns that tell how much of the lags is known, and the position."""
    unknown: int
    """First column of `unknown_reals`."""

    @classmethod
    def of(cls, raw: RawWindows, spec: WindowSpec) -> _Plan:
        found = {name: column for column, name in enumerate(raw.metrics)}
        static, known = len(spec.static_reals), spec.known_reals
        after_lags = static + known.index("seen_lagd")
        return cls(
            spec=spec,
            columns=[found.get(metric.name) for metric in spec.metrics],
            targets=list(spec.target_columns),
            target_metrics=_target_metrics(spec),
            known=static,
            lags=after_lags - 2 * len(spec.targets),
            after_lags=after_lags,
            unknown=static + len(known),
        )


def _unfilled(count: int, spec: WindowSpec) -> Windows:
    """Room for so many windows."""
    columns, targets = len(spec.reals), len(spec.targets)
    context, horizon = (count, spec.context), (count, spec.horizon)
    return Windows(
        encoder_cont=np.empty((*context, columns), np.float32),
        decoder_cont=np.empty((*horizon, columns), np.float32),
        encoder_cat=np.empty((*context, 1), np.int64),
        decoder_cat=np.empty((*horizon, 1), np.int64),
        target=np.empty((*horizon, targets), np.float32),
        center=np.empty((count, targets)),
        scale=np.empty((count, targets)),
        ceiling=np.empty((count, targets)),
    )


def _fill_calendar(made: Windows, raw: RawWindows, plan: _Plan) -> None:
    """The columns of the calendar, which depend on the slots alone."""
    context, step = plan.spec.context, plan.spec.step_seconds
    first = raw.origin + 1 - context
    for start in range(0, len(raw), _CALENDARS_AT_A_TIME):
        rows = slice(start, start + _CALENDARS_AT_A_TIME)
        values = calendar(first[rows], context + plan.spec.horizon, raw.timezones[rows], step)
        _put(made.rows(rows), plan.known, values)


def _fill(made: Windows, raw: RawWindows, plan: _Plan) -> None:
    """The columns that depend on values, and the labels; arrays here have their slots first."""
    spec, targets = plan.spec, plan.targets
    values, seen = features.by_slot([raw.values], plan.columns, spec.metrics)
    context, known = values[: spec.context], seen[: spec.context]
    filled = features.forward_fill(context, known)
    center = filled[-1]
    finest = features.resolutions(center, spec.metrics)
    spread = features.picked([raw.spread], plan.columns)
    floor = np.fmax(finest, spec.scale_floor_share * spread)
    scale = np.maximum(features.deviation(context, known), floor)

    made.center[:], made.scale[:] = center[:, targets], scale[:, targets]
    static = features.static(made.scale, spread[:, targets], finest[:, targets])
    _put(made, 0, static.astype(np.float32)[:, None])
    highest = np.fmax.reduce(context, axis=0)[:, targets]
    np.fmax(highest, _fill_lags(made, raw, plan), out=highest)
    made.ceiling[:] = features.ceilings(highest, plan.target_metrics, spec.most_growth)

    scaled = np.subtract(filled, center)
    scaled /= scale
    gaps = np.empty((*known.shape[:2], 2), np.float32)
    gaps[..., 0] = np.log1p(features.slots_since_seen(known[..., targets]))
    gaps[..., 1] = 1.0 - features.share(known)
    into = made.encoder_cont.swapaxes(0, 1)
    _copy(into[..., plan.unknown : -2], features.squashed(scaled))
    _copy(into[..., -2:], gaps)
    made.decoder_cont[..., plan.unknown :] = 0.0
    labels = (values[spec.context :, :, targets] - made.center) / made.scale
    made.target.swapaxes(0, 1)[:] = labels


def _fill_lags(made: Windows, raw: RawWindows, plan: _Plan) -> Floats:
    """The known columns after the calendar's, 0 for an unknown lag; the lags' highest [N, T]."""
    columns = [plan.columns[at] for at in plan.targets]
    count, context, horizon = len(columns), plan.spec.context, plan.spec.horizon
    values, seen = features.by_slot([raw.daily, raw.weekly], columns, 2 * plan.target_metrics)
    highest: Floats = np.fmax.reduce(values, axis=0)
    values -= np.tile(made.center, 2)
    values /= np.tile(made.scale, 2)
    if not seen.all():
        np.copyto(values, 0.0, where=~seen)
    after = np.empty((*seen.shape[:2], 3), np.float32)
    after[..., 0] = features.share(seen[..., :count])
    after[..., 1] = features.share(seen[..., count:])
    position = np.arange(-context, horizon).astype(np.float32) / np.float32(context)
    after[..., 2] = position[:, None]
    _put(made, plan.lags, features.squashed(values).swapaxes(0, 1))
    _put(made, plan.after_lags, after.swapaxes(0, 1))
    most: Floats = np.fmax(highest[:, :count], highest[:, count:])
    return most


def _put(made: Windows, column: int, values: FloatArray) -> None:
    """Write values that broadcast to [N, L+H, ...] to the real columns from `column` on."""
    context, width = made.encoder_cont.shape[1], values.shape[-1]
    encoder, decoder = values, values
    if values.shape[-2] > 1:
        encoder, decoder = values[..., :context, :], values[..., context:, :]
    _copy(made.encoder_cont[..., column : column + width], encoder)
    _copy(made.decoder_cont[..., column : column + width], decoder)


def _copy(into: FloatArray, values: FloatArray) -> None:
    """Copy a few columns; those of one slot in one go, for a loop over each would take longer."""
    cell = np.dtype((np.void, into.itemsize * into.shape[-1]))
    into.view(cell)[:] = values.view(cell)


def inverse(quantiles_NHTQ: FloatArray, windows: Windows, spec: WindowSpec) -> FloatArray:
    """Scaled quantiles as values in natural units.

    Sorted over Q, because a network's quantiles may cross, and clipped to each target's bounds and
    to the window's ceiling.
    """
    natural_NHTQ = np.empty(quantiles_NHTQ.shape, np.float32)
    rising = bool((quantiles_NHTQ[..., 1:] >= quantiles_NHTQ[..., :-1]).all())
    sorted_NHTQ = quantiles_NHTQ if rising else np.sort(quantiles_NHTQ, axis=3)
    for place, metric in enumerate(_target_metrics(spec)):
        moved_NHQ = sorted_NHTQ[:, :, place].astype(np.float64)
        moved_NHQ *= windows.scale[:, place, None, None]
        moved_NHQ += windows.center[:, place, None, None]
        if metric.transform == "log1p":
            features.expm1(moved_NHQ)
        np.minimum(moved_NHQ, windows.ceiling[:, place, None, None], out=moved_NHQ)
        if metric.lower is not None:
            np.maximum(moved_NHQ, metric.lower, out=moved_NHQ)
        if metric.upper is not None:
            np.minimum(moved_NHQ, metric.upper, out=moved_NHQ)
        natural_NHTQ[:, :, place] = moved_NHQ
    return natural_NHTQ


def _target_metrics(spec: WindowSpec) -> list[Metric]:
    """[T] the declarations of the targets."""
    return [spec.metrics[column] for column in spec.target_columns]


def _categories(raw: RawWindows, spec: WindowSpec) -> IntArray:
    """[N] the category of each window's role; 0 for an unknown one."""
    numbers = {role: number for number, role in enumerate(spec.roles)}
    return np.array([numbers.get(role, 0) for role in raw.roles], dtype=np.int64)
