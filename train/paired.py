"""Models compared on the same held-out windows, and how sure that is: a paired block bootstrap.

All windows of a stretch of time are one block, whatever their server: servers that fail or idle
together say one thing, not many. Blocks come up again or not, several in a row at a time, as the
hours of a day resemble each other: the circular block bootstrap of Politis and Romano ("A circular
block-resampling procedure for stationary data", 1992), blocks of a horizon, cube root of them in a
row. Both models are summed over the same resample, so what is hard for both cancels out.

Legend: N windows, H horizon, T targets, Q quantile levels, B blocks, R roles, K resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forecast.metrics import Float64Array, FloatArray, central_intervals, pinball

if TYPE_CHECKING:
    from forecast.windows import RawWindows

LEVEL = 0.95
"""Of each one-sided bound."""

RESAMPLES = 2000
LEAST_BLOCKS = 3
"""With fewer there is nothing to say how far chance goes."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What models lost on the same windows, summed per block, role and target; natural units."""

    targets: tuple[str, ...]
    roles: tuple[str, ...]
    windows: int
    nominal: float | None
    """Share of labels that should lie in the widest central interval; None without one."""

    size_BRT: Float64Array  # noqa: N815 (axes in the name)
    """Sum of |label|."""

    cells_BRT: Float64Array  # noqa: N815
    """Label cells: windows x horizon, gaps left out."""

    pinball: Mapping[str, Float64Array]
    """By model [B, R, T]: summed loss, the mean over levels. A model that gave a forecast which is
    not finite is not in it: such a model may not serve."""

    inside: Mapping[str, Float64Array]
    """By model [B, R, T]: label cells inside the widest central interval."""

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.size_BRT)

    @property
    def n(self) -> int:
        """Number of label cells."""
        return int(self.cells_BRT.sum())


@dataclass(frozen=True, slots=True)
class RoleChange:
    """How a role fares with one model in place of another."""

    role: str
    share: float
    """Of all label cells."""
    change: float
    lower: float


@dataclass(frozen=True, slots=True)
class Change:
    """One model against another on the same windows.

    `change` is how far its WQL (mean over targets of each target's ratio of sums) lies above the
    other's, as a share of the other's: 0.01 is a percent worse. Bounds are one-sided, of `LEVEL`.
    """

    change: float
    """Infinite where the other's WQL is 0 and its own is not."""
    lower: float
    upper: float
    roles: tuple[RoleChange, ...]
    coverage: float | None
    other_coverage: float | None
    miss: float | None
    """How much further from nominal its coverage is than the other's; below 0 it is nearer."""
    miss_lower: float | None


