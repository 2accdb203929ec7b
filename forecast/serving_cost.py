"""What a version's serving forms cost: how far they are from the exact one, and their memory."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch

from forecast.fast.serving import Precision, ServingTFT
from forecast.model import Model, pinball
from forecast.windows import RawWindows, transform

_WINDOWS = 256


def costs(model: Model, raw: RawWindows) -> dict[str, Any]:
    """Of each precision, on the first of these windows: for the manifest, JSON-able.

    `max_error` is the largest difference of a quantile, in units of its window's scale;
    `pinball` the mean loss over the known labels, in the same units, with that of the exact form
    as `exact_pinball`.
    """
    windows = transform(raw.select(np.arange(min(_WINDOWS, len(raw)))), model.spec.window)
    wanted = Model(model.spec, model.network, adapter=model.adapter).scaled(windows)
    target = torch.from_numpy(windows.target)

    def loss(found: np.ndarray[Any, Any]) -> float:
        return _shown(float(pinball(torch.from_numpy(found), target, model.spec.quantiles)))

    found: dict[str, Any] = {"windows": len(windows), "exact_pinball": loss(wanted)}
    precisions: tuple[Precision, ...] = get_args(Precision)
    for precision in precisions:
        served = model.serving(precision=precision)
        assert isinstance(served.engine, ServingTFT)
        scaled = served.scaled(windows)
        found[precision] = {
            "max_error": _shown(float(np.abs(scaled - wanted).max())),
            "pinball": loss(scaled),
            "steep": served.engine.steep,
            "table_bytes": served.engine.table_bytes,
            "table_error": _shown(served.engine.table_error),
        }
    return found


def _shown(number: float) -> float:
    """Four digits: more would depend on how many threads computed them."""
    return float(f"{number:.4g}")
