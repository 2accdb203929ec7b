"""Global versions in a process of sites: each fetched once, there while any site uses it."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakValueDictionary

import numpy as np

from train.federated.frame import FloatArray, GlobalModel

_Name = tuple[int, str]


class SiteModels:
    """What the sites of a process share. Not safe for several threads.

    A version is known by its number and, where the aggregator tells it, its digest: an aggregator
    that was restored from a backup, or begun anew, gives the same numbers to other vectors.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[_Name, GlobalModel] = WeakValueDictionary()
        self._last: GlobalModel | None = None
        """Fetched last: a candidate, which no site holds on to."""
        self._newest = -1

    def told(self, version: int) -> None:
        """The aggregator's last accepted version; one that lies back is of another history."""
        if version < self._newest:
            self._known.clear()
            self._last = None
        self._newest = version

    def get(self, version: int, digest: str, fetch: Callable[[], FloatArray]) -> GlobalModel:
        """A version, fetched if no site had it before; raises what `fetch` does."""
        if (found := self._known.get((version, digest))) is None:
            found = GlobalModel(version, np.array(fetch(), np.float32))
            self._known[version, digest] = found
            self._last = found
        return found

    def same(self, model: GlobalModel, digest: str) -> GlobalModel:
        """One that a site had on disk, or the same one where another site had it: bytes decide."""
        for (version, _), known in list(self._known.items()):
            if version == model.version and np.array_equal(
                known.vector.view(np.uint32), model.vector.view(np.uint32)
            ):
                return known
        self._known[model.version, digest] = model
        self._newest = max(self._newest, model.version)
        return model
