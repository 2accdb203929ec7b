"""`make bench-model`: the network's two fast forms against pytorch-forecasting's, side by side.

Both sides take turns in one run, on the same threads, and ratios are of medians. The last line is
one JSON line; see `bench/README.md` for what its figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_forecasting import TemporalFusionTransformer
from torch import Tensor, nn

from bench.operations import counted, uncounted
from bench.streams import Stream, demo, real_streams, widened
from bench.turns import medians, say
from forecast.definition import define, defined_forward
from forecast.fast.exact import FastTFT
from forecast.fast.serving import ServingTFT
from forecast.model import ModelSpec, network_inputs, pinball
from forecast.window_spec import WindowSpec
from forecast.windows import Windows, transform

_LEVELS = tuple(n / 10 for n in range(1, 10))
_TRAIN_BATCH = 64
_LARGE_BATCH = 16
_SEED = 1


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured, and how often."""

    rounds: int
    """Of the slowest comparison; faster ones make more."""
    training_steps: int
    """Before the weights count as trained."""
    windows: int
    """Of each stream, for the error."""


def main() -> int:
    options = _arguments().parse_args()
    torch.set_num_threads(options.threads)
    setting = Setting(3, 40, 128) if options.quick else Setting(9, 300, 1024)
    fleet = widened(demo(), metrics=8, targets=4)
    spec = spec_of(fleet)
    network, fast = trained(spec, fleet, setting.training_steps)
    figures: dict[str, Any] = {"threads": options.threads, "torch": torch.__version__}
    figures |= forwards(network, fast, fleet, spec, setting.rounds)
    figures["train_step_speedup"], *_ = training(network, fast, fleet, spec, setting.rounds)
    figures |= errors(options.data, setting)
    figures |= shares(network, fast, fleet, spec)
    figures |= large(setting.rounds // 3) if not options.quick else _nothing_large()
    figures |= gpu(fleet, spec, setting.rounds)
    print(json.dumps(figures))
    return 0


def spec_of(stream: Stream, **sizes: Any) -> ModelSpec:  # noqa: ANN401
    """The reference setting for a stream; `sizes` replace context, horizon and hidden size."""
    window = WindowSpec(
        step_seconds=stream.step_seconds,
        context=sizes.get("context", 72),
        horizon=sizes.get("horizon", 12),
        metrics=stream.metrics,
        targets=stream.targets,
        roles=("", *sorted({info.role for info in stream.infos if info.role})),
    )
    return ModelSpec(window, _LEVELS, hidden_size=sizes.get("hidden", 16))


def cut(stream: Stream, spec: ModelSpec, count: int, seed: int = 0) -> Windows:
    """Windows of a stream as a model reads them."""
    window = spec.window
    return transform(stream.windows(window.context, window.horizon, count, seed), window)


def trained(
    spec: ModelSpec, stream: Stream, steps: int
) -> tuple[TemporalFusionTransformer, FastTFT]:
    """One network in both forms, after so many steps on the stream."""
    network = define(spec, seed=_SEED)
    fast = FastTFT.of(network)
    optimizer = torch.optim.Adam(fast.parameters(), lr=3e-3, fused=True)
    windows = cut(stream, spec, _TRAIN_BATCH * max(1, min(steps, 64)))
    torch.manual_seed(_SEED)
    for turn in range(steps):
        rows = np.arange(_TRAIN_BATCH) + turn * _TRAIN_BATCH
        batch = windows.select(rows % len(windows))
        step(fast, optimizer, batch, lambda part: fast(*network_inputs(part)), spec)
    network.load_state_dict(fast.state_dict())
    return network.eval(), fast.eval()


def step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Windows,
    call: Callable[[Windows], Tensor],
    spec: ModelSpec,
) -> None:
    """One training step as `train.learner` makes it."""
    predicted = call(batch)
    target = torch.from_numpy(batch.target).to(predicted.device)
    loss = pinball(predicted, target, spec.quantiles)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(list(module.parameters()), 0.1)
    optimizer.step()


def forwards(
    network: TemporalFusionTransformer, fast: FastTFT, stream: Stream, spec: ModelSpec, rounds: int
) -> dict[str, Any]:
    """Speed-ups of both forms for 1, 64 and 512 windows, and what building the tables takes."""
    [build_s] = medians([lambda: ServingTFT(fast)], rounds)
    serving = ServingTFT(fast)
    figures: dict[str, Any] = {}
    for count, more in ((1, 8), (64, 3), (512, 1)):
        windows = cut(stream, spec, count)
        given = network_inputs(windows)
        with torch.inference_mode():
            theirs, exact, ours = medians(
                [
                    partial(defined_forward, network, windows),
                    partial(fast, *given),
                    partial(serving, *given),
                ],
                rounds * more,
            )
        say(f"forward of {count} windows", theirs, exact=exact, serving=ours)
        figures[f"forward{count}_ms"] = round(ours * 1e3, 3)
        figures[f"forward{count}_speedup"] = round(theirs / ours, 2)
        figures[f"exact_forward{count}_speedup"] = round(theirs / exact, 2)
    figures |= {"table_build_s": round(build_s, 4), "table_bytes": serving.table_bytes}
    return figures


