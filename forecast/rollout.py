"""The rollout table: which versions answer in the champion's seat, and for which servers.

    table      for each cohort of servers the shares of versions; `everyone` is whoever is in none
    cohort     a share of all names by a stable hash: the same server is in the same one for ever
    share      of the seat: several are averaged; with 0 a version is a shadow, computed and scored
    flight     the one version that is on its way: shadow -> canary -> everyone, which is promotion
    waiting    the newest accepted version that cannot begin yet; a newer one supersedes it

A canary is a cohort whose share moved, an A/B test is two cohorts, a way back is the table before.
All of it is part of the registry's state, and so of the audit log. Each change gives a new value.

S servers, V versions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

CHALLENGER = "challenger"
"""The member that issues the version in flight, once it is not the champion."""

VARIANT = "variant_"
"""Begins the names of the other members that issue for the table alone."""

MOST_TRIALS = 3
"""Versions that may issue for the table at most: each costs a pass of the network."""

EVERYONE = "everyone"

Stage = Literal["shadow", "canary", "operator"]
"""`operator`: somebody's own table, for as long as they like."""


@dataclass(frozen=True, slots=True)
class Share:
    """A version's share of the seat."""

    version: int
    share: float


@dataclass(frozen=True, slots=True)
class Cohort:
    """So large a share of the servers, and who answers for them."""

    name: str
    servers: float
    versions: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Cohorts, in the order of their places; raises ValueError for what makes no sense.

    >>> table = Table((Share(3, 1.0),), (Cohort("canary", 0.05, (Share(4, 1.0),)),))
    >>> table.versions
    (3, 4)
    """

    everyone: tuple[Share, ...]
    cohorts: tuple[Cohort, ...] = ()

    def __post_init__(self) -> None:
        names = [cohort.name for cohort in self.cohorts]
        wrong = [name for name in names if not re.fullmatch(r"[a-z][a-z0-9-]{0,62}", name)]
        if wrong or EVERYONE in names or len(set(names)) < len(names):
            raise ValueError(f"cohorts {names}: each needs a name of its own, as `canary`")
        sizes = [cohort.servers for cohort in self.cohorts]
        if not all(0 < size <= 1 for size in sizes) or sum(sizes) > 1 + 1e-9:
            raise ValueError(f"cohorts hold {sizes} of the servers; above 0, and 1 together")
        for name, shares in (
            (EVERYONE, self.everyone),
            *((c.name, c.versions) for c in self.cohorts),
        ):
            total = sum(one.share for one in shares)
            if not all(0 <= one.share <= 1 for one in shares) or abs(total - 1) > 1e-6:
                raise ValueError(f"the shares of {name} are to sum to 1, not to {total:g}")
            if len({one.version for one in shares}) < len(shares):
                raise ValueError(f"{name} names a version twice")

    @property
    def versions(self) -> tuple[int, ...]:
        """Whom it names, each once."""
        every = (self.everyone, *(cohort.versions for cohort in self.cohorts))
        return tuple(dict.fromkeys(one.version for shares in every for one in shares))

    def only(self, version: int) -> bool:
        """Whether this version has every seat."""
        return all(self._of(at) == {version: 1.0} for at in range(-1, len(self.cohorts)))

    def cohort_of(self, server: str) -> str:
        """The cohort that a server is in.

        >>> table = Table((Share(3, 1.0),), (Cohort("a", 0.5, (Share(4, 1.0),)),))
        >>> [table.cohort_of(name) for name in ("web-1", "web-2", "web-3", "web-4")]
        ['everyone', 'everyone', 'everyone', 'a']
        """
        at = self._cohort(server)
        return EVERYONE if at < 0 else self.cohorts[at].name

    def shares(
        self, servers: Sequence[str], live: Collection[int]
    ) -> tuple[tuple[int, ...], NDArray[np.float32]]:
        """The versions V that have a share anywhere, and each server's shares [S, V].

        Of those that are `live`: what the others had is theirs. A row without any is all 0.
        """
        versions = tuple(one for one in self.versions if one in live)
        rows = np.zeros((len(self.cohorts) + 1, len(versions)), np.float64)
        for at in range(-1, len(self.cohorts)):  # everyone's row is the last, as -1 says
            of = self._of(at)
            rows[at] = [of.get(version, 0.0) for version in versions]
        total = rows.sum(1, keepdims=True)
        rows = np.divide(rows, total, out=np.zeros_like(rows), where=total > 0)
        found = rows[[self._cohort(server) for server in servers]].astype(np.float32)
        used = found.any(0) if len(found) else np.ones(len(versions), bool)
        return tuple(np.array(versions)[used].tolist()), found[:, used]

    def _of(self, at: int) -> dict[int, float]:
        """Shares above 0 of a cohort by its number, -1 for everyone."""
        shares = self.everyone if at < 0 else self.cohorts[at].versions
        return {one.version: one.share for one in shares if one.share > 0}

    def _cohort(self, server: str) -> int:
        place, end = place_of(server), 0.0
        for at, cohort in enumerate(self.cohorts):
            end += cohort.servers
            if place < end:
                return at
        return -1

    @classmethod
    def of(cls, version: int) -> Self:
        """One version for everyone."""
        return cls((Share(version, 1.0),))

    @classmethod
    def canary(cls, champion: int, version: int, servers: float) -> Self:
        """A version for so many of the servers, the champion for everyone else."""
        return cls((Share(champion, 1.0),), (Cohort("canary", servers, (Share(version, 1.0),)),))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The table of an audit record."""
        return cls(
            _shares(stored["everyone"]),
            tuple(
                Cohort(one["name"], one["servers"], _shares(one["versions"]))
                for one in stored["cohorts"]
            ),
        )


