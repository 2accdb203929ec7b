"""A tiny fleet's windows and network: two metrics, a 12-slot context, 3 slots ahead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forecast.model import Model, ModelSpec, build
from forecast.schema import Metric
from forecast.window_spec import WindowSpec
from forecast.windows import RawWindows

CONTEXT, HORIZON, DAY = 12, 3, 288
METRICS = (
    Metric("cpu_usage_ratio", unit="ratio", lower=0.0, upper=1.0),
    Metric("network_kb_per_s", unit="kB/s", lower=0.0, resolution=0.1, transform="log1p"),
)
TARGETS = tuple(metric.name for metric in METRICS)
LEVELS = (0.1, 0.5, 0.9)


def spec() -> ModelSpec:
    """A network small enough for milliseconds."""
    window = WindowSpec(
        step_seconds=300,
        context=CONTEXT,
        horizon=HORIZON,
        metrics=METRICS,
        targets=TARGETS,
        roles=("", "web"),
    )
    return ModelSpec(window, LEVELS, hidden_size=4, hidden_continuous_size=2)


def model(seed: int = 0) -> Model:
    """An untrained model."""
    return Model(spec(), build(spec(), seed=seed))


def daily_rhythm(slots: np.ndarray, seed: int) -> np.ndarray:
    """Values [..., 2] at these slots: a quick wave and a little noise."""
    noise = np.random.default_rng(seed).normal(0, 0.02, (*slots.shape, 2))
    wave = np.sin(2 * np.pi * slots / 24)
    levels = np.stack([0.5 + 0.3 * wave, 40 + 30 * wave], axis=-1)
    return (levels * (1 + noise)).astype(np.float32)


def windows(count: int = 48, *, seed: int = 0, first: int = 10_000) -> RawWindows:
    """Labelled windows of one server in a row of slots."""
    origin = first + np.arange(count, dtype=np.int64)
    slots = origin[:, None] + np.arange(-CONTEXT + 1, HORIZON + 1)
    return RawWindows(
        servers=("web-01",) * count,
        roles=("web",) * count,
        timezones=("UTC",) * count,
        metrics=TARGETS,
        context=CONTEXT,
        horizon=HORIZON,
        step_seconds=300,
        origin=origin,
        values=daily_rhythm(slots, seed),
        daily=daily_rhythm(slots - DAY, seed),
        weekly=daily_rhythm(slots - 7 * DAY, seed),
        spread=np.full((count, 2), 0.3, np.float32),
    )


def without_labels(raw: RawWindows) -> RawWindows:
    """The same windows with nothing known of the horizon."""
    values = raw.values.copy()
    values[:, raw.context :] = np.nan
    return replace(raw, values=values)
