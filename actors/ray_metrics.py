"""The table of telemetry as Ray's metrics, next to Ray's own numbers.

    actors ──status──► Publisher, a task of the controller ──► ray.util.metrics ──► node's exporter

Gauges are set. Counters and histograms grow by what was added since the last look; after a restart
of its actor a counter has fallen and goes on from zero, as Prometheus reads it too. A gauge that is
not set again within two of Ray's export intervals (20 s) is exported no longer: what an actor that
keeps silent said last does not stand for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from actors import handles, telemetry
from actors.telemetry import BOUNDS, Row, Sample

log = logging.getLogger("fleetcast.telemetry")

_EVERY_S = 5.0
"""Ray exports each 10 s what was set meanwhile."""
_PAUSE_S = 1.0
"""Between two publications at least, however fast the steps are."""
_TIMEOUT_S = 4.0

# One observation in the middle of its bucket stands for each: all that Ray keeps is the bucket.
_MIDDLES = tuple(
    (low + high) / 2 for low, high in zip((0.0, *BOUNDS), (*BOUNDS, 2 * BOUNDS[-1]), strict=True)
)


def ray_metric(row: Row, labels: tuple[str, ...]) -> Any:
    """Ray's metric for a row of the table; Ray itself puts `ray_` before its name."""
    if row.kind == "histogram":
        return Histogram(row.name, row.help, boundaries=list(BOUNDS), tag_keys=labels)
    return (Counter if row.kind == "counter" else Gauge)(row.name, row.help, tag_keys=labels)


class Metrics:
    """Metrics of one fleet, kept in line with its status tree."""

    def __init__(self, make: Callable[[Row, tuple[str, ...]], Any] = ray_metric) -> None:
        self._make = make
        self._metrics: dict[str, Any] = {}
        self._seen: dict[tuple[str, ...], tuple[float, ...]] = {}

    def publish(self, tree: Mapping[str, Any]) -> None:
        """Show what the tree says; what it does not say stays as it was."""
        for sample in telemetry.samples(tree):
            name, labels = sample.row.name, dict(sample.labels)
            if name not in self._metrics:
                self._metrics[name] = self._make(sample.row, tuple(labels))
            metric = self._metrics[name]
            if sample.row.kind == "gauge":
                metric.set(sample.value, labels)
                continue
            grown = self._growth(sample)
            if sample.row.kind == "histogram":
                for middle, count in zip(_MIDDLES, grown, strict=True):
                    for _ in range(round(count)):
                        metric.observe(middle, labels)
            elif grown[0] > 0:  # Ray refuses to add nothing
                metric.inc(grown[0], labels)

    def _growth(self, sample: Sample) -> tuple[float, ...]:
        """What was added since the last look, bucket by bucket; all of it after a restart."""
        now = sample.value if isinstance(sample.value, tuple) else (sample.value,)
        key = (sample.row.name, *sample.labels.values())
        before = self._seen.get(key, (0.0,) * len(now))
        self._seen[key] = now
        if any(value < known for value, known in zip(now, before, strict=True)):
            return now
        return tuple(value - known for value, known in zip(now, before, strict=True))


class Publisher:
    """Asks the actors where they stand and shows it, after steps and now and then without one.

    It runs beside the controller's loop and may fail or hang without doing it harm: each actor has
    a time limit, one that does not answer leaves its metrics as they were, and each kind of error
    is logged once. `own` is the status of the controller, in whose process it runs.
    """

    def __init__(
        self,
        *,
        head: Mapping[str, Any],
        actors: Mapping[str, Any],
        own: Callable[[], Awaitable[Mapping[str, Any]]],
        metrics: Metrics | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """`head` names fleet, panel and step_seconds; `actors` the other handles by role."""
        self._head, self._actors, self._own = dict(head), dict(actors), own
        self._metrics = Metrics() if metrics is None else metrics
        self._timeout_s = timeout_s
        self._stepped = asyncio.Event()
        self._pids: dict[str, int] = {}
        self._told: set[tuple[str, str]] = set()
        self.restarts: dict[str, int] = dict.fromkeys(self._actors, 0)
        """How often each of the other actors came back in another process."""

    def wake(self) -> None:
        """A step is done: there is something new to show."""
        self._stepped.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self.publish()
            await asyncio.sleep(_PAUSE_S)
            try:
                await asyncio.wait_for(self._stepped.wait(), _EVERY_S - _PAUSE_S)
            except TimeoutError:
                continue  # no step meanwhile: sizes, ages and clocks move all the same
            finally:
                self._stepped.clear()

    async def publish(self) -> None:
        """Ask every actor once, then show what was answered."""
        try:
            calls = {
                name: call for name, call in telemetry.PARTS.items() if call[0] in self._actors
            }
            calls["forecast"] = (handles.LEDGER, "published")
            answers, _ = await asyncio.gather(
                asyncio.gather(*(self._ask(*call) for call in calls.values())),
                asyncio.gather(*(self._watch(role) for role in self._actors)),
            )
            parts = dict(zip(calls, answers, strict=True))
            parts[handles.CONTROLLER] = await self._own()
            self._metrics.publish(telemetry.tree_of(self._head, parts))
        except Exception as error:  # numbers about the system must never be what stops it
            self._tell("metrics", error)

    async def _ask(self, role: str, method: str) -> Any:
        """An actor's answer, or None."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await getattr(self._actors[role], method).remote()
        except Exception as error:  # whatever it is, the others' numbers are shown
            self._tell(f"{role}.{method}", error)
            return None

    async def _watch(self, role: str) -> None:
        """Notice when an actor runs in another process than before."""
        said = await self._ask(role, "identity")
        if said is not None:
            self.restarts[role] += self._pids.get(role, said["pid"]) != said["pid"]
            self._pids[role] = said["pid"]

    def _tell(self, what: str, error: Exception) -> None:
        kind = (what, type(error).__name__)
        if kind not in self._told:
            self._told.add(kind)
            log.warning("no metrics of %s for now: %s: %s", what, kind[1], error)
