"""`fleetcast site`: a process of one or many sites, from its own data to a remote aggregator."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from actors import arguments, federated_arguments
from actors.federation import begin
from actors.site import Centre, SiteAtWork
from actors.site_curve import Curve
from actors.site_models import SiteModels
from actors.site_slots import Slots
from connect.replay import Replay
from forecast.clock import slots_per_day
from forecast.config import Config
from forecast.durations import seconds
from forecast.errors import ConfigError, DataError
from forecast.http.federated import SITE_NAME
from forecast.storage import OwnerLock
from forecast.windows import RawWindows
from train.buffer import Buffer
from train.federated.site import Site
from train.federated.traffic import Traffic

log = logging.getLogger("fleetcast.site")

_CHUNK_SLOTS = 96
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteWishes:
    """What the command's options say."""

    name: str
    servers: tuple[str, ...] = ()
    """Of the data, which are this site's; none: all."""
    per_server: bool = False
    """A site for each server, named `NAME.SERVER`."""
    every: str = "1h"
    """Event time from one update to the next."""
    rounds: int | None = None
    """Updates, then it is done; None: as many as the data gives."""
    compare_days: float = 0.0
    """Of the data's end: learned from by nobody, for a curve of both ways; 0: no curve."""
    patience_s: float = 600.0
    """Without any progress for so long, by the wall clock, it gives up."""


class Feed:
    """The data of a site's process into its buffer, in event time, no further than is asked for."""

    def __init__(self, config: Config, replay: Replay, *, days: int) -> None:
        self._replay, self._schema = replay, config.panel.schema_of()
        given = {**arguments.stream(config), "directory": None, "history_days": days}
        self.buffer = Buffer(**given)
        self._next = replay.first_slot
        self.margin = _margin(config)

    def upto(self, slot: int) -> None:
        """Until the buffer has closed this slot."""
        wanted = min(slot + self.margin + 1, self._replay.end_slot)
        while self._next < wanted:
            stop = min(self._next + _CHUNK_SLOTS, wanted)
            block, _ = self._replay.samples(self._next, stop, schema=self._schema)
            self.buffer.append(f"feed-{self._next}", block)
            self._next = stop


