"""Learning health: how often the model learns, what that brings, how sure and how right it is.

Pure functions over what the actors say of themselves; each answer is a few plain values for the
table of telemetry. Frequencies are counted in event time, so a replay shows what the live fleet
would have shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forecast.accuracy import AccuracyReport
from forecast.metrics import central_intervals
from forecast.record import CHAMPION, ENSEMBLE, Snapshot
from forecast.verdicts import UpdateRecord

_DAY_S = 86400
RECENT = 300
"""So many of the newest verdicts are looked at: a day of an update every five minutes."""


def counted(
    updates: Sequence[UpdateRecord],
    *,
    counts: Mapping[str, int],
    accepted: int | None,
    rollbacks: Sequence[int],
    drifts: int,
) -> dict[str, Any]:
    """What the audit log says of learning: the newest `updates`, newest first, and `counts` of all
    by verdict; the slot at which one was last accepted; the slots of rollbacks, how many drifts.

    `history` is what `learning_health` counts the last day from.
    """
    verdicts = [(update.slot, update.verdict, _gain(update)) for update in updates[:RECENT]]
    return {
        **counts,
        "rollbacks": len(rollbacks),
        "drifts": drifts,
        "last_update": _told(updates[0]) if updates else None,
        "last_accepted_slot": accepted,
        "history": {"verdicts": verdicts, "rollbacks": sorted(rollbacks)[-RECENT:]},
    }


def _told(update: UpdateRecord) -> dict[str, Any]:
    models = {name: update.report.get(name) or {} for name in ("challenger", "champion")}
    losses = {name: scores.get("wql") for name, scores in models.items()}
    return {
        "update_id": update.update_id,
        "slot": update.slot,
        "promoted": update.verdict != "rejected",
        "gain": _gain(update),
        "validation_loss": {name: loss for name, loss in losses.items() if loss is not None},
    }


def _gain(update: UpdateRecord) -> float | None:
    """What the challenger took off the champion's WQL on held-out windows, as a share of it."""
    change = update.report.get("relative_change")
    return None if change is None else -float(change)


def learning_health(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The last day of learning, from a status tree; None where an actor did not answer."""
    registry, controller = tree.get("registry") or {}, tree.get("controller") or {}
    step_s, slot = int(tree["step_seconds"]), controller.get("stepped_slot")
    told: dict[str, Any] = {"step_seconds": step_s, "learning": controller.get("learning")}
    accepted = registry.get("last_accepted_slot")
    if slot is not None and accepted is not None:
        told["since_accepted_seconds"] = max(0, slot - accepted) * step_s
    history = registry.get("history")
    if slot is None or history is None:
        return told
    since = slot - _DAY_S // step_s
    verdicts = [(verdict, gain) for at, verdict, gain in history["verdicts"] if at > since]
    gains = [gain for verdict, gain in verdicts if verdict != "rejected" and gain is not None]
    rejected = sum(verdict == "rejected" for verdict, _ in verdicts)
    return {
        **told,
        "last_day": {"accepted": len(verdicts) - rejected, "rejected": rejected},
        "gain": sum(gains) / len(gains) if gains else None,
        "rollbacks": sum(at > since for at in history["rollbacks"]),
    }


def lately(report: AccuracyReport) -> dict[str, Any]:
    """Each member's WQL; of the one that answers, errors by target and coverage by interval."""
    wql = {one.member: one.pooled.wql for one in report.members}
    told: dict[str, Any] = {"wql": {name: loss for name, loss in wql.items() if loss is not None}}
    served = report.member(ENSEMBLE) or report.member(CHAMPION)
    if served is None:
        return told
    targets, coverage = served.pooled.targets, served.pooled.coverage
    told["mae"] = {name: one.mae for name, one in targets.items() if one.mae is not None}
    told["rmse"] = {name: one.rmse for name, one in targets.items() if one.rmse is not None}
    known = {nominal: share for nominal, share in coverage.items() if share is not None}
    told["coverage"] = known
    widest = max(known, key=float, default=None)
    told["coverage_gap"] = None if widest is None else known[widest] - float(widest)
    return told


def widths(snapshot: Snapshot) -> dict[str, float]:
    """How wide the widest interval that answers is, by target in its unit: how sure forecasts are.

    The mean over servers and steps; nothing where no version answers, or the levels hold no
    interval.
    """
    block = snapshot.block(ENSEMBLE) or snapshot.block(CHAMPION)
    intervals = central_intervals(snapshot.levels)
    if block is None or not intervals:
        return {}
    _, low, high = intervals[0]
    wide = block.values[..., high] - block.values[..., low]
    found = {}
    for place, target in enumerate(block.targets):
        known = wide[..., place][np.isfinite(wide[..., place])]
        if known.size:
            found[target] = float(known.mean(dtype=np.float64))
    return found
