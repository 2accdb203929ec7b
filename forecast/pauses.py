"""A pause: somebody holds promotion back, or all learning, until somebody resumes it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Pause:
    """Promotion is held back: challengers are trained and judged, and none becomes champion."""

    who: str
    reason: str
    slot: int
    """Event time since when."""
    learning: bool = False
    """No training starts either."""

    def __str__(self) -> str:
        what = "learning" if self.learning else "promotion"
        return f"{what} is paused by {self.who} since slot {self.slot}: {self.reason}"

    def over(self, other: Pause | None) -> Pause:
        """This pause where `other` holds already: what was stopped stays stopped.

        >>> Pause("ann", "bad night", 7).over(Pause("bob", "audit", 5, learning=True)).learning
        True
        """
        return replace(self, learning=self.learning or (other is not None and other.learning))
