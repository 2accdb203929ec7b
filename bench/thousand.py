"""A fleet of a thousand servers in the reference setting: its data, its config, its model.

Legend: S slots, N servers, M metrics.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors import arguments
from bench.streams import Stream, demo, widened
from forecast.artifact import Artifact, pack
from forecast.config import Config
from forecast.config_files import load
from forecast.model import Model, ModelSpec, build
from forecast.schema import SampleBlock
from forecast.window_spec import WindowSpec
from forecast.windows import RawWindows
from train.buffer import Buffer

LEVELS = tuple(n / 10 for n in range(1, 10))
METRICS, TARGETS, CONTEXT, HORIZON, HIDDEN = 8, 4, 72, 12, 16
HISTORY = 90
"""Slots that are there before the first call: a context, and some to spare."""
_DAYS = 3
_SEED = 5


@dataclass(frozen=True, slots=True)
class Thousand:
    """The fleet's stream and what forecasts it. Slots are numbers from the stream's first."""

    stream: Stream
    spec: ModelSpec

    @classmethod
    def make(cls, servers: int) -> Thousand:
        """So many servers, each like one of the demo's, at another level."""
        few = widened(demo(days=_DAYS, drift_day=None), metrics=METRICS, targets=TARGETS)
        like = np.arange(servers) % len(few.servers)
        level = np.random.default_rng(_SEED).uniform(0.5, 1.0, (servers, METRICS))
        values: NDArray[np.float32] = (few.values[:, like] * level).astype(np.float32)
        names = tuple(f"server-{number:04}" for number in range(servers))
        infos = tuple(few.infos[at] for at in like)
        stream = replace(few, servers=names, infos=infos, values=values)
        window = WindowSpec(
            step_seconds=stream.step_seconds,
            context=CONTEXT,
            horizon=HORIZON,
            metrics=stream.metrics,
            targets=stream.targets,
            roles=("", *sorted({info.role for info in infos})),
        )
        return cls(stream, ModelSpec(window, LEVELS, hidden_size=HIDDEN))

    def model(self) -> Model:
        """Fresh weights: what they forecast is of no use, what it costs is the same."""
        return Model(self.spec, build(self.spec, seed=_SEED))

    def samples(self, first: int, last: int) -> SampleBlock:
        """Every sample of slots [first, last)."""
        stream = self.stream
        slots, server, metric = np.nonzero(np.isfinite(stream.values[first:last]))
        return SampleBlock(
            servers=stream.servers,
            infos=stream.infos,
            metrics=tuple(one.name for one in stream.metrics),
            server_index=server.astype(np.int32),
            metric_index=metric.astype(np.int16),
            time_ms=(stream.first_slot + first + slots) * stream.step_seconds * 1000,
            value=stream.values[first:last][slots, server, metric].astype(np.float64),
        )

    def config(self, state_dir: Path, **serve: Any) -> Config:  # noqa: ANN401
        """One panel of this fleet that serves and does not learn."""
        step = self.stream.step_seconds
        metrics = [
            {key: value for key, value in asdict(metric).items() if value is not None}
            for metric in self.stream.metrics
        ]
        panel = {
            "metrics": metrics,
            "targets": list(self.stream.targets),
            "step": step,
            "context": CONTEXT * step,
            "horizon": HORIZON * step,
            "quantiles": list(LEVELS),
        }
        return load(
            (),
            overrides={
                "fleet": "thousand",
                "state_dir": str(state_dir),
                "panel": panel,
                "model": {"hidden_size": HIDDEN},
                "buffer": {"max_servers": len(self.stream.servers)},
                "limits": {"learning_free_mb": 0, "ingest_free_mb": 0},
                "serve": serve,
            },
        ).config

    def buffer(self, config: Config) -> Buffer:
        """The history in memory, for the engine without HTTP."""
        buffer = Buffer(**{**arguments.stream(config), "directory": None})
        buffer.append("history", self.samples(0, HISTORY))
        return buffer

    def artifact(self, model: Model, probe: RawWindows, fingerprint: str) -> Artifact:
        """The model as it is registered: asked for at the slot before the history's last closed."""
        slot = self.stream.first_slot + HISTORY - 3
        return pack(
            model,
            fingerprint=fingerprint,
            lineage={"kind": "base", "slot": slot},
            metrics={},
            probe=probe,
            created_at="2026-01-01T00:00:00Z",
        )