@dataclass(frozen=True, slots=True)
class _Given:
    """What a process has to learn from, and when."""

    replay: Replay
    """Up to where it is read."""
    feed: Feed
    slots: Slots
    days: int
    """That a buffer of it holds."""

    @classmethod
    def of(cls, config: Config, replay: Replay, wishes: SiteWishes) -> Self:
        """Raises ConfigError, DataError as `run`."""
        slots, end = _slots(config, replay, wishes)
        read = replace(replay, end_slot=end)
        days = -(-(end - read.first_slot) // slots_per_day(config.panel.step)) + 1
        return cls(read, Feed(config, read, days=days), slots, days)


def run(
    config: Config,
    replay: Replay,
    wishes: SiteWishes,
    centre: Centre,
    *,
    tell: Callable[[str], None] = print,
    pause: Callable[[], None] = lambda: time.sleep(_PAUSE_S),
) -> Mapping[str, Any]:
    """Take part until the data or the rounds end; what was done, flat.

    Raises ConfigError for servers that the data has not and for names that no aggregator takes,
    before anything is made; StateError for an aggregator of another schema or a state that is in
    use, DataError when it waits for too long.
    """
    _check(wishes.name, "--name")
    given = _Given.of(config, replay, wishes)
    named = _named(given, wishes)
    folder = config.panel_dir / "site" / wishes.name
    folder.mkdir(parents=True, exist_ok=True)
    with OwnerLock(folder / "owner.lock", f"site {wishes.name}"):
        works = _sites(config, given, named, wishes, centre, folder)
        _until_done(works, wishes, tell, pause)
    return {
        "site": wishes.name,
        "sites": len(works),
        "updates": sum(one.updates for one in works),
        **Traffic.together(one.traffic for one in works).told(),
        "version": max(one.site.base.version for one in works if one.site.base is not None),
    }


def _until_done(
    works: Sequence[SiteAtWork],
    wishes: SiteWishes,
    tell: Callable[[str], None],
    pause: Callable[[], None],
) -> None:
    moved_s, open_works = time.monotonic(), list(works)
    while open_works:
        did = [(one, one.advance()) for one in open_works]
        for one, what in did:
            if what not in ("waits", "done"):
                cost = one.traffic.told() if what == "sent" else {}
                tell(json.dumps({"site": one.site.name, "did": what, "slot": one.slot, **cost}))
                moved_s = time.monotonic()
        open_works = [one for one, what in did if what != "done"]
        if open_works and all(what in ("waits", "done") for _, what in did):
            if time.monotonic() > moved_s + wishes.patience_s:
                raise DataError(
                    f"no news from the aggregator in {wishes.patience_s:g} s, "
                    f"{len(open_works)} sites wait"
                )
            pause()


def _sites(
    config: Config,
    given: _Given,
    named: Sequence[tuple[str, tuple[str, ...] | None]],
    wishes: SiteWishes,
    centre: Centre,
    folder: Path,
) -> list[SiteAtWork]:
    spec, seed = federated_arguments.spec_of(config), config.training.seed
    frame, start = begin(config.panel.schema_of(), spec, seed=seed)
    recipes = federated_arguments.site(config)
    models = SiteModels()
    works = []
    for name, servers in named:
        made = partial(Site, name, frame, given.feed.buffer, servers=servers, **recipes)
        curve = None
        if wishes.compare_days:
            path = folder / f"{name}.curve.jsonl"
            windows = _later(config, given, servers)
            curve = Curve(path, made(), start, windows)
        works.append(
            SiteAtWork(
                made(),
                centre,
                slots=given.slots,
                seed=seed,
                path=folder / f"{name}.state",
                models=models,
                feed=given.feed.upto,
                watching=curve,
            )
        )
    return works


def _slots(config: Config, replay: Replay, wishes: SiteWishes) -> tuple[Slots, int]:
    """When updates are learned, from the end of the history on; and the end of what is read."""
    step, margin = config.panel.step, _margin(config)
    try:
        every = max(1, seconds(wishes.every) // step)
    except ValueError as error:
        raise ConfigError(f"--every: {error}") from error
    first = replay.start_slot - 1
    kept = round(wishes.compare_days * slots_per_day(step))
    last = replay.end_slot - 1 - kept - margin
    if wishes.rounds is not None:
        last = min(last, first + (wishes.rounds - 1) * every)
    if last < first:
        raise DataError(
            f"the data ends {replay.end_slot - replay.start_slot} slots after its history, and "
            f"{kept} of them are kept to compare on"
        )
    return Slots(first, every, last), min(replay.end_slot, last + kept + margin + 1)


def _margin(config: Config) -> int:
    """Slots after one until it is closed: the clock has passed it by the allowed lateness."""
    return config.clock.allowed_lateness // config.panel.step + 1


def _named(given: _Given, wishes: SiteWishes) -> list[tuple[str, tuple[str, ...] | None]]:
    """Each site's name and its servers, None: all; raises ConfigError for a name of no site."""
    every = _servers(given, wishes)
    if not wishes.per_server:
        return [(wishes.name, wishes.servers or None)]
    for server in every:
        _check(f"{wishes.name}.{server}", f"--per-server with the server {server!r}")
    return [(f"{wishes.name}.{server}", (server,)) for server in every]


def _check(name: str, what: str) -> None:
    if not re.fullmatch(SITE_NAME, name):
        raise ConfigError(
            f"{what}: {name!r} is no name of a site: up to 200 letters, digits, dots, dashes and "
            "underscores, a letter or digit first"
        )


def _servers(given: _Given, wishes: SiteWishes) -> tuple[str, ...]:
    """The names of this site's servers; raises ConfigError for one that is not in the data."""
    given.feed.upto(given.slots.first)
    there = tuple(one.name for one in given.feed.buffer.servers())
    if unknown := sorted(set(wishes.servers) - set(there)):
        raise ConfigError(f"no server {unknown[0]!r} in the data of {given.replay.fleet}")
    return wishes.servers or there


def _later(
    config: Config, given: _Given, servers: tuple[str, ...] | None
) -> Callable[[], RawWindows]:
    """Windows of the data's end, cut once, out of a buffer that nobody learns from."""
    found: list[RawWindows] = []
    horizon = config.panel.horizon_slots

    def windows() -> RawWindows:
        if not found:
            feed = Feed(config, given.replay, days=given.days)
            end = given.replay.end_slot - 1 - feed.margin
            feed.upto(end)
            hours = (end - given.slots.last) * config.panel.step // 3600
            found.append(feed.buffer.holdout(as_of=end, hours=hours, every=horizon, only=servers))
        return found[0]

    return windows
