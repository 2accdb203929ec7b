"""`make bench-merge`: what merging sites' deltas costs, in one process, through Ray, and in a tree.

Both sides of each comparison take turns in one run. The last line is one JSON line; see
`bench/README.md` for what its figures mean.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# One thread each, so that CPU time is that of the arithmetic. BLAS reads it when it is imported.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
from numpy.typing import NDArray

from train.federated.aggregator import Aggregator
from train.federated.partition import Layout, Scope
from train.federated.settings import AggregatorSettings
from train.federated.state import pack_partial, unpack_partial
from train.federated.update import UpdateMeta

FloatArray = NDArray[np.float32]

_CHUNK = 1 << 16
"""Of the plain sum that ours is compared with."""
_IN_FLIGHT = 64
"""Calls that wait for the actor at once: they share its writes."""
_FAN_IN = 25
"""Sites of one leaf of the tree."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How large everything is, and how often it is measured."""

    parameters: int
    updates: int
    rounds: int
    tree_parameters: int


def main() -> int:
    options = _arguments().parse_args()
    setting = Setting(1_000_000, 100, 9, 100_000)
    if options.quick:
        setting = Setting(1_000_000, 30, 3, 20_000)
    figures: dict[str, Any] = {
        "parameters": setting.parameters,
        "updates": setting.updates,
        "cpus": os.cpu_count(),
        "numpy": np.__version__,
    }
    figures |= memory(setting)
    deltas = _deltas(setting.updates, setting.parameters)
    figures |= merging(setting, deltas)
    figures |= tree(setting)
    if not options.without_ray:
        figures |= through_ray(setting, deltas)
    print(json.dumps(figures))
    return 0


def memory(setting: Setting) -> dict[str, Any]:
    """Private memory that an aggregator and the merging of all updates take, at most, by parameter.

    The global model that it holds counts too, the one that it is made from does not. The same few
    deltas come again and again: the kernel moves pages of many about, which is no growth of ours.
    """
    start, *deltas = _deltas(5, setting.parameters)
    ctypes.CDLL(None).malloc_trim(0)  # or what others freed would be taken again unseen
    touched = sum(float(delta.sum()) for delta in deltas)  # none of it comes back only later
    assert np.isfinite(touched)
    before, most = _private_bytes(), 0
    one = _aggregator(start, setting.updates)
    for place in range(setting.updates):
        _offer(one, place, deltas[place % len(deltas)])
        most = max(most, _private_bytes())
    assert one.maybe_step(0.0) is not None
    most = max(most, _private_bytes())
    found = (most - before) / setting.parameters
    print(f"private memory grows by {found:.1f} bytes a parameter", flush=True)
    return {"private_bytes_per_param": round(found, 2)}


def merging(setting: Setting, deltas: list[FloatArray]) -> dict[str, Any]:
    """CPU time of a whole round, every check and the step included, over that of a plain sum."""
    one = _aggregator(deltas[0], setting.updates)

    def ours() -> None:
        for place, delta in enumerate(deltas):
            _offer(one, place, delta)
        report = one.maybe_step(0.0)
        assert report is not None
        assert report.updates == setting.updates

    def plain() -> None:
        total = np.zeros(setting.parameters, np.float64)
        for delta in deltas:
            for start in range(0, setting.parameters, _CHUNK):
                total[start : start + _CHUNK] += delta[start : start + _CHUNK]

    mine, theirs = _cpu_medians([ours, plain], setting.rounds)
    print(f"a round {mine * 1e3:.0f} ms CPU, a plain sum {theirs * 1e3:.0f} ms", flush=True)
    return {
        "merge_cpu_ms": round(mine * 1e3, 1),
        "read_cpu_ms": round(theirs * 1e3, 1),
        "merge_cpu_vs_read": round(mine / theirs, 3),
    }


def tree(setting: Setting) -> dict[str, Any]:
    """CPU time by site in a tree of two levels with 1,000 sites, over that with 250.

    Each leaf has as many sites; what it collected goes to the root as bytes.
    """
    deltas = _deltas(50, setting.tree_parameters)

    def run(sites: int) -> None:
        root = _aggregator(deltas[0], sites)
        for first in range(0, sites, _FAN_IN):
            leaf = _aggregator(deltas[0], sites, node=f"leaf-{first}")
            for site in range(first, min(first + _FAN_IN, sites)):
                _offer(leaf, site, deltas[site % len(deltas)])
            partial = leaf.partial()
            assert partial is not None
            root.merge(unpack_partial(pack_partial(partial), root.settings))
        report = root.maybe_step(0.0)
        assert report is not None
        assert len(report.sites) == sites

    few, many = _cpu_medians([lambda: run(250), lambda: run(1000)], setting.rounds)
    print(f"250 sites {few * 1e3:.0f} ms CPU, 1,000 sites {many * 1e3:.0f} ms", flush=True)
    return {
        "tree_sites": 1000,
        "tree_cpu_ms_per_site": round(many, 3),
        "tree_cost_ratio": round((many / 1000) / (few / 250), 3),
    }


