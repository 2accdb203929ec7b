"""Where the buffer stands: clock, counts and sizes."""

from __future__ import annotations

from dataclasses import dataclass

from train.intake import Intake
from train.requests import Requests
from train.segments import SegmentLog


@dataclass(frozen=True, slots=True)
class BufferStatus:
    """Clock, counts and sizes."""

    clock_slot: int | None
    closed_slot: int | None
    """Of what is durable: samples that still wait for a sync have closed nothing."""
    first_slot: int | None
    """The earliest slot a server was seen in; None before any data."""
    servers: int
    """Servers that are not retired."""
    rows: int
    """Slots times servers that were heard in them."""
    late: int
    """Samples that came for a closed slot, ever."""
    memory_bytes: int
    log_bytes: int
    torn_bytes: int
    """Bytes of unfinished log records that the last start cut; none of them was acknowledged."""
    requests: int
    """Request ids that are remembered."""
    free_bytes: int | None = None
    """Free space below the state; None where nothing is kept on disk or nobody can tell."""
    may_learn: bool = True
    """Whether there is space enough for training to start."""


def status_of(intake: Intake, requests: Requests, stored: SegmentLog | None) -> BufferStatus:
    """Clock, counts and sizes, now."""
    clock = intake.clock.slot
    return BufferStatus(
        clock_slot=requests.settled.clock_slot,
        closed_slot=requests.settled.closed_slot,
        first_slot=intake.roster.first_slot(),
        servers=len(intake.roster) - len(intake.roster.retired(clock)),
        rows=intake.grid.cells,
        late=intake.late,
        memory_bytes=intake.grid.nbytes,
        log_bytes=0 if stored is None else stored.nbytes,
        torn_bytes=0 if stored is None else stored.torn_bytes,
        requests=len(requests),
    )
