"""The one door: a challenger serves only when held-out windows say it is no worse.

The first form compares points: the weighted quantile loss (WQL) of challenger and champion on the
same later windows, which neither was trained on. `score` measures, `decide` judges; neither acts.
Legend: N windows, L context, H horizon, T targets, Q quantile levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from forecast.metrics import central_intervals, coverage, known_mean, wql

if TYPE_CHECKING:
    from forecast.metrics import FloatArray
    from forecast.windows import RawWindows


@dataclass(frozen=True, slots=True)
class Scores:
    """How well one model forecast a set of labelled windows, in natural units."""

    wql: float | None
    """Mean over targets of each target's WQL; None when nothing could be scored."""

    per_target: tuple[tuple[str, float | None], ...]
    """(target, WQL); None for a target without a label or whose labels are all zero."""

    coverage: float | None
    """Share of labels inside the widest central interval."""

    nominal: float | None
    """The share that should be inside it; None when the levels have no such interval."""

    n: int
    """Label cells scored: windows x horizon x targets, gaps left out."""

    finite: bool
    """Whether every forecast value was finite."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a challenger may serve, why, and the numbers behind it (JSON-able)."""

    promote: bool
    reasons: tuple[str, ...]
    report: dict[str, Any]


def score(
    predicted_NHTQ: FloatArray, raw: RawWindows, targets: Sequence[str], levels: Sequence[float]
) -> Scores:
    """Score forecasts against the labels in `raw`, both in natural units.

    Each target's WQL is pooled over windows and horizon (`forecast.metrics.wql`), then averaged
    over targets. A label that is a gap is left out. One forecast that is not finite is enough for
    no score at all: a model that gives such may not serve.

    Raises ValueError when the forecasts do not have one row per window, step, target and level.
    """
    columns = [raw.metrics.index(target) for target in targets]
    label_NHT = raw.values[:, raw.context :, columns]
    expected = (*label_NHT.shape, len(levels))
    if predicted_NHTQ.shape != expected:
        raise ValueError(f"forecasts have shape {predicted_NHTQ.shape}, the labels want {expected}")
    widest = next(iter(central_intervals(levels)), None)
    n = int(np.isfinite(label_NHT).sum())
    if not np.isfinite(predicted_NHTQ).all():
        nothing = tuple((target, None) for target in targets)
        return Scores(None, nothing, coverage=None, nominal=widest and widest[0], n=n, finite=False)
    wql_T = [
        wql(label_NHT[..., place], predicted_NHTQ[:, :, place], levels)
        for place in range(len(targets))
    ]
    inside = coverage(label_NHT, predicted_NHTQ, levels)
    return Scores(
        wql=known_mean(np.array(wql_T)),
        per_target=tuple((target, _known(w)) for target, w in zip(targets, wql_T, strict=True)),
        coverage=inside.get(widest[0]) if widest else None,
        nominal=widest and widest[0],
        n=n,
        finite=True,
    )


def decide(
    champion: Scores | None, challenger: Scores, *, validate: bool, weights_finite: bool = True
) -> Decision:
    """Judge a challenger against the champion, both scored on the same later windows.

    Promotes when the challenger's WQL is not above the champion's. The first model (no champion)
    needs only to be finite. `validate=False` drops the comparison alone, and says so: weights and
    forecasts that are not finite never pass.
    """
    if champion is not None and champion.n != challenger.n:
        raise ValueError(
            f"scored on different labels: champion {champion.n}, challenger {challenger.n}"
        )
    change = _relative_change(champion, challenger)
    if not weights_finite:
        promote, reason = False, "the challenger's weights are not finite"
    elif not challenger.finite:
        promote, reason = False, "the challenger's forecasts are not finite"
    elif champion is None:
        promote, reason = True, "first model: there is no champion to compare with"
    elif not champion.finite:
        promote, reason = True, "the champion's forecasts are not finite, the challenger's are"
    elif not validate:
        promote, reason = True, "validation is off: accuracy was not compared"
    elif champion.wql is None or challenger.wql is None:
        promote, reason = False, f"no held-out label to compare on ({challenger.n} label cells)"
    else:
        promote = challenger.wql <= champion.wql
        relation = "not above" if promote else "above"
        reason = (
            f"WQL {challenger.wql:.5g} is {relation} the champion's {champion.wql:.5g} "
            f"on {challenger.n} held-out label cells"
        )
    report = {
        "champion": None if champion is None else _plain(champion),
        "challenger": _plain(challenger),
        "relative_change": change,
        "validated": validate and champion is not None,
        "weights_finite": weights_finite,
    }
    return Decision(promote, (reason,), report)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _relative_change(champion: Scores | None, challenger: Scores) -> float | None:
    """How far the challenger's WQL lies above the champion's, as a share of the champion's.

    None when either is unknown or the champion's is zero.
    """
    if champion is None or not champion.wql or challenger.wql is None:
        return None
    return challenger.wql / champion.wql - 1


def _plain(scores: Scores) -> dict[str, Any]:
    """Scores as JSON: the per-target pairs as an object."""
    return {**asdict(scores), "per_target": dict(scores.per_target)}
