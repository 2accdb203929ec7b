"""What the home site has for the fleet's registry: its form of the newest global version, on disk.

    made ──► newest ──offer(after)──► offered ──offered(version)──► the controller, any time later

What was offered stays until another one is: the controller keeps the version's number first, and
fetches it, again and again if it has to, while the site goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from forecast.artifact import Artifact
from forecast.errors import NothingNew, StateError
from forecast.packing import pack, unpack
from forecast.storage import DISK, TEMPORARY, Disk, make_folders, write_atomic

log = logging.getLogger("fleetcast.site")

_KIND = "home-offer"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Offer:
    """One global version as the site answers with it."""

    version: int
    """The federation's number, not the registry's."""
    slot: int
    """What the site knew when it made this."""
    artifact: Artifact

    def told(self) -> dict[str, Any]:
        """What the controller needs to know of it, before it fetches anything."""
        return {"version": self.version, "slot": self.slot}

    def pack(self) -> bytes:
        """As one sealed piece."""
        header = {"format": _FORMAT, **self.told(), "manifest": self.artifact.manifest}
        return pack(_KIND, header, {"weights": np.frombuffer(self.artifact.weights, np.uint8)})

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """What `pack` made; raises StateError for anything else."""
        header, arrays = unpack(_KIND, data)
        if header.get("format") != _FORMAT:
            raise StateError(f"an offer has format {header.get('format')}, need {_FORMAT}")
        artifact = Artifact(header["manifest"], arrays["weights"].tobytes())
        return cls(header["version"], header["slot"], artifact)


class Offers:
    """The newest offer and the one that the controller knows of; safe for several threads."""

    def __init__(self, folder: Path, *, fingerprint: str, disk: Disk = DISK) -> None:
        """One that is damaged, or of another schema, is left out: it can be made again."""
        self._disk, self._turn = disk, threading.Lock()
        make_folders(folder, disk=disk)
        self._paths = {name: folder / f"{name}.offer" for name in ("newest", "offered")}
        self._kept: dict[str, Offer] = {}
        for name, path in self._paths.items():
            path.with_name(f"{TEMPORARY}{path.name}").unlink(missing_ok=True)
            if path.exists():
                try:
                    found = Offer.unpack(path.read_bytes())
                except (StateError, KeyError, TypeError) as error:
                    log.warning("%s is made again: %s", path, error)
                    continue
                if found.artifact.manifest.get("fingerprint") == fingerprint:
                    self._kept[name] = found

    @property
    def version(self) -> int | None:
        """Of the newest; None where there is none."""
        newest = self._kept.get("newest")
        return None if newest is None else newest.version

    def make(self, offer: Offer) -> None:
        """Keep a newer one."""
        self._keep("newest", offer)

    def offer(self, after: int | None) -> Mapping[str, Any] | None:
        """Say what is there, and hold it ready; None where it is the version `after`."""
        newest = self._kept.get("newest")
        if newest is None or newest.version == after:
            return None
        if self._kept.get("offered") is not newest:
            self._keep("offered", newest)
        return newest.told()

    def offered(self, version: int) -> Artifact:
        """What was offered; raises NothingNew when it is not there any more."""
        found = self._kept.get("offered")
        if found is None or found.version != version:
            has = "none" if found is None else f"version {found.version}"
            raise NothingNew(f"the home site has global version {version} no more, but {has}")
        return found.artifact

    def _keep(self, name: str, offer: Offer) -> None:
        with self._turn:
            write_atomic(self._paths[name], offer.pack(), disk=self._disk)
            self._kept = {**self._kept, name: offer}