def measure(
    raw: RawWindows,
    targets: Sequence[str],
    levels: Sequence[float],
    forecasts: Mapping[str, FloatArray],
) -> Losses:
    """Sum what each model's forecasts [N, H, T, Q] lost against the labels in `raw`.

    Forecasts are taken as they are given, in natural units: a calibration comes before. The order
    of the windows changes no bit. Raises ValueError for forecasts that do not have one row per
    window, step, target and level.
    """
    columns = [raw.metrics.index(target) for target in targets]
    y = raw.values[:, raw.context :, columns]
    for given in forecasts.values():
        if given.shape != (*y.shape, len(levels)):
            raise ValueError(
                f"forecasts have shape {given.shape}, the labels want {(*y.shape, len(levels))}"
            )
    roles, role = np.unique(np.array(raw.roles, dtype=np.str_), return_inverse=True)
    first = raw.origin.min() if raw.origin.size else 0
    stretches, block = np.unique((raw.origin - first) // raw.horizon, return_inverse=True)
    order = np.lexsort((np.array(raw.servers, dtype=np.str_), raw.origin))
    place, shape = block * len(roles) + role, (len(stretches), len(roles))

    def summed(cells_NHT: NDArray[Any]) -> Float64Array:
        sums = np.zeros((math.prod(shape), len(columns)))
        np.add.at(sums, place[order], cells_NHT.sum(axis=1, dtype=np.float64)[order])
        return sums.reshape(*shape, len(columns))

    known = np.isfinite(y)
    widest = next(iter(central_intervals(levels)), None)
    finite = {name: q for name, q in forecasts.items() if np.isfinite(q).all()}
    return Losses(
        targets=tuple(targets),
        roles=tuple(str(name) for name in roles),
        windows=len(raw),
        nominal=widest and widest[0],
        size_BRT=summed(np.where(known, np.abs(y), 0)),
        cells_BRT=summed(known),
        pinball={name: summed(_losses(y, q, levels)) for name, q in finite.items()},
        inside={name: summed(_within(y, q, widest)) for name, q in finite.items()}
        if widest
        else {},
    )


def resamples(blocks: int, *, seed: int, count: int = RESAMPLES) -> Float64Array:
    """How often each block comes up in each resample [1 + K, B]; the first is the sample itself."""
    run = math.ceil(blocks ** (1 / 3))
    starts = np.random.default_rng(seed).integers(blocks, size=(count, -(-blocks // run)))
    taken = ((starts[..., None] + np.arange(run)) % blocks).reshape(count, -1)[:, :blocks]
    places = taken + blocks * np.arange(count)[:, None]
    drawn = np.bincount(places.ravel(), minlength=count * blocks).reshape(count, blocks)
    return np.concatenate([np.ones((1, blocks)), drawn.astype(np.float64)])


def compare(losses: Losses, one: str, other: str, *, seed: int) -> Change | None:
    """How `one` fares against `other`; None when no label can tell (none, or all of them 0)."""
    if not losses.n:
        return None
    times = resamples(losses.blocks, seed=seed)
    changes = relative(losses, one, other, times)
    if np.isnan(changes[0, 0]):
        return None
    cells = losses.cells_BRT.sum(axis=(0, 2))
    alone = (1 - LEVEL) / max(1, len(losses.roles))  # each role is another chance to be unlucky
    told = [
        RoleChange(role, float(share), float(of[0]), quantile(of[1:], alone))
        for role, share, of in zip(losses.roles, cells / cells.sum(), changes.T[1:], strict=True)
    ]
    return Change(
        change=float(changes[0, 0]),
        lower=quantile(changes[1:, 0], 1 - LEVEL),
        upper=quantile(changes[1:, 0], LEVEL),
        roles=tuple(told),
        **_coverages(losses, one, other, times),
    )


def relative(losses: Losses, one: str, other: str, times: Float64Array) -> Float64Array:
    """How far `one` lies above `other` in each resample [1 + K, 1 + R], as a share: of all roles
    together, then of each. NaN where no label can tell.
    """
    size = _totals(times, losses.size_BRT)
    return _relative(
        _wql(_totals(times, losses.pinball[one]), size),
        _wql(_totals(times, losses.pinball[other]), size),
    )


def quantile(values: Float64Array, level: float) -> float:
    """The value at this level among those that are known, without interpolation."""
    known = values[~np.isnan(values)]
    if not known.size:
        return math.nan
    return float(np.quantile(known, level, method="higher" if level > 0.5 else "lower"))


def wql(losses: Losses, model: str) -> tuple[float | None, dict[str, float | None]]:
    """A model's WQL over all windows: the mean over targets, and each target's (None: unknown)."""
    size = losses.size_BRT.sum(axis=(0, 1))
    ratio = _ratio(2 * losses.pinball[model].sum(axis=(0, 1)), size)
    known = [None if math.isnan(value) else float(value) for value in ratio]
    found = [value for value in known if value is not None]
    mean = sum(found) / len(found) if found else None
    return mean, dict(zip(losses.targets, known, strict=True))


def covered(losses: Losses, model: str) -> float | None:
    """Share of labels inside a model's widest central interval; None without labels or interval."""
    if model not in losses.inside or not losses.n:
        return None
    return float(losses.inside[model].sum() / losses.n)


def _losses(y: FloatArray, quantiles: FloatArray, levels: Sequence[float]) -> Float64Array:
    """Pinball loss [N, H, T], the mean over levels; 0 at a gap. A target at a time, for memory."""
    found = np.zeros(y.shape)
    for place in range(y.shape[-1]):
        found[..., place] = pinball(y[..., place], quantiles[:, :, place], levels).mean(-1)
    return np.where(np.isfinite(y), found, 0)


def _within(
    y: FloatArray, quantiles: FloatArray, interval: tuple[float, int, int]
) -> NDArray[np.bool_]:
    _, low, high = interval
    inside: NDArray[np.bool_] = (quantiles[..., low] <= y) & (y <= quantiles[..., high])
    return inside


def _totals(times: Float64Array, sums_BRT: Float64Array) -> Float64Array:
    """Sums [1 + K, 1 + R, T] of each resample: over all roles first, then each role's."""
    blocks, roles, targets = sums_BRT.shape
    per_role = (times @ sums_BRT.reshape(blocks, -1)).reshape(len(times), roles, targets)
    return np.concatenate([per_role.sum(axis=1, keepdims=True), per_role], axis=1)


def _wql(loss: Float64Array, size: Float64Array) -> Float64Array:
    """Mean over the targets that have a size of 2 * loss / size; NaN where none has."""
    ratio, known = _ratio(2 * loss, size), size > 0
    return _ratio(np.where(known, ratio, 0).sum(axis=-1), known.sum(axis=-1))


def _relative(one: Float64Array, other: Float64Array) -> Float64Array:
    change = np.where(one > 0, np.inf, 0.0)
    np.divide(one, other, out=change, where=other > 0)
    change[other > 0] -= 1
    change[np.isnan(one)] = np.nan
    return change


def _coverages(
    losses: Losses, one: str, other: str, times: Float64Array
) -> dict[str, float | None]:
    names = ("coverage", "other_coverage", "miss", "miss_lower")
    if losses.nominal is None:
        return dict.fromkeys(names)
    cells = times @ losses.cells_BRT.sum(axis=(1, 2))
    mine, theirs = (
        _ratio(times @ losses.inside[name].sum(axis=(1, 2)), cells) for name in (one, other)
    )
    miss = np.abs(mine - losses.nominal) - np.abs(theirs - losses.nominal)
    found = (float(mine[0]), float(theirs[0]), float(miss[0]), quantile(miss[1:], 1 - LEVEL))
    return dict(zip(names, found, strict=True))


def _ratio(over: FloatArray, under: FloatArray) -> Float64Array:
    shares = np.full(over.shape, np.nan)
    np.divide(over, under, out=shares, where=np.broadcast_to(under > 0, over.shape))
    return shares
