"""Numbers of global versions: which were accepted, which one waits for its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self


class History:
    """The accepted versions that may be a base, and the candidate. No number is used twice."""

    def __init__(self, version: int, *, most_staleness: int) -> None:
        self.accepted = [version]
        """The last one last."""
        self.given = version
        """The highest number that was given away."""
        self.pending = False
        """Whether `given` is a candidate that waits for its verdict."""
        self._most = most_staleness

    @property
    def last(self) -> int:
        """The last accepted version."""
        return self.accepted[-1]

    def staleness(self, base: int) -> int | None:
        """Accepted versions since this one; None when it is no base, or none any more."""
        if base not in self.accepted:
            return None
        return len(self.accepted) - 1 - self.accepted.index(base)

    def propose(self) -> int:
        """The number of a new candidate."""
        self.given += 1
        self.pending = True
        return self.given

    def accept(self, version: int | None = None) -> bool:
        """The candidate is accepted; False when this one was already.

        Raises ValueError when no such candidate waits.
        """
        if version is not None and version in self.accepted:
            return False
        self._check(version)
        self.adopt(self.given)
        return True

    def reject(self, version: int | None = None) -> bool:
        """The candidate is refused; False when this one was already.

        Raises ValueError when no such candidate waits.
        """
        waits = self.pending and version in (None, self.given)
        if not waits and version is not None and self.last < version <= self.given:
            return False
        self._check(version)
        self.pending = False
        return True

    def adopt(self, version: int) -> None:
        """A version that is accepted already, here or elsewhere."""
        self.accepted = [*self.accepted, version][-self._most - 1 :]
        self.given, self.pending = version, False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"accepted": self.accepted, "given": self.given, "pending": self.pending}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, most_staleness: int) -> Self:
        """What `to_json` wrote."""
        made = cls(data["given"], most_staleness=most_staleness)
        made.accepted = list(data["accepted"])[-most_staleness - 1 :]
        made.pending = data["pending"]
        return made

    def _check(self, version: int | None) -> None:
        if not self.pending or version not in (None, self.given):
            asked = "a step" if version is None else f"version {version}"
            raise ValueError(f"{asked} does not wait for a verdict, the last is {self.last}")
