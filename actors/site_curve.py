"""What a site gains from learning together: the losses of both ways, version by version.

Beside each update that the site learns, a network of its own learns from the same windows and is
shared with nobody. Both are scored on later windows, which neither learns from; so is what the site
can answer with for having both, each server's mix of all by recent loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forecast.errors import StateError
from forecast.packing import pack, unpack
from forecast.storage import DISK, write_atomic
from forecast.windows import RawWindows
from train.federated.frame import FloatArray, GlobalModel
from train.federated.mixture import mixed
from train.federated.site import Site
from train.paired import measure, wql

_KIND = "site-alone"
_FORMAT = 1
"""A file without a number is of format 1 too: it holds the same."""


class Curve:
    """The curve of one site, as lines of JSON in a file: one for each version that it took."""

    def __init__(
        self, path: Path, alone: Site, start: FloatArray, windows: Callable[[], RawWindows]
    ) -> None:
        """`alone` has the same windows and recipe as the site; `windows` are those to score on.

        Raises StateError for a state of another format, or one that is damaged.
        """
        self._path, self._alone, self._windows = path, alone, windows
        self._state = path.with_name(f"{path.name}.alone")
        self._learned_at, learned = -1, start
        if self._state.exists():
            header, arrays = unpack(_KIND, self._state.read_bytes())
            if (number := header.get("format", 1)) != _FORMAT:
                raise StateError(f"{self._state}: format {number}, need {_FORMAT}")
            self._learned_at, learned = header["slot"], arrays["vector"].copy()
        self._vector = learned

    def learned(self, slot: int, *, seed: int, rate: float) -> None:
        """The network of its own learns the same; of a slot once, also after a restart."""
        if slot <= self._learned_at:
            return
        self._alone.take(GlobalModel(0, self._vector))
        _, delta = self._alone.learn(slot, seed=seed, rate=rate)
        self._vector, self._learned_at = self._vector + delta, slot
        header = {"format": _FORMAT, "slot": slot}
        write_atomic(self._state, pack(_KIND, header, {"vector": self._vector}), disk=DISK)

    def took(self, site: Site, slot: int) -> None:
        """Score the global model, the site's own form of it, what learned alone, and their mix."""
        windows, members = self._windows(), site.members()
        self._alone.take(GlobalModel(0, self._vector))
        models = {
            "global": members["global"],
            "personal": members["personal"],
            "alone": self._alone.members()["global"],
        }
        answers = {name: site.predict(model, windows) for name, model in models.items()}
        # The newest windows up to the slot: none of the models was trained on them.
        known = site.held_out(slot)
        before = {name: site.predict(model, known) for name, model in models.items() if len(known)}
        targets, levels = site.frame.schema.targets, site.frame.spec.quantiles
        answers["mixed"] = mixed(known, before, windows, answers, targets=targets, levels=levels)
        losses = measure(windows, targets, levels, answers)
        serving = site.serving
        told: dict[str, Any] = {
            "site": site.name,
            "version": None if serving is None else serving.version,
            "slot": slot,
            "windows": len(windows),
            **{name: wql(losses, name)[0] for name in losses.pinball},
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")
