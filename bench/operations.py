"""How many arithmetic operations a forward pass needs, for a share of what the machine can do."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode

from forecast.model import ModelSpec


def counted(call: Callable[[], object]) -> float:
    """Operations in matrix products."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def uncounted(spec: ModelSpec, count: int, *, tables: bool) -> float:
    """Operations in LSTMs, which the counter does not see, and in the tables' sums."""
    window, hidden = spec.window, spec.hidden_size
    steps = count * (window.context + window.horizon)
    lstm = steps * spec.lstm_layers * 2 * 4 * hidden * 2 * hidden
    known, unknown = len(window.known_reals), len(window.unknown_reals)
    read = steps * known + count * (window.context * unknown + len(window.static_reals))
    return lstm + (read * 2 * 2 * hidden if tables else 0.0)
