"""What sites' forecasts were worth, day by day, and how surely one way is better than another.

A site's WQL is the mean over targets of each target's ratio of sums; the federation's is the mean
over its sites, each counting alike. Intervals are the paired bootstrap of `train.paired` over days:
all sites and seeds of a day are drawn together.

Legend: D days, S sites, T targets, K resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forecast.metrics import Float64Array, FloatArray, pinball
from forecast.windows import RawWindows
from train.paired import resamples

_LOSS, _SIZE = 0, 1
_LEVELS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Gain:
    """1 - WQL / WQL of the other, and its 95 % interval."""

    gain: float
    low: float
    high: float

    def told(self, name: str) -> dict[str, float]:
        """As flat figures."""
        return {name: self.gain, f"{name}_low": self.low, f"{name}_high": self.high}


def day_sums(
    raw: RawWindows,
    forecast: FloatArray,
    targets: Sequence[str],
    levels: Sequence[float],
    *,
    first: int,
    days: int,
) -> Float64Array:
    """Sums [D, T, 2] of loss and size by day of the origin, from slot `first` on."""
    columns = [raw.metrics.index(target) for target in targets]
    y_NHT = raw.values[:, raw.context :, columns]
    loss = np.stack(
        [pinball(y_NHT[..., t], forecast[:, :, t], levels).mean(-1) for t in range(len(targets))],
        axis=-1,
    )
    known = np.isfinite(y_NHT)
    cells = np.stack([np.where(known, loss, 0), np.where(known, np.abs(y_NHT), 0)], axis=-1)
    day = (raw.origin - first) * raw.step_seconds // 86400
    sums = np.zeros((days, len(targets), 2))
    np.add.at(sums, np.clip(day, 0, days - 1), cells.sum(axis=1, dtype=np.float64))
    return sums


def site_wql(sums_SDT2: Float64Array) -> Float64Array:
    """[S] WQL of each site over all days; NaN where nothing came."""
    return _wql(sums_SDT2.sum(axis=1))


def mean_wql(sums_SDT2: Float64Array) -> float:
    """Over the sites that can tell."""
    return float(np.nanmean(site_wql(sums_SDT2)))


def gain(one_SDT2: Float64Array, other_SDT2: Float64Array, *, seed: int) -> Gain:
    """How much lower the mean WQL of `one` over the sites is, as a share of the other's."""
    drawn = [np.nanmean(_resampled(each, seed), axis=1) for each in (one_SDT2, other_SDT2)]
    return _interval(1 - drawn[0] / drawn[1])


def by_site(one_SDT2: Float64Array, other_SDT2: Float64Array, *, seed: int) -> list[Gain]:
    """The same of each site that can tell."""
    one, other = (_resampled(each, seed) for each in (one_SDT2, other_SDT2))
    shares = 1 - one / other
    return [_interval(each) for each in shares.T if np.isfinite(each[0])]


def pooled(runs: Sequence[Mapping[str, Float64Array]]) -> dict[str, Float64Array]:
    """Sums [S, D, T, 2] of each way to forecast over all seeds."""
    return {name: np.sum([run[name] for run in runs], axis=0) for name in runs[0]}


def _resampled(sums_SDT2: Float64Array, seed: int) -> Float64Array:
    """[1 + K, S] each site's WQL in each resample of days; the first is the sample itself."""
    sites, days = sums_SDT2.shape[:2]
    times = resamples(days, seed=seed)
    totals = times @ np.moveaxis(sums_SDT2, 1, 0).reshape(days, -1)
    return _wql(totals.reshape(len(times), sites, *sums_SDT2.shape[2:]))


def _wql(sums_T2: Float64Array) -> Float64Array:
    """[...] of sums [..., T, 2]: the mean over the targets that have a size."""
    size = sums_T2[..., _SIZE]
    ratio = np.full(size.shape, np.nan)
    np.divide(2 * sums_T2[..., _LOSS], size, out=ratio, where=size > 0)
    known = np.isfinite(ratio)
    mean = np.full(size.shape[:-1], np.nan)
    total = np.where(known, ratio, 0).sum(-1)
    np.divide(total, known.sum(-1), out=mean, where=known.any(-1))
    return mean


def _interval(drawn: Float64Array) -> Gain:
    low, high = np.nanquantile(drawn[1:], _LEVELS)
    return Gain(float(drawn[0]), float(low), float(high))
