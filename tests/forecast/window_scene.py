"""Made-up windows with gaps, zones and clock changes, and the oracle they are compared with.

The oracle builds every feature a second time, window by window in plain Python and pandas, and
hands the rows to pytorch-forecasting's own data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from pytorch_forecasting import TimeSeriesDataSet
from pytorch_forecasting.data.encoders import MultiNormalizer, NaNLabelEncoder, TorchNormalizer

from forecast.schema import Metric
from forecast.windows import RawWindows, WindowSpec

ROLES = ("", "db", "web")
SPRING = 5_915_818
"""The 5-minute slot ten minutes before clocks go forward in Berlin (2026-03-29 01:00 UTC)."""


def gauge(name: str, **rest: object) -> Metric:
    """A metric of any height."""
    return Metric(name, **rest)


def rate(name: str) -> Metric:
    """A heavy-tailed metric."""
    return Metric(name, unit="kB/s", lower=0.0, resolution=0.5, transform="log1p")


def made(
    metrics: Sequence[str],
    *,
    count: int = 6,
    context: int = 8,
    horizon: int = 3,
    step_seconds: int = 300,
    gaps: float = 0.0,
    zones: Sequence[str] = ("UTC",),
    origin: int = SPRING,
    seed: int = 0,
) -> RawWindows:
    """Random walks above 0; `gaps` is the share of values, lags and spreads that are missing."""
    draw = np.random.default_rng(seed)
    shape = (count, context + horizon, len(metrics))

    def walk() -> np.ndarray:
        values = np.abs(draw.normal(5, 1, (count, 1, 1)) + draw.normal(0, 0.5, shape).cumsum(1))
        return np.where(draw.random(shape) < gaps, np.nan, values).astype(np.float32)

    spread = draw.uniform(0.5, 2.0, (count, len(metrics)))
    return RawWindows(
        servers=tuple(f"web-{number:02}" for number in range(count)),
        roles=tuple(("web", "db", "new", "")[number % 4] for number in range(count)),
        timezones=tuple(zones[number % len(zones)] for number in range(count)),
        metrics=tuple(metrics),
        context=context,
        horizon=horizon,
        step_seconds=step_seconds,
        origin=origin + np.arange(count, dtype=np.int64) * 7,
        values=walk(),
        daily=walk(),
        weekly=walk(),
        spread=np.where(draw.random(spread.shape) < gaps, np.nan, spread).astype(np.float32),
    )


def oracle(raw: RawWindows, spec: WindowSpec) -> TimeSeriesDataSet:
    """The data set that pytorch-forecasting makes of the same windows; one group a window."""
    targets = [f"y_{place}" for place in range(len(spec.targets))]
    rows = [row for number in range(len(raw)) for row in _rows(raw, spec, number)]
    same = [TorchNormalizer(method="identity") for _ in targets]
    known = [name for name in spec.known_reals if name != "relative_time_idx"]
    roles = NaNLabelEncoder(add_nan=True).fit(pd.Series(spec.roles[1:], dtype=object))
    reals = [*spec.static_reals, *spec.known_reals, *spec.unknown_reals]
    return TimeSeriesDataSet(
        pd.DataFrame(rows),
        time_idx="place",
        group_ids=["window"],
        target=targets if len(targets) > 1 else targets[0],
        weight="seen",
        min_encoder_length=spec.context,
        max_encoder_length=spec.context,
        min_prediction_length=spec.horizon,
        max_prediction_length=spec.horizon,
        static_categoricals=list(spec.static_categoricals),
        static_reals=list(spec.static_reals),
        time_varying_known_reals=known,
        time_varying_unknown_reals=list(spec.unknown_reals),
        add_relative_time_idx=True,
        target_normalizer=MultiNormalizer(same) if len(targets) > 1 else same[0],
        categorical_encoders={"static_role": roles},
        scalers=dict.fromkeys(reals),
    )


def _rows(raw: RawWindows, spec: WindowSpec, number: int) -> list[dict[str, object]]:
    """The rows of one window: context, then horizon."""
    context, length = spec.context, spec.context + spec.horizon
    columns = {m.name: _column(raw, m, number, spec.scale_floor_share) for m in spec.metrics}
    role = raw.roles[number]
    static: dict[str, object] = {"static_role": role if role in spec.roles[1:] else "nan"}
    for target in spec.targets:
        column = columns[target]
        static[f"static_scale_{_key(target)}"] = math.log(column.scale / column.spread)
        fineness = math.log(max(column.spread / column.finest, 1.0)) / 5
        static[f"static_spread_{_key(target)}"] = fineness
    rows, age = [], 0
    for place in range(length):
        row = {"window": f"{number:04}", "place": place, **static}
        moment = (int(raw.origin[number]) - context + 1 + place) * spec.step_seconds
        row |= _calendar(datetime.fromtimestamp(moment, ZoneInfo(raw.timezones[number])))
        for kind in ("lagd", "lagw"):
            lags = [columns[target].lag(kind, place) for target in spec.targets]
            for target, lag in zip(spec.targets, lags, strict=True):
                row[f"{kind}_{_key(target)}"] = 0.0 if lag is None else math.asinh(lag)
            row[f"seen_{kind}"] = sum(lag is not None for lag in lags) / len(lags)
        seen = [not math.isnan(columns[target].values[place]) for target in spec.targets]
        for name, column in columns.items():
            inside = place < context
            row[f"val_{_key(name)}"] = math.asinh(column.filled(place)) if inside else 0.0
        missing = sum(math.isnan(column.values[place]) for column in columns.values())
        age = 0 if any(seen) else age + 1
        row["gap_age"] = math.log1p(age) if place < context else 0.0
        row["gap_share"] = missing / len(columns) if place < context else 0.0
        row["seen"] = sum(seen) / len(seen)
        for position, target in enumerate(spec.targets):
            label = columns[target].scaled(columns[target].values[place])
            row[f"y_{position}"] = 0.0 if label is None else label
        rows.append(row)
    return rows


class _Column:
    """One metric of one window, in model space."""

    def __init__(
        self, metric: Metric, values: np.ndarray, lags: dict[str, np.ndarray], spread: float
    ) -> None:
        self._log = metric.transform == "log1p"
        self.values = [self._moved(value) for value in values]
        self._lags = {kind: [self._moved(v) for v in lag] for kind, lag in lags.items()}
        self.spread = spread
        self._resolution = metric.resolution

    def fit(self, context: int, floor_share: float) -> None:
        """Fill the context, then find center and scale."""
        inside = pd.Series(self.values[:context], dtype=float)
        self._filled = inside.ffill().bfill().fillna(0.0)
        self._center = float(self._filled.iloc[-1])
        natural = self._resolution / math.exp(self._center) if self._log else self._resolution
        step = math.log1p(natural) if self._log else natural
        self.finest = max(step, 1e-6 * abs(self._center))
        deviation = 0.0 if inside.isna().all() else float(inside.std(ddof=0))
        floor = 0.0 if math.isnan(self.spread) else floor_share * self.spread
        self.scale = max(deviation, floor, self.finest)
        self.spread = self.scale if math.isnan(self.spread) else self.spread

    def filled(self, place: int) -> float:
        return (self._filled.iloc[place] - self._center) / self.scale

    def lag(self, kind: str, place: int) -> float | None:
        return self.scaled(self._lags[kind][place])

    def scaled(self, value: float) -> float | None:
        return None if math.isnan(value) else (value - self._center) / self.scale

    def _moved(self, value: float) -> float:
        return math.log1p(max(value, 0.0)) if self._log else float(value)


def _column(raw: RawWindows, metric: Metric, number: int, floor_share: float) -> _Column:
    length = raw.context + raw.horizon
    if metric.name in raw.metrics:
        place = raw.metrics.index(metric.name)
        lags = {"lagd": raw.daily[number, :, place], "lagw": raw.weekly[number, :, place]}
        values, spread = raw.values[number, :, place], float(raw.spread[number, place])
    else:
        values, spread = np.full(length, np.nan), math.nan
        lags = {"lagd": values, "lagw": values}
    column = _Column(metric, values, lags, spread)
    column.fit(raw.context, floor_share)
    return column


def _calendar(local: datetime) -> dict[str, float]:
    day = local.hour * 60 + local.minute + local.second / 60
    angles = {"day": day / 1440, "week": (local.weekday() * 1440 + day) / 10080}
    return {
        f"cal_{cycle}_{name}": wave(2 * math.pi * share)
        for cycle, share in angles.items()
        for name, wave in (("sin", math.sin), ("cos", math.cos))
    }


def _key(name: str) -> str:
    return name.replace(".", "%2E")
