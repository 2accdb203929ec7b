"""`python -m bench.ett`: the least-squares expert's solver on ETTh1, a known anchor without a leak.

ETTh1 by months, 12 / 4 / 4: 8,640 rows to train, 2,880 to choose by, 2,880 to test; each channel in
deviations of the first part. The mean squared error is over all 7 channels, all steps up to H and
all test origins with full labels. A forecast reads 96 values less the newest (NLinear: Zeng et al.,
AAAI 2023), weights are refitted every 24 rows on labels that are known by then, and forgetting and
ridge are those with the smallest error on the middle part, forecast the same way. The last line is
one JSON line: `ls_*` one set of weights for all channels, `own_*` one for each of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from train.moments import Moments

Floats = NDArray[np.float64]

TRAIN, VALIDATION, TEST = 8640, 2880, 2880
HORIZONS = (1, 24, 48)
TAPS, EVERY = 96, 24
FORGETTING = (0.999, 0.9995, 0.9998, 1.0)
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
ANCHOR = {1: 0.099, 24: 0.301, 48: 0.339}
"""Errors of an independent implementation of the same protocol."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Mean squared errors of one horizon, and what was chosen for it."""

    mse: float
    forgetting: float
    ridge: float


@dataclass(slots=True)
class Sum:
    """A sum of squared errors and how many there are."""

    total: float = 0.0
    count: int = 0

    def add(self, error: Floats) -> None:
        """Take in errors."""
        self.total += float(np.square(error).sum())
        self.count += error.size

    @property
    def mean(self) -> float:
        """The mean squared error."""
        return self.total / self.count


def load(path: Path) -> Floats:
    """Channels [7, rows] in deviations from the train part's mean.

    Raises ValueError when there are fewer rows than the protocol needs.
    """
    rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(1, 8))
    total = TRAIN + VALIDATION + TEST
    if len(rows) < total:
        raise ValueError(f"{path} has {len(rows)} rows, the protocol needs {total}")
    seen = rows[:TRAIN]
    scaled: Floats = ((rows[:total] - seen.mean(0)) / seen.std(0)).T
    return scaled


class Stream:
    """Inputs and labels of every origin of one horizon.

    C channels, N origins (the first is row 95), P inputs, H steps.
    """

    def __init__(self, values: Floats, horizon: int, taps: int = TAPS) -> None:
        self.horizon, self.first = horizon, taps - 1
        origins = np.arange(self.first, values.shape[1] - horizon)
        last = values[:, origins, None]
        back = sliding_window_view(values, taps, axis=1)[:, : len(origins), :-1]
        self.inputs = np.concatenate([back - last, np.ones_like(last)], axis=-1)
        labels = sliding_window_view(values[:, taps:], horizon, axis=1)[:, : len(origins)]
        self.labels = labels - last
        """Copy-last's errors too: the newest value is their centre."""

    def part(self, begin: int, end: int) -> slice:
        """Where the origins from row `begin` to before `end` stand."""
        return slice(max(0, begin - self.first), max(0, end - self.first))


def forecast(
    stream: Stream, begin: int, end: int, *, forgetting: float, ridges: Sequence[float], own: bool
) -> list[Sum]:
    """Errors of the origins [begin, end), per ridge; every 24 rows weights come from the past.

    An origin is learned from once its last label is in: `horizon` rows later.
    """
    channels, _, inputs = stream.inputs.shape
    group = channels if own else 1
    moments = Moments(group=group, inputs=inputs, outputs=stream.horizon, forgetting=forgetting)
    found = [Sum() for _ in ridges]
    learned, aged_to = 0, begin
    for now in range(begin, end, EVERY):
        moments.forget(now - aged_to)
        aged_to, known = now, now - stream.horizon + 1
        here = stream.part(learned, known)
        given, wanted = stream.inputs[:, here], stream.labels[:, here]
        age = np.broadcast_to(now - np.arange(max(learned, stream.first), known), given.shape[:2])
        parts = (given, wanted, age.astype(np.float64))
        for channel in range(channels):  # one at a time into a common sum, or all side by side
            if own:
                moments.add(*parts)
                break
            moments.add(*(part[channel : channel + 1] for part in parts))
        learned = known
        there = stream.part(now, min(now + EVERY, end))
        for total, ridge in zip(found, ridges, strict=True):
            weights = moments.alone(ridge=ridge) if own else moments.pooled(ridge=ridge)
            total.add(stream.inputs[:, there] @ weights - stream.labels[:, there])
    return found


def chosen(stream: Stream, *, own: bool) -> Errors:
    """The test error with the forgetting and ridge that the validation part chooses."""
    middle, last = TRAIN - 1, TRAIN + VALIDATION - 1
    tried = [
        (total.mean, forgetting, ridge)
        for forgetting in FORGETTING
        for total, ridge in zip(
            forecast(
                stream,
                middle,
                last + 1 - stream.horizon,
                forgetting=forgetting,
                ridges=RIDGES,
                own=own,
            ),
            RIDGES,
            strict=True,
        )
    ]
    _, forgetting, ridge = min(tried)
    end = last + TEST + 1 - stream.horizon
    [test] = forecast(stream, last, end, forgetting=forgetting, ridges=[ridge], own=own)
    return Errors(test.mean, forgetting, ridge)


def copy_last(stream: Stream) -> float:
    """Copy-last's error on the same origins."""
    last = TRAIN + VALIDATION - 1
    total = Sum()
    total.add(stream.labels[:, stream.part(last, last + TEST + 1 - stream.horizon)])
    return total.mean


def main(argv: Sequence[str] | None = None) -> int:
    """Run the protocol; the exit status."""
    options = _arguments().parse_args(argv)
    values, begin = load(options.data), time.perf_counter()
    told: dict[str, Any] = {}
    for horizon in HORIZONS:
        stream = Stream(values, horizon)
        told[f"copy_last_mse_{horizon}"] = round(copy_last(stream), 4)
        for name, own in (("ls", False), ("own", True)):
            errors = chosen(stream, own=own)
            told[f"{name}_mse_{horizon}"] = round(errors.mse, 4)
            told[f"{name}_forgetting_{horizon}"] = errors.forgetting
            told[f"{name}_ridge_{horizon}"] = errors.ridge
        off = told[f"ls_mse_{horizon}"] - ANCHOR[horizon]
        told[f"ls_off_anchor_{horizon}"] = round(off, 4)
        print(
            f"H={horizon}: least squares {told[f'ls_mse_{horizon}']} (anchor {ANCHOR[horizon]}), "
            f"by channel {told[f'own_mse_{horizon}']}, "
            f"copy-last {told[f'copy_last_mse_{horizon}']}",
            flush=True,
        )
    told["seconds"] = round(time.perf_counter() - begin, 1)
    print(json.dumps(told))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.ett", description=__doc__)
    folder = os.environ.get("FLEETCAST_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        required=folder is None,
        default=None if folder is None else Path(folder) / "ETTh1.csv",
        help="ETTh1.csv; by itself that of FLEETCAST_DATA",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
