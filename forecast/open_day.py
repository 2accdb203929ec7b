"""The day that is being scored: when its sums by server, and what was learned, are saved.

What is not saved is computed again at a start, from reports and blocks.
"""

from __future__ import annotations

from collections.abc import Callable

from forecast.day_sums import DaySums
from forecast.derived import Derived
from forecast.ledger_file import FleetKey, LedgerFile
from forecast.metrics import Float64Array
from forecast.scoring import Scored, StepReport


class OpenDay:
    """The sums of the last day scored, and what the derived members know (`derived`).

    Both are saved when so many slots have passed, and when the day ends.
    """

    def __init__(
        self,
        file: LedgerFile,
        layout: str,
        derived: Derived,
        *,
        day_slots: int,
        save_every: int,
    ) -> None:
        self._file, self._layout = file, layout
        self.derived = derived
        self._day_slots, self._save_every = day_slots, save_every
        self._unsaved: int | None = None
        self._through: int | None = None
        self.sums = DaySums(0)

    def restore(
        self,
        report: Callable[[int], StepReport],
        join: Callable[[StepReport], tuple[Scored, ...]],
        learn: Callable[[StepReport], Derived],
    ) -> None:
        """What is on disk, and what the reports since then add to it."""
        file = self._file
        if (data := file.derived(self._layout)) is not None:
            self.derived = self.derived.restored(data)
        for slot in file.reported(file.counter(f"saved:{self._layout}")):
            day = slot // self._day_slots
            if self._unsaved is None or day != self.sums.day:
                if self._unsaved is not None:
                    with file.transaction():
                        self._save()
                self.sums, self._unsaved = DaySums.load(file, self._layout, day), slot
            found = report(slot)
            self.sums.add({}, found.servers, join(found))
            self.derived = learn(found)
            self._through = slot

    def of(self, slot: int) -> DaySums:
        """The sums that a slot is added to: of the open day, or of one that begins with it."""
        day = slot // self._day_slots
        return self.sums if self.sums.day == day else DaySums(day)

    def save_before(self, slot: int) -> bool:
        """Save, within the slot's transaction, what is due; whether it was."""
        due = self._unsaved is not None and (
            self.of(slot) is not self.sums or slot - self._unsaved >= self._save_every
        )
        if due:
            self._save()
        return due

    def took(
        self,
        report: StepReport,
        changed: dict[FleetKey, Float64Array],
        scored: tuple[Scored, ...],
        derived: Derived,
        *,
        saved: bool,
    ) -> None:
        """Add a slot that is on disk now; `saved` is what `save_before` said."""
        self.sums = self.of(report.slot)
        self.sums.add(changed, report.servers, scored)
        self._through, self.derived = report.slot, derived
        if saved or self._unsaved is None:
            self._unsaved = report.slot

    def _save(self) -> None:
        assert self._through is not None
        self.sums.save(self._file, self._layout)
        self._file.put_derived(self._layout, self.derived.pack())
        self._file.set_counter(f"saved:{self._layout}", self._through)
