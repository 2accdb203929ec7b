"""The fleet itself as a site: its live buffer, the sites at work on it, and what it has to offer.

    buffer ──closed slots──► SiteAtWork, one or one a server ──deltas, scores──► aggregator
                                   └── an accepted version that answers here ──► Offers

Plain Python and torch, in one thread; `actors.site_actor` keeps it turning.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from actors.home_offers import Offer, Offers
from actors.site import Centre, SiteAtWork
from actors.site_lines import BufferSource
from actors.site_models import SiteModels
from actors.site_slots import OpenSlots
from forecast.errors import ArtifactError, StateError
from forecast.http.federated import SITE_NAME
from forecast.http.problems import original
from forecast.storage import DISK, Disk
from train.federated.frame import Frame, SiteSettings
from train.federated.home import artifact_of
from train.federated.site import Site

log = logging.getLogger("fleetcast.site")

_Named = list[tuple[str, tuple[str, ...] | None]]
_MOST_IN_A_ROW = 3
"""Sites that fail one after the other end a turn."""
_SHOWN_WINDOWS = 256
"""Windows on which a manifest says what its serving forms cost."""


class HomeSite:
    """One site, or a site a server, on the fleet's own buffer. Not safe for several threads."""

    def __init__(
        self,
        *,
        name: str,
        per_server: bool,
        every: int,
        needs: int,
        frame: Frame,
        recipes: Mapping[str, Any],
        seed: int,
        source: BufferSource,
        centre: Centre,
        folder: Path,
        disk: Disk = DISK,
    ) -> None:
        """It learns each `every` slots, from the first on after which `needs` slots are known.

        `recipes` are keyword arguments of `Site`; state is kept in `folder`. What is still to come
        from the buffer and the centre is asked for at the first turn, not here.
        """
        self.name, self._per_server = name, per_server
        self._every, self._needs = every, needs
        self._frame, self._recipes, self._seed = frame, recipes, seed
        self._source, self._centre = source, centre
        self._folder, self._disk = folder, disk
        self._works: dict[str, SiteAtWork] = {}
        self._models = SiteModels()
        self._refused: set[str] = set()
        self._failures: dict[str, str] = {}
        self._after: str | None = None
        """The site at which the last turn was broken off."""
        self._tried: tuple[int, int] | None = None
        self.offers = Offers(folder, fingerprint=frame.schema.fingerprint(), disk=disk)
        self.closed: int | None = None
        """The last slot that the buffer had closed at the last turn."""
        self.stopping = False
        """Set by whoever waits for the end of a turn."""
        self.told: Mapping[str, Any] = self._told("the buffer")

    def turn(self) -> bool:
        """Let each site do its next thing; whether any did.

        A site that the aggregator does not take is told of and waits, the others go on. Raises
        what asking the buffer raised, and, where nobody moved, the first error of a site: nothing
        is lost, it is done again.
        """
        status = self._source.status()
        self.closed = status.closed_slot
        begin = None if status.first_slot is None else status.first_slot + self._needs
        if self.closed is None or begin is None or self.closed < begin:
            self.told = self._told("data" if begin is None else f"slot {begin}: enough history")
            return False
        moved, named = False, self._named()
        there = {name for name, _ in named}  # of others the state stays on disk
        self._works = {name: one for name, one in self._works.items() if name in there}
        self._failures = {name: why for name, why in self._failures.items() if name in there}
        first: Exception | None = None
        in_a_row = 0
        for name, servers in self._in_turn(named):
            if self.stopping:
                return False
            try:
                moved |= self._advance(name, servers, begin)
                in_a_row = 0
            except Exception as error:  # whatever it is, the others have their turn
                cause = original(error)
                self._failed(name, f"{type(cause).__name__}: {cause}")
                first, in_a_row = first or error, in_a_row + 1
            self.told = self._told()
            if in_a_row == _MOST_IN_A_ROW:  # what is away is away for all
                self._after = name
                break
        moved |= self._make_offer()
        self.told = self._told()
        if first is not None and not moved:
            raise first
        return moved

    def _in_turn(self, named: _Named) -> _Named:
        """After a turn that was broken off, those first who had none in it."""
        names = [name for name, _ in named]
        at = names.index(self._after) + 1 if self._after in names else 0
        self._after = None
        return named[at:] + named[:at]

    def _advance(self, name: str, servers: tuple[str, ...] | None, begin: int) -> bool:
        try:
            did = self._work(name, servers, begin).advance()
        except StateError as error:
            self._failed(name, str(error))
            return False
        except BaseException:
            # What could not be written must not be sent: it goes on from what is on disk.
            self._works.pop(name, None)
            raise
        self._failures.pop(name, None)
        return did not in ("waits", "done")

    def _failed(self, name: str, why: str) -> None:
        if why != self._failures.get(name):
            log.warning("site %s: %s", name, why)
        self._failures[name] = why

    def _named(self) -> _Named:
        """Each site's name and its servers, None: all; a name that no aggregator takes is told."""
        if not self._per_server:
            return [(self.name, None)]
        found: _Named = []
        for server in self._source.servers():
            name = f"{self.name}.{server}"
            if re.fullmatch(SITE_NAME, name):
                found.append((name, (server,)))
            elif server not in self._refused:
                self._refused.add(server)
                log.warning("server %r is no site: %r is no name of one", server, name)
        return found

    def _work(self, name: str, servers: tuple[str, ...] | None, begin: int) -> SiteAtWork:
        """The site of this name; a new one begins at the last of its slots that is closed."""
        if name not in self._works:
            assert self.closed is not None
            first = begin + (self.closed - begin) // self._every * self._every
            path = self._folder / f"{name}.state"
            try:
                self._works[name] = SiteAtWork(
                    Site(name, self._frame, self._source, servers=servers, **self._recipes),
                    self._centre,
                    slots=OpenSlots(first, self._every, self._now),
                    seed=self._seed,
                    path=path,
                    models=self._models,
                    disk=self._disk,
                )
            except StateError as error:
                raise StateError(f"{path}: {error}; to begin anew, remove it") from error
        return self._works[name]

    def _now(self) -> int:
        return -1 if self.closed is None else self.closed

    def _newest(self) -> SiteAtWork | None:
        """Who answers with the newest accepted version; None while nobody does."""
        there = [one for one in self._works.values() if one.site.serving is not None]
        return max(there, key=_serving, default=None)

    def _make_offer(self) -> bool:
        """Keep what answers here for the fleet's registry; whether there is something new.

        Version 0 has learned nothing. One site offers its own form of a version, many the global
        one: it is for all servers.
        """
        work = self._newest()
        if work is None or (version := _serving(work)) < 1 or version == self.offers.version:
            return False
        slot = max(one.known_slot for one in self._works.values())
        if self._tried == (version, slot):
            return False
        settings = self._recipes["settings"]
        windows = self._source.draw(
            as_of=slot,
            hours=settings.hours,
            count=min(_SHOWN_WINDOWS, settings.own_windows),
            seed=self._seed,
            holdout_hours=settings.holdout_hours,
        )
        self._tried = (version, slot)
        if not len(windows):
            log.info("global version %d waits: no windows at slot %d to show it on", version, slot)
            return False
        made = work.made if work.made.get("version") == version else {}
        origin = {
            "site": self.name,
            "version": version,
            "round": made.get("round"),
            "sites": list(made.get("sites", ())),
            "form": "global" if self._per_server else "personal",
        }
        model = work.site.members()["global" if self._per_server else "personal"]
        make = partial(artifact_of, model, windows, schema=self._frame.schema, slot=slot)
        try:
            artifact = make(since=self._since(), seed=self._seed, origin=origin)
        except ArtifactError as error:
            log.warning("global version %d is not offered: %s", version, error)
            return False
        self.offers.make(Offer(version, slot, artifact))
        log.info("global version %d answers at site %s", version, self.name, extra={"slot": slot})
        return True

    def _since(self) -> int:
        """The first slot that the first update can have read."""
        settings: SiteSettings = self._recipes["settings"]
        window = self._frame.spec.window
        hours = settings.hours + settings.holdout_hours
        reach = hours * 3600 // window.step_seconds + window.context + 2 * window.horizon
        return min(one.began for one in self._works.values()) - reach

    def _told(self, waits_for: str | None = None) -> dict[str, Any]:
        """Where it stands, for people."""
        works, newest = list(self._works.values()), self._newest()
        waits = sorted({one.waits_for for one in works if one.waits_for})
        return {
            "site": self.name,
            "sites": len(works),
            "version": None if newest is None else _serving(newest),
            "slot": max((one.known_slot for one in works), default=None),
            "updates": sum(one.updates for one in works),
            "bytes_sent": sum(one.bytes_sent for one in works),
            "offered": self.offers.version,
            "waits_for": waits_for or (waits[0] if waits else None),
            "failure": next(iter(self._failures.values()), None),
        }


def not_begun(name: str) -> dict[str, Any]:
    """The same of one that could not begin yet."""
    numbers = ("version", "slot", "offered", "failure")
    counts = {"sites": 0, "updates": 0, "bytes_sent": 0}
    return {"site": name, **counts, **dict.fromkeys(numbers), "waits_for": "its folder"}


def _serving(work: SiteAtWork) -> int:
    serving = work.site.serving
    return -1 if serving is None else serving.version
