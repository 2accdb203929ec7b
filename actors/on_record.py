"""The part of the RegistryActor that is about the record itself: read, verified, made again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from forecast import config_record
from forecast.audit import AuditCheck, AuditLog, AuditRecord, verify
from forecast.errors import UnknownUpdate
from forecast.evidence_files import EvidenceFiles
from forecast.registry import Registry
from forecast.storage import OwnerLock
from train.evidence import evidence_of


class OnRecord:
    """What the audit log says, and what decisions were made from."""

    _audit: AuditLog
    _evidence: EvidenceFiles
    _registry: Registry
    _lock: OwnerLock

    async def audit(
        self,
        *,
        limit: int,
        before: int | None = None,
        since_slot: int | None = None,
        kinds: Sequence[str] | None = None,
    ) -> list[AuditRecord]:
        """Records by kind and slot, newest first, from before the number `before` on."""
        found = self._audit.records(
            before=before, since_slot=since_slot, kinds=kinds, newest_first=True
        )
        return list(islice(found, limit))

    async def verify_audit(self, head: str | None) -> AuditCheck:
        """Check the whole log, in a thread, beside whatever is written meanwhile.

        `head`, and the hash of the last record written up to now, must be in it. Raises AuditError
        saying where it is not whole.
        """
        return await asyncio.to_thread(
            verify, self._audit.directory, head, also=(self._audit.head,)
        )

    async def keep_evidence(self, data: bytes, *, slot: int) -> str:
        """Keep what the gate decides from at a slot; its hash."""
        self._lock.check()
        return self._evidence.keep(data, slot=slot)

    async def evidence(self, update_id: str) -> tuple[AuditRecord, bytes]:
        """The record of the verdict on an update, and what it was decided from.

        Raises UnknownUpdate without one, StateError where the evidence is not kept, or no longer.
        """
        record = self._verdict(update_id)
        if record is None:
            raise UnknownUpdate(f"no verdict on {update_id!r:.80} is on record")
        return record, self._evidence.read(evidence_of(record.detail), slot=record.slot)

    def _verdict(self, update_id: str) -> AuditRecord | None:
        """The record of a verdict: by its key, or, of a training by hand, the newest that fits."""
        if (known := self._registry.verdict(update_id)) is not None:
            return self._audit.record(known.sequence)
        verdicts = self._registry.verdicts()
        return next((one for one in verdicts if one.detail["update_id"] == update_id), None)

    async def configured(self, config: Mapping[str, Any], who: str) -> None:
        """Put the config that the fleet runs with, by key, on record where it is another one."""
        last = next(self._audit.records(kinds=("config",), newest_first=True), None)
        detail = config_record.record(config, None if last is None else last.detail)
        if detail is not None:
            key = f"{len(self._audit)}:{detail['sha256']}"
            self._registry.note("config", detail=detail, who=who, key=key)
