"""Active learning: an update's windows that the champion is unsure of, or has not seen the like of.

    uncertain   the width of its interval, in the server's own long-run deviations, ranks at least
                `threshold` among those of the windows that the champion itself was trained on
    novel       the context's level, spread, slope and gaps lie farther from what was usual than
                98 % of those did (Mahalanobis 1936)

What was usual travels with each version in its manifest, so whoever trains next needs no memory.
A server whose intervals are always wide has its own part taken out first: the rank is among its
own. In usual times 1 - `threshold` of the windows are chosen; with less than half as many there is
little to learn, and the update is not worth its compute.

Legend: N windows, L context slots, H horizon slots, T targets, Q quantile levels, F features.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from forecast.errors import NothingNew
from forecast.features import is_log
from forecast.schema import Schema
from forecast.windows import RawWindows

Floats = NDArray[np.float64]
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_NOVEL = 0.98
_LEVELS = np.linspace(0, 1, 41)
"""Of the widths that are kept of a version's own windows."""
_SHRINK = 4.0
"""Windows that say nothing of a server: so many count against those it has."""
_RIDGE = 1e-3
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Known:
    """What was usual in the windows of a version's training."""

    widths: tuple[float, ...]
    """Quantiles at 41 levels of the logarithm of relative widths, each server's own part off."""
    servers: Mapping[str, float]
    """That part, by server; 0 for those who are not in it."""
    mean: tuple[float, ...]
    """[F] of the features."""
    whitening: tuple[tuple[float, ...], ...]
    """[F, F] inverse of their covariance."""
    far: float
    """The distance that 2 % of the windows exceeded."""

    @classmethod
    def of(cls, raw: RawWindows, forecast_NHTQ: FloatArray, schema: Schema) -> Self:
        """What these windows show, and the forecast that a version makes for them."""
        width_N = _widths(raw, forecast_NHTQ, schema)
        servers = _own_parts(raw.servers, width_N)
        own = np.array([servers[name] for name in raw.servers])
        features_NTF = _features(raw, schema)
        flat = features_NTF.reshape(-1, features_NTF.shape[-1])
        mean = flat.mean(axis=0)
        covariance = (flat - mean).T @ (flat - mean) / len(flat)
        whitening = np.linalg.inv(covariance + _RIDGE * np.eye(len(mean)))
        distance_N = _distances(features_NTF, mean, whitening)
        return cls(
            widths=tuple(np.quantile(width_N - own, _LEVELS).round(6).tolist()),
            servers={name: round(part, 4) for name, part in servers.items()},
            mean=tuple(mean.tolist()),
            whitening=tuple(tuple(row) for row in whitening.tolist()),
            far=float(np.quantile(distance_N, _NOVEL)),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {
            "widths": list(self.widths),
            "servers": dict(self.servers),
            "mean": list(self.mean),
            "whitening": [list(row) for row in self.whitening],
            "far": self.far,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(
            widths=tuple(stored["widths"]),
            servers=dict(stored["servers"]),
            mean=tuple(stored["mean"]),
            whitening=tuple(tuple(row) for row in stored["whitening"]),
            far=float(stored["far"]),
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of an update's windows are learned from."""

    rows: IntArray
    """Of the windows that were given, rising."""
    given: int
    uncertain: int
    novel: int
    """Windows may be both."""

    def report(self) -> dict[str, Any]:
        """For the audit log: what was chosen and the share of the windows, and of the training's
        compute, that was saved.
        """
        return {
            "given": self.given,
            "chosen": len(self.rows),
            "uncertain": self.uncertain,
            "novel": self.novel,
            "saved_share": round(1 - len(self.rows) / self.given, 4),
        }

    def spread(self, losses: FloatArray) -> FloatArray:
        """Losses [chosen] in the places of all that were given; NaN for the others."""
        made = np.full(self.given, np.nan, np.float32)
        made[self.rows] = losses
        return made


def choose(
    raw: RawWindows,
    forecast_NHTQ: FloatArray,
    schema: Schema,
    *,
    threshold: float,
    known: Known | None,
) -> Choice:
    """The windows worth learning from, by the champion's forecast for them.

    `known` None, for a champion that was trained without: ranked among themselves. Raises
    NothingNew when fewer than half as many are chosen as in usual times.
    """
    usual = Known.of(raw, forecast_NHTQ, schema) if known is None else known
    own = np.array([usual.servers.get(name, 0.0) for name in raw.servers])
    width_N = _widths(raw, forecast_NHTQ, schema) - own
    uncertain_N = width_N > np.interp(threshold, _LEVELS, usual.widths)
    mean, whitening = np.array(usual.mean), np.array(usual.whitening)
    novel_N = _distances(_features(raw, schema), mean, whitening) > usual.far
    rows = np.flatnonzero(uncertain_N | novel_N)
    least = math.ceil(0.5 * (1 - threshold) * len(raw) - 1e-9)
    if known is not None and len(rows) < least:
        raise NothingNew(
            f"{len(rows)} of {len(raw)} windows are uncertain or novel, an update needs {least}"
        )
    return Choice(rows, len(raw), int(uncertain_N.sum()), int(novel_N.sum()))


def _own_parts(servers: tuple[str, ...], width_N: Floats) -> dict[str, float]:
    """Each server's mean off the mean of all, drawn to 0 where it has few windows."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for name, off in zip(servers, (width_N - width_N.mean()).tolist(), strict=True):
        found[name].append(off)
    return {name: sum(offs) / (len(offs) + _SHRINK) for name, offs in sorted(found.items())}


def _unit(raw: RawWindows, schema: Schema) -> Floats:
    """[N, T] long-run deviations in natural units; at least the resolution.

    Of a metric read as log1p the deviation of logarithms times the context's mean.
    """
    columns = schema.target_columns
    metrics = [schema.metrics[column] for column in columns]
    finest, logs = np.array([metric.resolution for metric in metrics]), is_log(metrics)
    spread = np.nan_to_num(raw.spread[:, columns].astype(np.float64))
    level = _mean(np.abs(raw.values[:, : raw.context, columns].astype(np.float64)))
    unit: Floats = np.maximum(np.where(logs, spread * (1 + level), spread), finest)
    return unit


def _widths(raw: RawWindows, forecast_NHTQ: FloatArray, schema: Schema) -> Floats:
    """[N] logarithm of the outermost interval's width in units, over horizon and targets."""
    width_NHT = forecast_NHTQ[..., -1].astype(np.float64) - forecast_NHTQ[..., 0]
    relative_NT = _mean(width_NHT) / _unit(raw, schema)
    found: Floats = np.log(np.maximum(relative_NT, _TINY)).mean(axis=1)
    return found


def _features(raw: RawWindows, schema: Schema) -> Floats:
    """[N, T, F] level against a day and a week before, spread, slope, and share of gaps."""
    columns, unit = schema.target_columns, _unit(raw, schema)
    context, daily, weekly = (
        values[:, : raw.context, columns].astype(np.float64)
        for values in (raw.values, raw.daily, raw.weekly)
    )
    half = raw.context // 2
    level, before = _mean(context), _mean(np.concatenate([daily, weekly], axis=1))
    spread = np.sqrt(_mean(np.square(context - level[:, None]))) / unit
    seen = np.isfinite(context)
    before = np.where(
        np.isfinite(daily).any(axis=1) | np.isfinite(weekly).any(axis=1), before, level
    )
    both = seen[:, :half].any(axis=1) & seen[:, half:].any(axis=1)
    slope = np.where(both, _mean(context[:, half:]) - _mean(context[:, :half]), 0.0)
    return np.stack(
        [
            np.arcsinh((level - before) / unit),
            np.log1p(spread),
            np.arcsinh(slope / unit),
            1 - seen.mean(axis=1),
        ],
        axis=-1,
    )


def _mean(values: Floats) -> Floats:
    """Over the known values of axis 1; 0 where none is."""
    seen = np.isfinite(values)
    total: Floats = np.where(seen, values, 0.0).sum(axis=1)
    mean: Floats = total / np.maximum(seen.sum(axis=1), 1)
    return mean


def _distances(features_NTF: Floats, mean: Floats, whitening: Floats) -> Floats:
    """[N] squared Mahalanobis distance of the farthest target."""
    off = features_NTF - mean
    found: Floats = np.einsum("ntf,fg,ntg->nt", off, whitening, off).max(axis=1)
    return found
