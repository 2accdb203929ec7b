"""A small federation: a layout of six shared numbers, sites by name, and updates of them."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np

from tests.forecast.crash_disk import QuickDisk
from train.federated.aggregator import Aggregator
from train.federated.partition import Layout, Scope
from train.federated.settings import AggregatorSettings
from train.federated.update import Receipt, UpdateMeta

RULES = [("body", Scope.GLOBAL), ("select", Scope.ROLE), ("head", Scope.PRIVATE)]
STATE = {
    "body": np.arange(4, dtype=np.float32),
    "select": np.array([10, 20], np.float32),
    "head": np.array([99], np.float32),
}
LAYOUT = Layout.of(STATE, rules=RULES)
ALL_GLOBAL = Layout.of({"body": np.zeros(6, np.float32)}, rules=RULES)

PLAIN = {"clip_quantile": 0.0, "outlier_factor": 0.0, "step_cap": 0.0, "samples_cap": 0.0}
"""Nothing is clipped, refused for its norm, or capped."""


def aggregator(*, layout: Layout = LAYOUT, start=None, sites=None, **settings) -> Aggregator:
    """One whose rounds end at two updates, of anybody, unless told."""
    begun = LAYOUT.flatten(STATE) if start is None else start
    given = {"updates": 2, "quorum": 1, "deadline_s": 60.0, **settings}
    return Aggregator(layout, begun, settings=AggregatorSettings(**given), sites=sites)


def meta(site: str = "a", sequence: int = 0, **given) -> UpdateMeta:
    """An update's meta data that fits `LAYOUT`."""
    plain = {"base_version": 0, "schema_hash": LAYOUT.schema_hash, "samples": 1}
    return UpdateMeta(**{"site": site, "sequence": sequence, **plain, **given})


def delta(*values: float) -> np.ndarray:
    """Six numbers: these, the last one repeated."""
    return np.array([*values, *[values[-1]] * (6 - len(values))], np.float32)


def offer(one: Aggregator, site: str, values: np.ndarray, **given) -> Receipt:
    """The site's next update, from the version now; its sequence number is the round's."""
    told = {"sequence": one.round, "base_version": one.version, "schema_hash": one.schema_hash}
    return one.offer(meta(site, **{**told, **given}), values)


class FullDisk(QuickDisk):
    """Has no room any more while `full`."""

    full = False

    def write(self, path: Path, data: bytes) -> None:
        if self.full:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        super().write(path, data)
