"""A federated site at work: it fetches, learns, sends and scores, whatever stops it in between.

    current ─► take a new version, fit what is its own
            ─► score a candidate
            ─► send what was learned and not yet answered
            ─► learn at the next slot of its own data

One thing a call of `advance`; its result is on disk before it is sent, so that a process that was
killed goes on where it was. Needs no Ray: a site need not be part of a cluster.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.site_models import SiteModels
from actors.site_slots import OpenSlots, Slots
from forecast.errors import Conflict, NothingNew, StateError, TrainingError
from forecast.packing import pack, unpack
from forecast.storage import DISK, TEMPORARY, Disk, make_folders, write_atomic
from forecast.tensors import dump
from train.federated.compression import ErrorFeedback
from train.federated.frame import FloatArray, GlobalModel
from train.federated.site import Site
from train.federated.traffic import Traffic

log = logging.getLogger("fleetcast.site")

_KIND = "site-at-work"
_FORMAT = 2
_READABLE = (1, _FORMAT)
"""1 knows no more of the traffic than the bytes that were sent."""

Did = Literal["took", "scored", "sent", "skipped", "waits", "done"]


class Centre(Protocol):
    """The aggregator as a site reaches it; see `connect.federated.SiteClient`."""

    def current(self, site: str) -> Mapping[str, Any]:
        """The open round and the version."""

    def model(self, version: int, *, schema_hash: str, role: str = "") -> NDArray[np.float32]:
        """The shared vector of a version or candidate; raises Conflict when it is neither."""

    def send(self, site: str, round: int, update: bytes) -> Mapping[str, Any]:
        """Send an update; the receipt."""

    def tell(self, score: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tell a score; what became of the candidate so far."""


class Watching(Protocol):
    """Who looks on, such as a comparison with learning alone."""

    def learned(self, slot: int, *, seed: int, rate: float) -> None:
        """The site learned an update, from its windows at this slot."""

    def took(self, site: Site, slot: int) -> None:
        """The site answers with a new version."""


