"""Two sides of a comparison that take turns in one run, so that a busy machine is busy for both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def medians(sides: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Seconds of each side; each round runs every one of them once."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 1):
        for side, seen in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:  # the first one warms up
                seen.append(time.perf_counter() - start)
    return [statistics.median(seen) for seen in times]


def say(what: str, theirs: float, **ours: float) -> None:
    """Print a comparison with pytorch-forecasting's seconds."""
    parts = [f"{name} {s * 1e3:.2f} ms ({theirs / s:.1f}x)" for name, s in ours.items()]
    print(f"{what}: pytorch-forecasting {theirs * 1e3:.2f} ms, {', '.join(parts)}", flush=True)