def through_ray(setting: Setting, deltas: list[FloatArray]) -> dict[str, Any]:
    """Updates a second into the actor, answered when they are on disk, and into a bare one."""
    with _cluster(setting) as folder:
        import ray

        from actors.aggregator import AggregatorActor

        layout, start = _layout(setting.parameters), deltas[0]
        references = [ray.put(delta) for delta in deltas]

        class Timed(AggregatorActor):
            """Says what it costs: a busy machine makes it slower, but no dearer."""

            async def cpu_s(self) -> float:
                return time.process_time()

        shell: Any = ray.remote(Timed)
        bare: Any = ray.remote(_Bare).options(num_cpus=0.1, max_concurrency=1000).remote()
        settings = AggregatorSettings(updates=setting.updates)
        actors = {
            kept: shell.options(num_cpus=0.1, max_concurrency=1000).remote(
                directory=folder / kept,
                owner="bench",
                layout=layout,
                start=start,
                settings=settings,
                acknowledge=kept,
            )
            for kept in ("write", "fsync")
        }
        rates: dict[str, list[float]] = {"bare": [], "write": [], "fsync": []}
        spent = dict.fromkeys(actors, 0.0)
        for number in range(setting.rounds + 1):
            for name, actor in {"bare": bare, **actors}.items():
                metas = [_meta(place, number, number, layout) for place in range(len(deltas))]
                before = ray.get(actor.cpu_s.remote()) if name in actors else 0.0
                seconds = _seconds(actor, list(zip(metas, references, strict=True)), ray)
                if number:  # the first one warms up
                    rates[name].append(len(deltas) / seconds)
                if name in actors:
                    spent[name] += (ray.get(actor.cpu_s.remote()) - before) if number else 0.0
                    assert ray.get(actor.step.remote(0.0)).updates == len(deltas)
        found = {name: statistics.median(each) for name, each in rates.items()}
    print(", ".join(f"{name} {rate:.0f} updates/s" for name, rate in found.items()), flush=True)
    return {
        "updates_per_s": round(found["write"], 1),
        "fsync_updates_per_s": round(found["fsync"], 1),
        "bare_updates_per_s": round(found["bare"], 1),
        "share_of_bare": round(found["write"] / found["bare"], 3),
        "actor_cpu_ms_per_update": round(spent["write"] * 1e3 / (setting.rounds * len(deltas)), 3),
    }


class _Bare:
    """An actor that only receives what the aggregator would."""

    async def offer(self, meta: UpdateMeta, delta: FloatArray) -> tuple[str, int]:
        return meta.site, len(delta)


def _seconds(actor: Any, sent: list[tuple[UpdateMeta, Any]], ray: Any) -> float:  # noqa: ANN401
    """Of all calls, so many at once."""
    start = time.perf_counter()
    waiting: list[Any] = []
    for meta, reference in sent:
        if len(waiting) >= _IN_FLIGHT:
            done, waiting = ray.wait(waiting, num_returns=1)
            ray.get(done)
        waiting.append(actor.offer.remote(meta, reference))
    answers = ray.get(waiting)
    assert all(getattr(answer, "counted", True) for answer in answers)
    return time.perf_counter() - start


@contextmanager
def _cluster(setting: Setting) -> Iterator[Path]:
    """A Ray of our own in this machine's memory; yields a folder for state, removed at the end."""
    import logging
    import secrets

    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(16),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    )
    os.environ.pop("RAY_ADDRESS", None)
    import ray

    from actors.ray_folder import new_folder

    folder = new_folder()
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=setting.parameters * 4 * setting.updates + (200 << 20),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(folder),
    )
    try:
        yield folder
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _deltas(count: int, size: int) -> list[FloatArray]:
    random = np.random.default_rng(1)
    return [random.normal(scale=1e-4, size=size).astype(np.float32) for _ in range(count)]


def _layout(size: int) -> Layout:
    return Layout.of({"weights": np.empty(size, np.float32)}, rules=[("*", Scope.GLOBAL)])


def _aggregator(start: FloatArray, updates: int, *, node: str = "root") -> Aggregator:
    settings = AggregatorSettings(updates=updates)
    return Aggregator(_layout(len(start)), start, settings=settings, node=node)


def _meta(site: int, sequence: int, version: int, layout: Layout | Aggregator) -> UpdateMeta:
    return UpdateMeta(
        site=f"site-{site}",
        sequence=sequence,
        base_version=version,
        schema_hash=layout.schema_hash,
        samples=100 + site,
    )


def _offer(one: Aggregator, site: int, delta: FloatArray) -> None:
    receipt = one.offer(_meta(site, one.round, one.version, one), delta)
    assert receipt.counted, receipt


def _cpu_medians(sides: list[Callable[[], None]], rounds: int) -> list[float]:
    """CPU seconds of each side; each round runs every one of them once."""
    seen: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 1):
        for side, times in zip(sides, seen, strict=True):
            start = time.process_time()
            side()
            if turn:  # the first one warms up
                times.append(time.process_time() - start)
    return [statistics.median(times) for times in seen]


def _private_bytes() -> int:
    """Memory of this process that it has written to and shares with nobody."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) << 10
    raise OSError("the kernel does not say how much memory is private")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.merge", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer updates and rounds")
    parser.add_argument("--without-ray", action="store_true", help="the arithmetic alone")
    return parser


if __name__ == "__main__":
    sys.exit(main())
