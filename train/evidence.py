"""The gate's evidence on record: packed, and a decision made again from it, to the same bits.

A verdict's report says under `decided_from` with which rules, seed and versions `decide` was called
and the hash of its evidence. The evidence is a few sums per block, role and target: for a day in 24
blocks, three models, four roles and four targets 15 kB, deflated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from forecast import packing
from forecast.canonical import canonical, plain
from forecast.errors import StateError
from train.gate import Evidence, Rules, decide
from train.paired import Losses

_KIND = "gate evidence"


def pack(evidence: Evidence) -> bytes:
    """The evidence as bytes; the same evidence gives the same bytes."""
    losses, arrays = evidence.losses, {}
    header: dict[str, Any] = {
        # As text: a number that is not finite has no place in JSON.
        "moved": None if evidence.moved is None else float(evidence.moved).hex(),
        "fault": evidence.fault,
        "losses": None,
    }
    if losses is not None:
        header["losses"] = {
            "targets": losses.targets,
            "roles": losses.roles,
            "windows": losses.windows,
            "nominal": losses.nominal,
            "pinball": list(losses.pinball),
            "inside": list(losses.inside),
        }
        arrays = {"size": losses.size_BRT, "cells": losses.cells_BRT}
        arrays |= {f"pinball.{name}": sums for name, sums in losses.pinball.items()}
        arrays |= {f"inside.{name}": sums for name, sums in losses.inside.items()}
    return packing.pack(_KIND, header, arrays, deflate=True)


def unpack(data: bytes) -> Evidence:
    """The evidence that was packed; raises StateError for damage."""
    header, arrays = packing.unpack(_KIND, data)
    said, losses = header["losses"], None
    if said is not None:
        losses = Losses(
            targets=tuple(said["targets"]),
            roles=tuple(said["roles"]),
            windows=said["windows"],
            nominal=said["nominal"],
            size_BRT=arrays["size"],
            cells_BRT=arrays["cells"],
            pinball={name: arrays[f"pinball.{name}"] for name in said["pinball"]},
            inside={name: arrays[f"inside.{name}"] for name in said["inside"]},
        )
    moved = header["moved"]
    moved = None if moved is None else float.fromhex(moved)
    return Evidence(losses=losses, moved=moved, fault=header["fault"])


def decided_from(
    digest: str,
    rules: Rules,
    *,
    champion: int | None,
    anchor: int | None,
    seed: int,
    held: str | None = None,
) -> dict[str, Any]:
    """What a verdict's report says of how it came about.

    `digest` is its evidence's hash, `held` who held promotion back, as `Decision.held` takes it.
    """
    asked = {"champion": champion, "anchor": anchor, "seed": seed, "held": held}
    return {"evidence": digest, "rules": asdict(rules), **asked}


@dataclass(frozen=True, slots=True)
class Reproduced:
    """A decision that was made again."""

    promote: bool
    reasons: tuple[str, ...]
    differs: tuple[str, ...]
    """Keys of the record that say something else; none: it is the same decision, bit by bit."""


def evidence_of(detail: Mapping[str, Any]) -> str:
    """The hash of the evidence that a verdict's record names; raises StateError without one."""
    return str(_decided_from(detail)["evidence"])


def reproduce(kind: str, detail: Mapping[str, Any], data: bytes) -> Reproduced:
    """Decide again from a verdict's record (its kind and detail) and its evidence.

    Bitwise on the same kind of processor: sums are a matrix product, whose order is its own. Raises
    StateError when the record names no evidence, or it is damaged.
    """
    said, report = _decided_from(detail), detail["report"]
    decision = decide(
        unpack(data),
        Rules(**said["rules"]),
        champion=said["champion"],
        anchor=said["anchor"],
        seed=said["seed"],
    ).held(said["held"])
    now = plain({**decision.report, "reasons": decision.reasons, "promote": decision.promote})
    then = {**report, "reasons": detail["reasons"], "promote": kind != "reject"}
    differs = [key for key in now if canonical({"": now[key]}) != canonical({"": then.get(key)})]
    return Reproduced(decision.promote, decision.reasons, tuple(differs))


def _decided_from(detail: Mapping[str, Any]) -> Mapping[str, Any]:
    said: Mapping[str, Any] | None = detail.get("report", {}).get("decided_from")
    if said is None:
        raise StateError(f"{detail.get('update_id')}: its record names no evidence")
    return said
