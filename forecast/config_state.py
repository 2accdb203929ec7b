"""The keys of `[audit]` and `[backup]`: what stays on record, and where copies of all go."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from forecast.section import Section


class AuditConfig(Section):
    """The audit log; it is never cut."""

    segment_mb: int = Field(default=16, ge=1)
    """A file of the log that is larger is full, and the next one begins."""
    reproduce_days: int = Field(default=90, ge=0)
    """How long what the gate decided from is kept, a few kB a decision: so long
    `fleetcast audit reproduce` can make a decision again."""


class BackupConfig(Section):
    """Backups of the running fleet."""

    directory: Path | None = None
    """Below it `fleetcast backup` writes; unset: `backups` in `state_dir`."""