def training(
    network: TemporalFusionTransformer,
    fast: FastTFT,
    stream: Stream,
    spec: ModelSpec,
    rounds: int,
    batch: int = _TRAIN_BATCH,
) -> tuple[float, float]:
    """How many times faster a step is, dropout and optimiser included, and its seconds."""
    device = str(next(network.parameters()).device)
    windows = cut(stream, spec, batch)
    given = network_inputs(windows, device)
    theirs, ours = define(spec, seed=_SEED).to(device), FastTFT.of(network).train()
    theirs.load_state_dict(network.state_dict())
    first = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    second = torch.optim.Adam(ours.parameters(), lr=1e-3, fused=True)
    slow, quick = medians(
        [
            lambda: step(theirs, first, windows, lambda part: defined_forward(theirs, part), spec),
            lambda: step(ours, second, windows, lambda _: ours(*given), spec),
        ],
        rounds,
    )
    say(f"training step of {batch} windows on {device}", slow, exact=quick)
    return round(slow / quick, 2), quick


def errors(data: Path | None, setting: Setting) -> dict[str, Any]:
    """The worst difference from pytorch-forecasting's forward, in units of the target's scale."""
    worst, outside, models = 0.0, 0, {}
    for stream in real_streams(data):
        family = stream.name.removesuffix("-spikes")
        if family not in models:
            spec = spec_of(stream)
            models[family] = (spec, trained(spec, stream, setting.training_steps))
        spec, (network, fast) = models[family]
        serving = ServingTFT(fast)
        windows = cut(stream, spec, setting.windows, seed=3)
        with torch.inference_mode():
            found = serving(*network_inputs(windows))
            error = float((found - defined_forward(network, windows)).abs().max())
        print(f"{stream.name}: error {error:.1e}, {serving.outside.values} inputs off the tables")
        worst, outside = max(worst, error), outside + serving.outside.values
    return {"max_error": float(f"{worst:.3g}"), "out_of_range": outside}


def shares(
    network: TemporalFusionTransformer, fast: FastTFT, stream: Stream, spec: ModelSpec
) -> dict[str, Any]:
    """How much of the machine's matrix-product rate the serving form reaches."""
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    serving, windows = ServingTFT(fast), cut(stream, spec, 64)
    given = network_inputs(windows)
    with torch.inference_mode():
        product_s, serving_s = medians([lambda: left @ right, partial(serving, *given)], 15)
    rate = 2 * 1024**3 / product_s
    with torch.no_grad():
        done = counted(partial(serving, *given)) + uncounted(spec, len(windows), tables=True)
        needed = counted(partial(defined_forward, network, windows))
        needed += uncounted(spec, len(windows), tables=False)
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s; 64 windows: {done / 1e9:.3f} GFLOP done")
    return {
        "matmul_gflops": round(rate / 1e9, 1),
        "matmul_share": round(done / serving_s / rate, 4),
        "model_share": round(needed / serving_s / rate, 4),
    }


def large(rounds: int) -> dict[str, Any]:
    """A larger model: hidden 64, context 288, horizon 96, 20 metrics."""
    stream = widened(demo(), metrics=20, targets=4)
    spec = spec_of(stream, context=288, horizon=96, hidden=64)
    network, fast = trained(spec, stream, 0)
    start = time.perf_counter()
    serving = ServingTFT(fast)
    figures: dict[str, Any] = {
        "large_table_build_s": round(time.perf_counter() - start, 3),
        "large_table_bytes": serving.table_bytes,
    }
    for count in (1, _LARGE_BATCH):
        windows = cut(stream, spec, count)
        given = network_inputs(windows)
        with torch.inference_mode():
            theirs, ours = medians(
                [
                    partial(defined_forward, network, windows),
                    partial(serving, *given),
                ],
                rounds,
            )
            error = float((serving(*given) - defined_forward(network, windows)).abs().max())
        say(f"large: forward of {count} windows", theirs, serving=ours)
        figures[f"large_forward{count}_speedup"] = round(theirs / ours, 2)
    figures["large_max_error"] = float(f"{error:.3g}")
    figures["large_train_step_speedup"], *_ = training(
        network, fast, stream, spec, rounds, _LARGE_BATCH
    )
    return figures


def _nothing_large() -> dict[str, Any]:
    names = ("table_build_s", "table_bytes", "forward1_speedup", "forward16_speedup")
    return dict.fromkeys(
        [f"large_{name}" for name in (*names, "max_error", "train_step_speedup")], None
    )


def gpu(stream: Stream, spec: ModelSpec, rounds: int) -> dict[str, Any]:
    """The exact form on a GPU; null where there is none."""
    names = ("gpu_name", "gpu_forward64_speedup", "gpu_forward512_speedup")
    figures: dict[str, Any] = dict.fromkeys([*names, "gpu_train_step_speedup"], None)
    if not torch.cuda.is_available():
        return figures
    figures["gpu_name"] = torch.cuda.get_device_name()
    network = define(spec, seed=_SEED).eval().cuda()
    fast = FastTFT.of(network)
    for count in (64, 512):
        windows = cut(stream, spec, count)
        given = network_inputs(windows, "cuda")
        with torch.inference_mode():
            theirs, ours = medians(
                [
                    partial(defined_forward, network, windows),
                    partial(fast, *given),
                ],
                rounds * 3,
            )
        say(f"GPU: forward of {count} windows", theirs, exact=ours)
        figures[f"gpu_forward{count}_speedup"] = round(theirs / ours, 2)
    figures["gpu_train_step_speedup"], *_ = training(network, fast, stream, spec, rounds * 3)
    return figures


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no larger model")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on both sides")
    folder = os.environ.get("FLEETCAST_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(folder) if folder else None,
        help="the folder of bitbrains.parquet, measured too (default: FLEETCAST_DATA)",
    )
    return parser


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
