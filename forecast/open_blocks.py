"""Blocks of record in memory until each of their steps has been scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from forecast.ledger_file import LedgerFile
from forecast.record import ForecastBlock


@dataclass(frozen=True, slots=True)
class _Issued:
    """A block, and the last slot that had been scored when it was issued."""

    after: int | None
    block: ForecastBlock


class OpenBlocks:
    """The blocks of the last `horizon` slots, from memory or else from the file."""

    def __init__(self, file: LedgerFile, layout: str, horizon: int) -> None:
        self._file, self._layout, self._horizon = file, layout, horizon
        self._kept: dict[int, tuple[_Issued, ...]] = {}

    def issue(self, blocks: Sequence[ForecastBlock], after: int | None) -> int:
        """Keep blocks in the file, all or none; how many are new."""
        packed, file, new = [block.pack() for block in blocks], self._file, 0
        # Those of a slot that had none need not be read back to be scored.
        made: dict[int, tuple[_Issued, ...]]
        made = {one.slot: () for one in blocks if not file.has_blocks(one.slot)}
        with file.transaction():
            for block, data in zip(blocks, packed, strict=True):
                if file.insert_block(block.slot, block.member, self._layout, after, data):
                    new += 1
                    if block.slot in made:
                        own = replace(block, values=block.values.copy())
                        made[block.slot] += (_Issued(after, own),)
            file.raise_counter("issued_blocks", new)
        for block in blocks:
            self._kept.pop(block.slot, None)
        self._kept.update(made)
        return new

    def origins(self, slot: int) -> list[list[ForecastBlock]]:
        """Blocks that forecast a slot before it was scored: one step ahead, two, ..."""
        return [
            [one.block for one in self._at(slot - step) if one.after is None or one.after < slot]
            for step in range(1, self._horizon + 1)
        ]

    def same(self, blocks: Sequence[ForecastBlock]) -> frozenset[str]:
        """The members of those blocks that are, bit by bit, of record."""
        return frozenset(
            block.member
            for block in blocks
            if any(_equal(block, one.block) for one in self._at(block.slot))
        )

    def forget(self, slot: int) -> None:
        """Let go of blocks that forecast no slot after this one."""
        for old in [known for known in self._kept if known <= slot - self._horizon]:
            del self._kept[old]

    def _at(self, slot: int) -> tuple[_Issued, ...]:
        if slot not in self._kept:
            found = self._file.blocks(slot, self._layout)
            self._kept[slot] = tuple(
                _Issued(after, ForecastBlock.unpack(data)) for after, data in found
            )
        return self._kept[slot]


def _equal(one: ForecastBlock, other: ForecastBlock) -> bool:
    for name in ("slot", "member", "version", "servers", "targets", "levels"):
        if getattr(one, name) != getattr(other, name):
            return False
    return np.array_equal(
        np.ascontiguousarray(one.values).view(np.int32),
        np.ascontiguousarray(other.values).view(np.int32),
    )
