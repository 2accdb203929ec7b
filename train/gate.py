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

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecast.windows import RawWindows

    FloatArray = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scores:
    """How well one model forecast a set of labelled windows, in natural units."""

    wql: float | None
    """Mean over targets of each target's WQL; None when nothing could be scored."""

    per_target: tuple[tuple[str, float | None], ...]
    """(target, WQL); None for a target without a label or whose labels are all zero."""

    coverage: float | None
    """Share of labels inside the outermost quantiles."""

    nominal: float
    """The share that should be inside them."""

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

    WQL of a target = mean over levels of 2 x sum(pinball) / sum(|label|), sums over windows and
    horizon (Gasthaus et al. 2019, "Probabilistic forecasting with spline quantile function RNNs").
    A label that is a gap is left out; a forecast that is not finite scores nothing and is told.
    """
    columns = [raw.metrics.index(target) for target in targets]
    label_NHT = raw.values[:, raw.context :, columns].astype(np.float64)
    forecast_NHTQ = np.asarray(predicted_NHTQ, np.float64)
    expected = (*label_NHT.shape, len(levels))
    if forecast_NHTQ.shape != expected:
        raise ValueError(f"forecasts have shape {forecast_NHTQ.shape}, the labels want {expected}")
    nominal = float(levels[-1]) - float(levels[0])
    seen = np.isfinite(label_NHT)
    n = int(seen.sum())
    if not np.isfinite(forecast_NHTQ).all():
        nothing = tuple((target, None) for target in targets)
        return Scores(None, nothing, coverage=None, nominal=nominal, n=n, finite=False)
    wql_T = _wql(forecast_NHTQ, label_NHT, seen, np.asarray(levels, np.float64))
    inside = (label_NHT >= forecast_NHTQ[..., 0]) & (label_NHT <= forecast_NHTQ[..., -1])
    known = [value for value in wql_T if value is not None]
    return Scores(
        wql=math.fsum(known) / len(known) if known else None,
        per_target=tuple(zip(targets, wql_T, strict=True)),
        coverage=float(inside[seen].mean()) if n else None,
        nominal=nominal,
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


def _wql(
    forecast_NHTQ: FloatArray, label_NHT: FloatArray, seen: NDArray[np.bool_], levels: FloatArray
) -> list[float | None]:
    """WQL of each target."""
    error = np.where(seen, label_NHT, 0.0)[..., None] - forecast_NHTQ
    pinball = np.maximum(levels * error, (levels - 1.0) * error) * seen[..., None]
    loss_T = 2.0 * pinball.sum(axis=(0, 1)).mean(axis=-1)
    size_T = np.abs(np.where(seen, label_NHT, 0.0)).sum(axis=(0, 1))
    pairs = zip(loss_T, size_T, strict=True)
    return [float(loss / size) if size > 0 else None for loss, size in pairs]


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
