"""What the aggregator remembers of each site: which updates it has judged, and how they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from train.federated.update import Verdict

KEPT = 16
"""Verdicts that are remembered of a site: of its highest sequence numbers."""
_LONGEST = 10
"""A quarantine lasts two to this power of rounds at most."""


@dataclass(slots=True)
class _Account:
    recent: dict[int, str] = field(default_factory=dict)
    floor: int = -1
    """The highest sequence number whose verdict is forgotten."""
    strikes: int = 0
    until: int = 0
    """The first round in which it is heard again."""
    spoke: int = -1
    """The round in which it last sent what is remembered; -1 until that one is over."""
    base: int = -1
    """The newest version that one of its good updates was made from."""


class Sites:
    """Accounts by site; bounded in sites, in what is kept of each, and in how long."""

    def __init__(self, most: int) -> None:
        """`most` sites; see `room`."""
        self._most = most
        self._accounts: dict[str, _Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def room(self, site: str) -> bool:
        """Whether there is an account for this site, or room for one."""
        return site in self._accounts or len(self._accounts) < self._most

    def verdict(self, site: str, sequence: int) -> Verdict | None:
        """What was said of this update before; STALE when that is too long ago to know."""
        account = self._accounts.get(site)
        if account is None:
            return None
        if sequence <= account.floor:
            return Verdict.STALE
        found = account.recent.get(sequence)
        return None if found is None else Verdict(found)

    def heard(self, site: str) -> bool:
        """Whether one of its updates that are remembered was good."""
        account = self._accounts.get(site)
        return account is not None and Verdict.ACCEPTED.value in account.recent.values()

    def until(self, site: str) -> int:
        """The first round in which the site is heard; 0 for one that never was bad."""
        return self._accounts[site].until if site in self._accounts else 0

    def quarantined(self, round: int) -> tuple[str, ...]:
        """Sites that are not heard in this round, by name."""
        return tuple(sorted(n for n, each in self._accounts.items() if each.until > round))

    def accept(self, site: str, sequence: int, *, base: int = -1) -> None:
        """Remember a good update, made from the version `base`; it takes one strike away."""
        account = self._remember(site, sequence, Verdict.ACCEPTED)
        account.strikes = max(0, account.strikes - 1)
        account.base = max(account.base, base)

    def strike(self, site: str, sequence: int | None, verdict: Verdict, round: int) -> None:
        """Remember a bad one: the site is not heard for a round, then two, four, and so on.

        Without a sequence number there is nothing to remember but the strike.
        """
        if sequence is None:
            account = self._accounts.setdefault(site, _Account())
        else:
            account = self._remember(site, sequence, verdict)
        account.spoke = -1
        account.until = round + 1 + 2 ** min(account.strikes, _LONGEST)
        account.strikes += 1

    def close(self, round: int, *, silent: int, base: Callable[[int], bool]) -> None:
        """A round is over: accounts of sites that were silent for `silent` rounds go.

        Not of one in quarantine, nor of one whose updates could count: `base` says whether any may
        still be made from a version, so that no update is ever taken for new a second time.
        """
        for site, account in list(self._accounts.items()):
            if account.spoke < 0:
                account.spoke = round
            elif round - account.spoke < silent or account.until > round or base(account.base):
                continue
            else:
                del self._accounts[site]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            site: {**asdict(each), "recent": [[*pair] for pair in sorted(each.recent.items())]}
            for site, each in sorted(self._accounts.items())
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], most: int) -> Self:
        """What `to_json` wrote."""
        made = cls(most)
        for site, each in data.items():
            recent = {int(sequence): str(verdict) for sequence, verdict in each["recent"]}
            made._accounts[site] = _Account(**{**each, "recent": recent})
        return made

    def _remember(self, site: str, sequence: int, verdict: Verdict) -> _Account:
        account = self._accounts.setdefault(site, _Account())
        account.recent[sequence] = verdict.value
        account.spoke = -1
        if len(account.recent) > KEPT:
            account.floor = min(account.recent)
            del account.recent[account.floor]
        return account
