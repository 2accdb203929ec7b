"""`make bench-windows`: how fast windows come from the grid to where the network reads them.

pytorch-forecasting's data loader and ours take turns in one run, on the same threads, and ratios
are of medians. The last line is one JSON line; see `bench/README.md` for what its figures mean.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.model import spec_of, step
from bench.panels import buffered, dataset, fleet
from bench.streams import Stream, demo, widened
from bench.turns import medians, say
from forecast.model import ModelSpec, build, network_inputs
from forecast.window_spec import WindowSpec
from forecast.windows import RawWindows, Windows, inverse, transform
from train.buffer import Buffer

_BATCH = 64
_HOURS = 20 * 24
_HOLDOUT_HOURS = 24
_FLEET = 1000
_UPDATE_WINDOWS, _UPDATE_EPOCHS = 256, 5
"""Of an online update, as `online_learning` has them by itself."""
_LEVELS = 9


@dataclass(frozen=True, slots=True)
class Setting:
    """How often is measured, and how many windows a pass has."""

    rounds: int
    windows: int


@dataclass(frozen=True, slots=True)
class Panel:
    """A stream in a buffer, and what reads it."""

    stream: Stream
    buffer: Buffer
    last: int
    """The last slot that is closed."""
    spec: ModelSpec

    @property
    def window(self) -> WindowSpec:
        """What a window is."""
        return self.spec.window

    def drawn(self, count: int, seed: int = 1) -> RawWindows:
        """Training windows, as the trainer draws them."""
        return self.buffer.draw(
            as_of=self.last, hours=_HOURS, count=count, seed=seed, holdout_hours=_HOLDOUT_HOURS
        )


def main() -> int:
    options = _arguments().parse_args()
    torch.set_num_threads(options.threads)
    setting = Setting(5, 1024) if options.quick else Setting(21, 4096)
    stream = widened(demo(), metrics=8, targets=4)
    spec = spec_of(stream)
    buffer, last = buffered(stream, spec.window)
    panel = Panel(stream, buffer, last, spec)
    figures: dict[str, Any] = {"threads": options.threads, "torch": torch.__version__}
    figures |= loaders(panel, setting)
    figures |= parts(panel, setting.rounds)
    figures |= shares(panel, setting.rounds)
    figures |= {"fleet1000_ms": fleet_ms(panel, setting.rounds)}
    print(json.dumps(figures))
    return 0


def loaders(panel: Panel, setting: Setting) -> dict[str, Any]:
    """Windows a second on the way to batches: theirs, and ours in three ways.

    Their set is built before anything is timed; so are ours first. Then ours as an update reads
    them, preparing included and spread over its epochs; and when each window is read but once.
    """
    theirs = _endless(panel)
    count = min(setting.windows, len(panel.drawn(setting.windows)))
    windows = transform(panel.drawn(count), panel.window)
    batch_s, prepared_s, pass_s, epochs_s = medians(
        [
            lambda: next(theirs),
            partial(_consume, lambda: epoch(windows)),
            partial(_consume, lambda: one_pass(panel, count)),
            partial(_consume, lambda: update(panel)),
        ],
        setting.rounds,
    )
    ways = {
        "": prepared_s / count,
        "update_": epochs_s / (_UPDATE_WINDOWS * _UPDATE_EPOCHS),
        "read_once_": pass_s / count,
    }
    theirs_s = batch_s / _BATCH
    said = {f"{way}ours": seconds * _BATCH for way, seconds in ways.items()}
    say(f"{_BATCH} windows", batch_s, **said)
    rates = {f"{way}windows_per_s": round(1 / seconds) for way, seconds in ways.items()}
    speedups = {f"{way}loader_speedup": round(theirs_s / each, 1) for way, each in ways.items()}
    return {"their_windows_per_s": round(1 / theirs_s), **rates, **speedups}


def one_pass(panel: Panel, count: int) -> Iterator[tuple[Tensor, ...]]:
    """Batches of windows that are drawn, cut, turned into features and read once."""
    windows = transform(panel.drawn(count), panel.window)
    for start in range(0, count, _BATCH):  # drawn in random order already
        yield tensors(windows.rows(slice(start, start + _BATCH)))


def update(panel: Panel) -> Iterator[tuple[Tensor, ...]]:
    """The batches of an online update: cut once, then put together anew in every epoch."""
    windows = transform(panel.drawn(_UPDATE_WINDOWS), panel.window)
    for _ in range(_UPDATE_EPOCHS):
        yield from epoch(windows)


def epoch(windows: Windows) -> Iterator[tuple[Tensor, ...]]:
    """The batches of one pass over prepared windows, in random order."""
    order = torch.randperm(len(windows)).numpy()
    for start in range(0, len(order), _BATCH):
        yield tensors(windows.select(order[start : start + _BATCH]))


def tensors(windows: Windows) -> tuple[Tensor, ...]:
    """What a training step reads of a batch."""
    return (*network_inputs(windows), torch.from_numpy(windows.target))


def parts(panel: Panel, rounds: int) -> dict[str, Any]:
    """Milliseconds of each part of the way, for 1, 64 and 1024 windows."""
    figures: dict[str, Any] = {}
    for count in (1, 64, 1024):
        raw = panel.drawn(count)
        windows = transform(raw, panel.window)
        shape = (*windows.target.shape, _LEVELS)
        outputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        found = medians(
            [
                partial(panel.drawn, count),
                partial(transform, raw, panel.window),
                partial(inverse, outputs, windows, panel.window),
            ],
            rounds,
        )
        names = ("draw", "transform", "inverse")
        mine = {f"{name}{count}_ms": s * 1e3 for name, s in zip(names, found, strict=True)}
        print(", ".join(f"{name} {ms:.2f}" for name, ms in mine.items()), flush=True)
        figures |= {name: round(ms, 3) for name, ms in mine.items()}
    return figures


def shares(panel: Panel, rounds: int) -> dict[str, Any]:
    """How much of a training step of the fast exact network is loading."""
    raw = panel.drawn(_UPDATE_WINDOWS)
    windows = transform(raw, panel.window)
    network = build(panel.spec, seed=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    rows = np.random.default_rng(0).permutation(len(windows))[:_BATCH]
    batch = windows.select(rows)

    def call(given: Windows) -> Tensor:
        return network(*network_inputs(given))  # type: ignore[no-any-return]

    step_s, prepare_s, select_s, anew_s = medians(
        [
            partial(step, network, optimizer, batch, call, panel.spec),
            lambda: transform(panel.drawn(_UPDATE_WINDOWS), panel.window),
            partial(windows.select, rows),
            lambda: transform(panel.drawn(_BATCH), panel.window),
        ],
        rounds,
    )
    steps = _UPDATE_EPOCHS * -(-len(windows) // _BATCH)
    loading_s = prepare_s / steps + select_s
    print(f"training step {step_s * 1e3:.1f} ms, of loading {loading_s * 1e3:.2f} ms", flush=True)
    return {
        "select64_ms": round(select_s * 1e3, 3),
        "train_step_ms": round(step_s * 1e3, 2),
        "loading_share": round(loading_s / (loading_s + step_s), 4),
        "loading_share_anew": round(anew_s / (anew_s + step_s), 4),
    }


def fleet_ms(panel: Panel, rounds: int) -> float:
    """Milliseconds of cutting and transforming one window of each of 1,000 servers."""
    cutter, names, last = fleet(panel.stream, panel.window, _FLEET)
    origins = np.full(len(names), last, np.int64)

    def once() -> Windows:
        raw = cutter.cut(names, origins, labels=False, as_of=last)
        return transform(raw, panel.window)

    [seconds] = medians([once], rounds)
    print(f"{len(names)} servers: {seconds * 1e3:.1f} ms", flush=True)
    return round(seconds * 1e3, 2)


def _endless(panel: Panel) -> Iterator[Any]:
    """Shuffled training batches of pytorch-forecasting's data loader."""
    given = dataset(panel.stream, panel.buffer, panel.window)
    loader = given.to_dataloader(train=True, batch_size=_BATCH, num_workers=0)
    while True:
        yield from loader


def _consume(batches: Callable[[], Iterator[object]]) -> None:
    for _ in batches():
        pass


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.windows", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and windows")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on both sides")
    return parser


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