def place_of(server: str) -> float:
    """Where a server stands between 0 and 1, by its name alone."""
    digest = hashlib.blake2b(server.encode(), digest_size=8, person=b"cohort").digest()
    return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True, slots=True)
class Flight:
    """A version on its way to everyone. Slots are event time."""

    version: int
    stage: Stage
    began: int
    """When it began to issue beside the champion that it is compared with."""
    since: int
    """When its stage began."""
    canary_share: float = 0.05
    fast: bool = False
    """Accepted after a confirmed drift."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """What is rolled out, and what waits for it."""

    table: Table | None = None
    """None: the champion for everyone."""
    flight: Flight | None = None
    waiting: Flight | None = None
    """Its stage is the one that it is to begin with."""
    shadows: tuple[int, ...] = ()
    """Versions that somebody wants to see computed and scored."""
    changed: int = 0
    """The registry's revision when champion, table, flight or shadows last changed."""

    @property
    def versions(self) -> frozenset[int]:
        """Whom any of it names."""
        flights = [one.version for one in (self.flight, self.waiting) if one is not None]
        return frozenset((*flights, *self.shadows, *(self.table.versions if self.table else ())))

    @property
    def accepted(self) -> frozenset[int]:
        """Versions that the gate let pass and nobody decided on yet."""
        flights = (self.flight, self.waiting)
        return frozenset(one.version for one in flights if one and one.stage != "operator")

    def alias(self, aliases: Mapping[str, int], *, before: Rollouts) -> dict[str, int]:
        """Aliases in which `challenger` names what is in flight, and no longer what was."""
        flew = None if before.flight is None else before.flight.version
        kept = {name: of for name, of in aliases.items() if (name, of) != (CHALLENGER, flew)}
        return kept if self.flight is None else {**kept, CHALLENGER: self.flight.version}

    def trials(self, champion: int, issuing: Collection[int]) -> dict[str, int]:
        """The versions that issue for the table alone, by the member's name.

        `issuing` are those that issue anyway.
        """
        wanted: list[int] = [] if self.flight is None else [self.flight.version]
        wanted += [*(self.table.versions if self.table else ()), *self.shadows]
        others = [one for one in dict.fromkeys(wanted) if one not in {champion, *issuing}]
        names = (CHALLENGER, *(f"{VARIANT}{at}" for at in range(1, MOST_TRIALS)))
        return dict(zip(names, others, strict=False))

    def accept(self, flight: Flight, *, slot: int, champion: int) -> Rollouts:
        """With a version on its way, or waiting in the place of the one that waited."""
        if self.flight is not None:
            return replace(self, waiting=flight)
        return self._begun(flight, slot, champion)

    def advance(self, *, slot: int, champion: int) -> Rollouts:
        """With the version in flight serving its canary cohort."""
        assert self.flight is not None
        flight = replace(self.flight, stage="canary", since=slot)
        table = Table.canary(champion, flight.version, flight.canary_share)
        return replace(self, flight=flight, table=table)

    def end(self, *, slot: int, champion: int | None) -> Rollouts:
        """With the champion for everyone again; what waited begins."""
        ended = replace(self, table=None, flight=None, waiting=None)
        if self.waiting is None or champion is None:
            return ended
        return ended._begun(self.waiting, slot, champion)

    def put(self, table: Table, *, slot: int, champion: int) -> Rollouts:
        """With somebody's own table; what was in flight waits, where nothing newer does."""
        if table.only(champion) and set(table.versions) == {champion}:
            return self.end(slot=slot, champion=champion)
        first = next((one for one in table.versions if one != champion), champion)
        own = Flight(first, "operator", slot, slot)
        waits, flies = self.waiting, self.flight
        if waits is None and flies is not None and flies.stage != "operator":
            waits = replace(flies, stage="shadow")
        return replace(self, table=table, flight=own, waiting=waits)

    def moved(self, champion: int, *, slot: int) -> Rollouts:
        """With another champion: what is in flight begins anew beside it, in the shadow.

        The new champion itself has arrived, and somebody's own table is over.
        """
        known = self._less(frozenset({champion}))
        flight = known.flight
        if flight is None:
            return replace(known, table=None)
        if flight.stage == "operator" or flight.version == champion:
            return known.end(slot=slot, champion=champion)
        again = replace(flight, stage="shadow", began=slot, since=slot)
        return replace(known, table=None, flight=again)

    def held(self, before: Rollouts) -> Rollouts:
        """With what begins just now in the shadow, whatever stage it is to begin with."""
        flight, was = self.flight, before.flight
        flew = None if was is None or was.stage == "operator" else was.version
        if flight is None or flight.stage != "canary" or flight.version == flew:
            return self
        return replace(self, table=None, flight=replace(flight, stage="shadow"))

    def without(self, gone: Iterable[int], *, slot: int, champion: int | None) -> Rollouts:
        """Without versions that may not answer any more."""
        out = frozenset(gone)
        if not out & self.versions:
            return self
        known = self._less(out)
        held = {*(known.table.versions if known.table else ())}
        held |= {known.flight.version} if known.flight is not None else set()
        return known.end(slot=slot, champion=champion) if held & out else known

    def _less(self, out: frozenset[int]) -> Rollouts:
        """With none of these among what waits and the shadows."""
        stays = self.waiting is not None and self.waiting.version not in out
        shadows = tuple(one for one in self.shadows if one not in out)
        return replace(self, waiting=self.waiting if stays else None, shadows=shadows)

    def _begun(self, flight: Flight, slot: int, champion: int) -> Rollouts:
        begun = replace(self, flight=replace(flight, stage="shadow", began=slot, since=slot))
        if flight.stage == "canary":
            return begun.advance(slot=slot, champion=champion)
        return begun

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Those of an audit record."""
        table, flight, waiting = (stored[name] for name in ("table", "flight", "waiting"))
        return cls(
            table=None if table is None else Table.from_json(table),
            flight=None if flight is None else Flight(**flight),
            waiting=None if waiting is None else Flight(**waiting),
            shadows=tuple(stored["shadows"]),
            changed=stored["changed"],
        )


def is_trial(member: str) -> bool:
    """Whether a member issues for the table alone, and has no say of its own in the ensemble."""
    return member == CHALLENGER or member.startswith(VARIANT)


def _shares(stored: Iterable[Mapping[str, Any]]) -> tuple[Share, ...]:
    return tuple(Share(one["version"], one["share"]) for one in stored)