class SiteAtWork:
    """One logical site: what it has, where it is, what it still has to send."""

    def __init__(
        self,
        site: Site,
        centre: Centre,
        *,
        slots: Slots | OpenSlots,
        seed: int,
        path: Path,
        models: SiteModels,
        feed: Callable[[int], None] = lambda _: None,
        watching: Watching | None = None,
        disk: Disk = DISK,
    ) -> None:
        """`path` is where its state is kept, `models` what the sites of a process have fetched.

        `feed` makes sure that the site's source knows a slot. Raises StateError for a state that is
        damaged or another site's.
        """
        self.site, self._centre, self._slots, self._seed = site, centre, slots, seed
        self._path, self._models, self._disk = path, models, disk
        self._feed, self._watching = feed, watching
        self.slot = self.began = self.known_slot = slots.first
        """Of the next update, and of the first; the site knows nothing later than the third."""
        self.updates, self.traffic = 0, Traffic()
        self.made: Mapping[str, Any] = {}
        """Of the version that it began from last: `version`, `round` and `sites` that made it."""
        self.waits_for = ""
        """What it asked for last and did not get, for people."""
        self._outbox: tuple[int, bytes] | None = None
        self._limited: int | None = None
        """The round that takes no more of this site."""
        self._residual: FloatArray | None = None
        make_folders(path.parent, disk=disk)
        path.with_name(f"{TEMPORARY}{path.name}").unlink(missing_ok=True)
        if path.exists():
            self._restore(path.read_bytes())

    def advance(self) -> Did:
        """Do the next thing. Raises StateError for an aggregator of another schema."""
        site, self.waits_for = self.site, ""
        now = self._centre.current(site.name)
        schema_hash = site.frame.layout.schema_hash
        if now["schema_hash"] != schema_hash:
            raise StateError(
                f"the aggregator's schema is {now['schema_hash'][:12]}, site {site.name}'s "
                f"{schema_hash[:12]}: the same metrics, roles and [model] are needed"
            )
        self._models.told(now["version"])
        if site.base is None or site.base.version != now["version"] or self._anew(now):
            return self._take(now)
        if now["candidate"] is not None and not now["scored"]:
            return self._score(now)
        if self._outbox is not None:
            return self._send(now["round"])
        if self._held(now):
            return "waits"
        if (slot := self._slots.next(self.slot)) is None:
            self.waits_for = f"slot {self.slot}"
            return "done"
        return self._learn(now, slot)

    def _held(self, now: Mapping[str, Any]) -> bool:
        """Whether nothing is to be learned before others have done their part."""
        if now["candidate"] is not None:
            self.waits_for = f"the verdict on version {now['candidate']}"
        elif now["quarantined"]:
            self.waits_for = "the end of its quarantine"
        elif now["sent"]:
            self.waits_for = f"the end of round {now['round']}"
        else:
            return False
        return True

    def _anew(self, now: Mapping[str, Any]) -> bool:
        """Whether the aggregator lost what it had: it went back, or gave a number once more."""
        if self.site.base is None or self.site.base.version < now["version"]:
            return False
        taken, told = self.made.get("digest"), now.get("digest")
        another = taken is not None and told is not None and taken != told
        return self.site.base.version > now["version"] or another

    def _take(self, now: Mapping[str, Any]) -> Did:
        self._feed(self.known_slot)
        if (model := self._model(now["version"], now.get("digest") or "")) is None:
            return "waits"
        if self._anew(now):
            log.warning(
                "site %s: the aggregator began anew, at version %d", self.site.name, model.version
            )
            self._outbox = None  # learned from a base of which this one knows nothing
        self._limited = None
        self.site.take(model, keep_previous=now["keep_previous"])
        self.made = {
            "version": model.version,
            "digest": now.get("digest"),
            "round": now.get("made_in"),
            "sites": list(now.get("made_of") or ()),
        }
        try:
            self.site.adapt(self.known_slot, seed=self._drawn("adapt", self.known_slot))
        except NothingNew as error:
            log.info("nothing to fit what is its own to: %s", error)
        except TrainingError as error:
            log.warning("site %s goes on without a correction: %s", self.site.name, error)
        self._save()
        if self._watching is not None:
            self._watching.took(self.site, self.known_slot)
        return "took"

    def _score(self, now: Mapping[str, Any]) -> Did:
        self._feed(self.known_slot)
        digest = now.get("candidate_digest") or ""
        if (model := self._model(now["candidate"], digest)) is None:
            return "waits"
        seed = self._drawn("score", self.known_slot)
        told = self.site.score(model, self.known_slot, seed=seed)
        self._centre.tell(told.to_json())
        return "scored"

    def _learn(self, now: Mapping[str, Any], slot: int) -> Did:
        seed = self._drawn("learn", slot)
        self._feed(slot)
        try:
            meta, delta = self.site.learn(slot, seed=seed, rate=now["rate"])
        except (NothingNew, TrainingError) as error:
            level = logging.WARNING if isinstance(error, TrainingError) else logging.INFO
            log.log(level, "site %s skips slot %d: %s", self.site.name, slot, error)
            self.slot, self.known_slot = slot + self._slots.every, slot
            self._save()
            return "skipped"
        feedback = ErrorFeedback(now["codec"], self._residual)
        made, cost = feedback.encode(delta)
        self.traffic = self.traffic.encoded(cost)
        header = {**meta.to_json(), "codec": made.codec}
        self._outbox = (now["round"], dump(header, made.arrays))
        self._residual = feedback.residual
        self.slot, self.known_slot = slot + self._slots.every, slot
        self._save()
        if self._watching is not None:
            self._watching.learned(slot, seed=seed, rate=now["rate"])
        return self._send(now["round"])

    def _send(self, number: int) -> Did:
        """Until it is answered it stays on disk; an answer that was lost is given again.

        It goes to the round that is open now: the one it was learned in may be unknown to an
        aggregator that was restored.
        """
        assert self._outbox is not None
        if self._limited == number:
            self.waits_for = f"the end of round {number}"
            return "waits"
        _, update = self._outbox
        receipt = self._centre.send(self.site.name, number, update)
        verdict = receipt["verdict"]
        if verdict in ("unauthorised", "malformed"):
            raise StateError(f"site {self.site.name}'s update is {verdict}: {receipt['reason']}")
        if verdict == "limited":
            self._limited, self.waits_for = number, f"the end of round {number}"
            return "waits"
        self.updates += bool(receipt["counted"])
        self.traffic = self.traffic.sent(update)
        self._outbox = None
        self._save()
        return "sent"

    @property
    def bytes_sent(self) -> int:
        """Of the updates that were answered."""
        return self.traffic.bytes_sent

    def _model(self, version: int, digest: str) -> GlobalModel | None:
        """None when the aggregator went on since it named this one: ask again."""
        asked = {"schema_hash": self.site.frame.layout.schema_hash, "role": self.site.role}
        try:
            return self._models.get(version, digest, lambda: self._centre.model(version, **asked))
        except Conflict as error:
            log.info("site %s asks again: %s", self.site.name, error)
            return None

    def _shared(self, model: GlobalModel) -> GlobalModel:
        digest = self.made.get("digest") if self.made.get("version") == model.version else None
        return self._models.same(model, digest or "")

    def _drawn(self, what: str, slot: int) -> int:
        text = f"{self._seed}:{self.site.name}:{what}:{slot}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def _save(self) -> None:
        number, update = self._outbox or (-1, b"")
        header = {
            "format": _FORMAT,
            "slot": self.slot,
            "known": self.known_slot,
            "round": number,
            "updates": self.updates,
            "traffic": self.traffic.to_json(),
            "began": self.began,
            "made": dict(self.made),
        }
        arrays: dict[str, NDArray[Any]] = {
            "site": np.frombuffer(self.site.pack(), np.uint8),
            "update": np.frombuffer(update, np.uint8),
        }
        if self._residual is not None:
            arrays["residual"] = self._residual
        write_atomic(self._path, pack(_KIND, header, arrays), disk=self._disk)

    def _restore(self, data: bytes) -> None:
        header, arrays = unpack(_KIND, data)
        if (number := header.get("format")) not in _READABLE:
            raise StateError(f"{self._path}: format {number}, need {_FORMAT}")
        self.made = header.get("made", {})
        self.site.restore(arrays["site"].tobytes(), shared=self._shared)
        self.slot, self.updates = header["slot"], header["updates"]
        if number == 1:
            self.traffic = Traffic.of_before(header["bytes_sent"])
        else:
            self.traffic = Traffic.from_json(header["traffic"])
        self.began = header.get("began", self.began)
        # One of before does not say what it knew; with another `every` that is not certain.
        before = max(self.began, self.slot - self._slots.every)
        self.known_slot = self._slots.known(header.get("known", before))
        if header["round"] >= 0:
            self._outbox = (header["round"], arrays["update"].tobytes())
        if "residual" in arrays:
            self._residual = arrays["residual"].copy()
