"""The one door: a challenger serves only when held-out windows say it is no worse.

It is compared on later windows, which neither it nor the champion has seen, with the champion and
with the anchor, a version that proved good: chance lets some that are a little worse pass the
first comparison, and without the second they would add up. `decide` judges and acts on nothing;
`train.paired` measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from train.paired import LEAST_BLOCKS, LEVEL, Change, Losses, compare, covered, wql

COVERAGE_TOLERANCE = 0.03
"""How much further from nominal the coverage may be than the champion's or the anchor's."""

_ROLE_SHARE = 0.02
"""Of the label cells: a role with less, and less than half of an even share, has no say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the gate was told."""

    validate: bool
    """Whether accuracy is compared; weights, forecasts, moves and coverage always are."""
    threshold: float
    """How much worse, as a share, a challenger may be at the bound: 0.05 is 5 %."""
    weight_move: float
    """How far an update may move the weights, as a share of their norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found out about a challenger, for `decide`."""

    losses: Losses | None
    """Of `challenger`, `champion` and `anchor`; None when the challenger has a `fault`."""
    moved: float | None = None
    """|weights - champion's| / |champion's|, L2, of an update; None for what started elsewhere."""
    fault: str | None = None
    """Why the challenger cannot be used at all: weights not finite, of another shape, damaged."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a challenger may serve, why, and the numbers behind it (JSON-able)."""

    promote: bool
    reasons: tuple[str, ...]
    report: dict[str, Any]
    anchor: Literal["stays", "champion", "challenger"] = "stays"
    """Which version is the anchor from now on."""

    def anchor_of(self, *, champion: int | None, challenger: int | None) -> int | None:
        """That version by its number; None where it stays."""
        return {"stays": None, "champion": champion, "challenger": challenger}[self.anchor]

    def held(self, why: str | None) -> Decision:
        """The decision while promotion is held back: judged as ever, and not promoted."""
        if why is None or not self.promote:
            return self
        return replace(self, promote=False, reasons=(why, *self.reasons))


@dataclass(frozen=True, slots=True)
class _Found:
    """The comparisons a decision rests on; None where one could not be made."""

    champion: Change | None = None
    """The challenger against the champion."""
    anchor: Change | None = None
    """The challenger against the anchor; the same one where that is the champion."""
    progress: Change | None = None
    """The champion against the anchor."""


def decide(
    evidence: Evidence, rules: Rules, *, champion: int | None, anchor: int | None, seed: int
) -> Decision:
    """Judge a challenger against the versions `champion` and `anchor`.

    `evidence` holds their losses; the anchor's are not needed where it is the champion. The first
    model (no champion) needs only to be usable and finite. The same arguments give the same
    decision: `seed` picks the resamples.
    """
    found = _compared(evidence, champion=champion, anchor=anchor, seed=seed)
    report = _report(evidence, rules, found, champion=champion, anchor=anchor)
    if refusals := tuple(_unusable(evidence, rules)):
        return Decision(promote=False, reasons=refusals, report=report)
    losses = evidence.losses
    assert losses is not None
    if champion is None:
        first = "first model: there is no champion to compare with"
        return Decision(promote=True, reasons=(first,), report=report, anchor="challenger")
    if "champion" not in losses.pinball:
        broken = "the champion's forecasts are not finite, the challenger's are"
        return Decision(promote=True, reasons=(broken,), report=report, anchor="challenger")
    refusals = tuple(_refusals(losses, found, rules))
    reasons = refusals or tuple(_grants(losses, found, rules))
    moves: Literal["stays", "champion"] = "stays"
    if anchor != champion and _becomes_anchor(losses, found, anchor):
        moves = "champion"
    return Decision(promote=not refusals, reasons=reasons, report=report, anchor=moves)


def _compared(evidence: Evidence, *, champion: int | None, anchor: int | None, seed: int) -> _Found:
    """The challenger against both; where the anchor is the champion, once."""
    losses = evidence.losses
    if losses is None or champion is None or not {"challenger", "champion"} <= {*losses.pinball}:
        return _Found()
    against = compare(losses, "challenger", "champion", seed=seed)
    if anchor == champion:
        return _Found(against, against)
    if "anchor" not in losses.pinball:
        return _Found(against)
    return _Found(
        against,
        compare(losses, "challenger", "anchor", seed=seed),
        compare(losses, "champion", "anchor", seed=seed),
    )


def _unusable(evidence: Evidence, rules: Rules) -> Iterator[str]:
    """What no setting lets pass."""
    if evidence.fault is not None:
        yield f"the challenger cannot be used: {evidence.fault}"
        return
    assert evidence.losses is not None
    if "challenger" not in evidence.losses.pinball:
        yield "the challenger's forecasts are not finite"
    moved = evidence.moved
    if moved is not None and not moved <= rules.weight_move:
        yield (
            f"the update moved the weights by {moved:.3g} of their norm, "
            f"allowed are {rules.weight_move:g}"
        )


