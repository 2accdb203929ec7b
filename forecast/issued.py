"""What the blocks of one origin say: of a member, of a version whatever it was called, of a seat.

S servers, T targets, Q levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecast.places import aligned
from forecast.record import CHAMPION, ENSEMBLE, SHADOWS, Float32Array, ForecastBlock
from forecast.seat import Seat

CALIBRATED = "champion_calibrated"
TRIAL_CALIBRATED = "challenger_calibrated"
DERIVED = (CALIBRATED, ENSEMBLE)
"""What is derived whenever there is a champion."""

MADE = (*DERIVED, TRIAL_CALIBRATED)
"""All that is derived, also what is so with a challenger alone."""


def parts_of(blocks: Sequence[ForecastBlock]) -> list[ForecastBlock]:
    """The blocks that others are made of: not what is derived, and no shadow on a few servers."""
    return [block for block in blocks if block.member not in (*MADE, *SHADOWS)]


def complete(blocks: Sequence[ForecastBlock]) -> bool:
    """Whether all that is derived is there."""
    return set(DERIVED) <= {block.member for block in blocks}


def block_of(blocks: Sequence[ForecastBlock], member: str) -> ForecastBlock | None:
    """The block of a member; None when it issued none."""
    return next((block for block in blocks if block.member == member), None)


def version_of(blocks: Sequence[ForecastBlock], member: str) -> int | None:
    """The version that a member issued with; None for one that is no version, or issued nothing."""
    block = block_of(blocks, member)
    return None if block is None else block.version


def seated(parts: Sequence[ForecastBlock], seat: Seat) -> list[Float32Array]:
    """What each version of the seat forecast."""
    made = {one.version: one.values for one in parts}
    return [made[version] for version in seat.versions]


def seat_of(blocks: Sequence[ForecastBlock]) -> Seat | None:
    """Who sat in the champion's seat at an origin; None for the champion alone."""
    ensemble = block_of(blocks, ENSEMBLE)
    if ensemble is None or ensemble.shares is None:
        return None
    return Seat(ensemble.seat, ensemble.shares)


def step_of(
    blocks: Sequence[ForecastBlock], member: str, step: int, servers: Sequence[str]
) -> Float32Array:
    """One step of a member's block [S, T, Q]; NaN where it has none."""
    block = block_of(blocks, member)
    if block is None:
        shape = (len(servers), len(blocks[0].targets), len(blocks[0].levels))
        return np.full(shape, np.nan, np.float32)
    return aligned(block.values[:, step - 1], block.servers, servers)


def part_of_seat(
    blocks: Sequence[ForecastBlock],
    like: ForecastBlock,
    step: int,
    servers: Sequence[str],
    seat: Seat | None,
) -> Float32Array:
    """One step of who issues as `like` today [S, T, Q]: of its version, whatever it was called.

    A version that had not come yet is told by who was champion in its place. `seat` are those who
    stand in the champion's place today: their forecasts count for it, as they share it.
    """
    if like.version is None:
        return step_of(blocks, like.member, step, servers)
    own = step_of(blocks, _name(blocks, like.version), step, servers)
    if seat is None or like.member != CHAMPION:
        return own
    others = [step_of(blocks, _name(blocks, one), step, servers) for one in seat.versions]
    return seat.taken(like.version, [*others, own])[0]


def _name(blocks: Sequence[ForecastBlock], version: int) -> str:
    """The member that a version issued as at an origin; the champion where it had not come."""
    parts = parts_of(blocks)
    return next((one.member for one in parts if one.version == version), CHAMPION)


def calibrated_step(
    blocks: Sequence[ForecastBlock], version: int | None, step: int, servers: Sequence[str]
) -> Float32Array:
    """One step of a version's calibrated forecast [S, T, Q], likewise."""
    names = (CALIBRATED, TRIAL_CALIBRATED)
    made = (one.member for one in blocks if one.member in names and one.version == version)
    return step_of(blocks, next(made, CALIBRATED), step, servers)
