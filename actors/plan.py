"""What a config needs, with what only the running side knows: its metric series, its speed here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from actors import handles, telemetry
from forecast.config import Config
from forecast.lineup import members_of
from forecast.metrics import central_intervals
from forecast.needs import Plan
from forecast.plan import Rates, plan

if TYPE_CHECKING:
    from forecast.window_spec import WindowSpec
    from forecast.windows import RawWindows

_WINDOWS = 128
_FIXED = {"verdict": 2, "model": 2, "channel": 3, "kind": 3}
"""Values of the labels that do not depend on the config."""
_FEDERATED = {"outcome": 4, "verdict": 9}
"""The same of the federation's rows."""


def plan_of(config: Config, rates: Rates | None = None) -> Plan:
    """The needs of a config."""
    # Whoever scrapes Ray's nodes too gets the same numbers a second time, under Ray's names.
    count = sum(series_of(row, config) for row in telemetry.TABLE)
    return plan(config, series={"at /metrics": count, "by Ray's exporter": count}, rates=rates)


def series_of(row: telemetry.Row, config: Config) -> int:
    """How many series one row of the telemetry table becomes."""
    federated = row.path.startswith("federated.")
    if federated and not config.federated.enabled:
        return 0
    values = {
        "role": len(handles.ROLES) - 1,
        "member": members_of(config),
        "target": len(config.panel.targets),
        "interval": len(central_intervals(config.panel.quantiles)),
        **(_FEDERATED if federated else _FIXED),
    }
    if row.kind == "histogram":
        return len(telemetry.BOUNDS) + 3  # one more bucket, sum and count
    return 1 if row.label is None else values[row.label]


def refuse(config: Config) -> Plan:
    """The needs; raises ConfigError when one is above its limit in `[limits]`."""
    found = plan_of(config)
    found.refuse()
    return found


def measure(config: Config) -> Rates:
    """Rates on this machine: CPU seconds of one thread, over a network of random weights."""
    import torch  # only where it is asked for

    from actors import arguments, federated_arguments
    from forecast.model import Model, build
    from train.learner import Learner

    spec = federated_arguments.spec_of(config, config.model.roles or ("role",))
    model, raw = Model(spec, build(spec, seed=0)).serving(), _windows(spec.window)
    learner = Learner.of({**arguments.trainer(config)["learner"], "epochs": 1, "threads": 1})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other by spinning would count too
    try:
        model.predict(raw)  # the first pass sets up what later ones reuse
        began = time.process_time()
        model.predict(raw)
        between = time.process_time()
        learner.update(model, raw, seed=0)
        ended = time.process_time()
    finally:
        torch.set_num_threads(threads)
    return Rates((between - began) / _WINDOWS, (ended - between) / _WINDOWS)


def _windows(spec: WindowSpec) -> RawWindows:
    from forecast.windows import RawWindows

    rng = np.random.default_rng(0)
    shape = (_WINDOWS, spec.context + spec.horizon, len(spec.metrics))
    values, daily, weekly = rng.random((3, *shape), dtype=np.float32)
    return RawWindows(
        metrics=tuple(metric.name for metric in spec.metrics),
        context=spec.context,
        horizon=spec.horizon,
        step_seconds=spec.step_seconds,
        servers=tuple(f"server-{number}" for number in range(_WINDOWS)),
        roles=("",) * _WINDOWS,
        timezones=("UTC",) * _WINDOWS,
        origin=np.full(_WINDOWS, 2 * 7 * 86400 // spec.step_seconds),
        values=values,
        daily=daily,
        weekly=weekly,
        spread=np.ones((_WINDOWS, len(spec.metrics)), np.float32),
    )