def _refusals(losses: Losses, found: _Found, rules: Rules) -> Iterator[str]:
    """Every reason against a challenger that could serve."""
    if found.champion is None:
        if rules.validate:
            yield f"no held-out label but zeros to compare on ({losses.n} label cells)"
        return
    if rules.validate:
        if losses.blocks < LEAST_BLOCKS:
            yield f"{losses.blocks} held-out blocks are too few, {LEAST_BLOCKS} are needed"
        yield from _worse(found.champion, losses, rules)
    yield from _misses(found.champion, "champion")
    if found.anchor is None or found.anchor is found.champion:
        return
    if rules.validate:
        if not found.anchor.upper < rules.threshold:
            yield (
                f"against the anchor WQL changes by {found.anchor.change:+.2%} and may by "
                f"{found.anchor.upper:+.2%}, allowed are {rules.threshold:+.2%}"
            )
        yield from _misses(found.anchor, "anchor")


def _worse(against: Change, losses: Losses, rules: Rules) -> Iterator[str]:
    """What speaks against a challenger's accuracy, next to the champion's."""
    if against.change > 0:
        yield f"WQL changes by {against.change:+.2%} against the champion on {_basis(losses)}"
    if not against.upper < rules.threshold:
        yield (
            f"WQL may change by {against.upper:+.2%} against the champion, "
            f"allowed are {rules.threshold:+.2%}"
        )
    least = min(_ROLE_SHARE, 0.5 / len(against.roles))
    for role in against.roles if len(against.roles) > 1 else ():
        if role.share >= least and role.change > rules.threshold and role.lower > 0:
            yield (
                f"role {role.role or 'unknown'!r} ({role.share:.0%} of the labels) would be "
                f"sacrificed: its WQL changes by {role.change:+.2%}, at least {role.lower:+.2%}"
            )


def _misses(against: Change, name: str) -> Iterator[str]:
    """Coverage further from nominal than that of the version called `name`, beyond chance."""
    if against.miss is None or against.miss_lower is None:
        return
    if against.miss > COVERAGE_TOLERANCE and against.miss_lower > 0:
        yield (
            f"{against.coverage:.1%} of the labels are covered, {against.other_coverage:.1%} by "
            f"the {name}: {against.miss:.1%} further from nominal, allowed are "
            f"{COVERAGE_TOLERANCE:.1%}"
        )


def _grants(losses: Losses, found: _Found, rules: Rules) -> Iterator[str]:
    """Why a challenger passes."""
    if not rules.validate:
        yield "validation is off: accuracy was not compared"
        return
    assert found.champion is not None
    yield (
        f"WQL changes by {found.champion.change:+.2%} against the champion, by "
        f"{found.champion.upper:+.2%} at most, on {_basis(losses)}"
    )
    if found.anchor is not None and found.anchor is not found.champion:
        yield f"and by {found.anchor.change:+.2%} against the anchor"


def _basis(losses: Losses) -> str:
    return f"{losses.n} held-out label cells in {losses.blocks} blocks"


def _becomes_anchor(losses: Losses, found: _Found, anchor: int | None) -> bool:
    """Whether the champion takes the anchor's place: it is better beyond chance.

    Also where the anchor is no version that can be compared: it lacks a target, or is damaged.
    """
    if anchor is None or "anchor" not in losses.pinball:
        return True
    enough = losses.blocks >= LEAST_BLOCKS
    return enough and found.progress is not None and found.progress.upper < 0


def _report(
    evidence: Evidence, rules: Rules, found: _Found, *, champion: int | None, anchor: int | None
) -> dict[str, Any]:
    """The numbers, as JSON."""
    losses, against, old = evidence.losses, found.champion, found.anchor
    return {
        "champion": _scores(losses, "champion") if champion is not None else None,
        "challenger": _scores(losses, "challenger"),
        "relative_change": against and _known(against.change),
        "lower_bound": against and _known(against.lower),
        "upper_bound": against and _known(against.upper),
        "bound_level": LEVEL,
        "threshold": rules.threshold,
        "coverage_miss": against and against.miss,
        "coverage_miss_lower_bound": against and against.miss_lower,
        "coverage_tolerance": COVERAGE_TOLERANCE,
        "roles": {
            role.role: {
                "share": role.share,
                "relative_change": _known(role.change),
                "lower_bound": _known(role.lower),
            }
            for role in (against.roles if against else ())
        },
        "anchor": anchor,
        "anchor_relative_change": old and _known(old.change),
        "anchor_upper_bound": old and _known(old.upper),
        "anchor_coverage_miss": old and old.miss,
        "champion_to_anchor": found.progress and _known(found.progress.change),
        "champion_to_anchor_upper_bound": found.progress and _known(found.progress.upper),
        "blocks": losses.blocks if losses else 0,
        "windows": losses.windows if losses else 0,
        "weight_move": evidence.moved,
        "most_weight_move": rules.weight_move,
        "fault": evidence.fault,
        "validated": rules.validate and against is not None,
    }


def _scores(losses: Losses | None, model: str) -> dict[str, Any]:
    """How well one model did by itself; unknown where its forecasts were not finite."""
    finite = losses is not None and model in losses.pinball
    mean, per_target = wql(losses, model) if losses and finite else (None, {})
    return {
        "wql": mean,
        "per_target": per_target,
        "coverage": covered(losses, model) if losses and finite else None,
        "nominal": losses.nominal if losses else None,
        "n": losses.n if losses else 0,
        "finite": finite,
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
