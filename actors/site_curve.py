"""What a site gains from learning together: the losses of both ways, version by version.

Beside each update that the site learns, a network of its own learns from the same windows and is
shared with nobody. Both are scored on later windows, which neither learns from.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forecast.packing import pack, unpack
from forecast.storage import DISK, write_atomic
from forecast.windows import RawWindows
from train.federated.frame import FloatArray, GlobalModel
from train.federated.site import Site
from train.paired import measure, wql

_KIND = "site-alone"


class Curve:
    """The curve of one site, as lines of JSON in a file: one for each version that it took."""

    def __init__(
        self, path: Path, alone: Site, start: FloatArray, windows: Callable[[], RawWindows]
    ) -> None:
        """`alone` has the same windows and recipe as the site; `windows` are those to score on."""
        self._path, self._alone, self._windows = path, alone, windows
        self._state = path.with_name(f"{path.name}.alone")
        self._learned_at, learned = -1, start
        if self._state.exists():
            header, arrays = unpack(_KIND, self._state.read_bytes())
            self._learned_at, learned = header["slot"], arrays["vector"].copy()
        self._vector = learned

    def learned(self, slot: int, *, seed: int, rate: float) -> None:
        """The network of its own learns the same; of a slot once, also after a restart."""
        if slot <= self._learned_at:
            return
        self._alone.take(GlobalModel(0, self._vector))
        _, delta = self._alone.learn(slot, seed=seed, rate=rate)
        self._vector, self._learned_at = self._vector + delta, slot
        write_atomic(self._state, pack(_KIND, {"slot": slot}, {"vector": self._vector}), disk=DISK)

    def took(self, site: Site, slot: int) -> None:
        """Score the global model, the site's own form of it, and the one that learned alone."""
        windows, members = self._windows(), site.members()
        self._alone.take(GlobalModel(0, self._vector))
        models = {
            "global": members["global"],
            "personal": members["personal"],
            "alone": self._alone.members()["global"],
        }
        losses = measure(
            windows,
            site.frame.schema.targets,
            site.frame.spec.quantiles,
            {name: site.predict(model, windows) for name, model in models.items()},
        )
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
