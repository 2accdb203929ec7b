"""Forecasts of a large fleet for the ledger's bench: real values, repeated, and five members.

Members differ as real ones do: two are smooth in the horizon like a network's output, two lay a
table of residuals around a known value, one is in between. How compressible they are was set beside
forecasts of a TFT trained on real servers (docs/decisions/0017).

S servers, W slots, T targets, H horizon, Q levels.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.streams import Stream
from forecast.record import ForecastBlock, ServerStatus, Snapshot
from forecast.rounding import as_recorded
from forecast.windows import RawWindows

Float32Array = NDArray[np.float32]
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_NAMES = ("champion", "ensemble", "least_squares", "copy_last", "seasonal_naive")
_CONTEXT = 72


class FleetForecasts:
    """Actuals and blocks of record of so many servers, slot by slot, from the eighth day on."""

    horizon = 12

    def __init__(self, stream: Stream, servers: int, members: int) -> None:
        self.name, self.targets, self._stream = stream.name, stream.targets, stream
        self.servers = tuple(f"server-{number:05}" for number in range(servers))
        self.members = members
        self._day = 86400 // stream.step_seconds
        columns = [[m.name for m in stream.metrics].index(name) for name in stream.targets]
        values_SWT = np.moveaxis(stream.values[..., columns], 1, 0)
        draw = np.random.default_rng(0)
        self._like = np.arange(servers) % len(values_SWT)
        self._factor = np.exp(draw.normal(0, 0.2, (servers, len(columns)))).astype(np.float32)
        self._values = values_SWT
        first = 7 * self._day
        self.slots = range(first, values_SWT.shape[1] - self.horizon)
        # Quantiles of what the value changes by in h steps, in a day.
        past = values_SWT[:, :first]
        changes = [past[:, h:] - past[:, :-h] for h in range(1, self.horizon + 1)]
        self._copied = np.stack([_quantiles(change) for change in changes], 1)
        self._daily = _quantiles(past[:, self._day :] - past[:, : -self._day])[:, None]

    def actuals(self, slot: int) -> Float32Array:
        """What came [S, T], NaN = gap."""
        return self._at(slot)

    def blocks(self, slot: int) -> tuple[ForecastBlock, ...]:
        """One block per member, made at this slot, rounded as they are recorded."""
        draw = np.random.default_rng(slot)
        last = self._known(slot)[:, None]
        before = np.stack(
            [self._known(slot + h - self._day) for h in range(1, self.horizon + 1)], axis=1
        )
        factor = self._factor[:, None, :, None]
        copied, daily = self._copied[self._like] * factor, self._daily[self._like] * factor
        made = {
            "copy_last": last[..., None] + copied,
            "seasonal_naive": before[..., None] + daily,
            "least_squares": (0.7 * last + 0.3 * before)[..., None] + 0.8 * copied,
        }
        for name, share in (("champion", 0.1), ("ensemble", 0.05)):
            made[name] = self._smooth(draw, last, before, copied, share)
        names = itertools.islice(itertools.cycle(_NAMES), self.members)
        blocks = []
        for turn, name in enumerate(names):
            member = name if turn < len(_NAMES) else f"{name}_{turn // len(_NAMES)}"
            values = np.maximum(made[name], 0).astype(np.float32)
            version = 1 if member == "champion" else None
            blocks.append(self._block(slot, member, version, values))
        return tuple(blocks)

    def snapshot(self, slot: int, blocks: tuple[ForecastBlock, ...]) -> Snapshot:
        """What is published of them: windows of 6 hours, those a day and a week before."""
        rows = np.clip(np.arange(slot - _CONTEXT + 1, slot + self.horizon + 1), 0, slot)
        values = self._values[self._like][:, rows]
        raw = RawWindows(
            servers=self.servers,
            roles=("web",) * len(self.servers),
            timezones=("UTC",) * len(self.servers),
            metrics=self.targets,
            context=_CONTEXT,
            horizon=self.horizon,
            step_seconds=self._stream.step_seconds,
            origin=np.full(len(self.servers), slot),
            values=values,
            daily=values,
            weekly=values,
            spread=np.ones((len(self.servers), len(self.targets)), np.float32),
        )
        return Snapshot(
            revision=slot,
            slot=slot,
            fleet="bench",
            panel="servers",
            step_seconds=self._stream.step_seconds,
            horizon=self.horizon,
            version=1,
            targets=self.targets,
            units=("",) * len(self.targets),
            levels=LEVELS,
            servers=tuple(
                ServerStatus(name, "web", "UTC", "active", 0, slot, 0) for name in self.servers
            ),
            served=("champion",) * len(self.servers),
            blocks=blocks,
            raw=raw,
            published_at=time.time(),
        )

    def _at(self, slot: int) -> Float32Array:
        found: Float32Array = self._values[self._like, slot] * self._factor
        return found

    def _known(self, slot: int) -> Float32Array:
        """Values [S, T] of a slot; where there is a gap, the newest of the hour before, or 0."""
        found = self._at(slot)
        for back in range(1, 12):
            found = np.where(np.isnan(found), self._at(slot - back), found)
        return np.nan_to_num(found)

    def _smooth(
        self,
        draw: np.random.Generator,
        last: Float32Array,
        before: Float32Array,
        copied: Float32Array,
        share: float,
    ) -> NDArray[np.floating]:
        """Like a network's: a level that moves, a spread of its own, little noise in outputs."""
        shape = (len(self.servers), self.horizon, len(self.targets), 1)
        center = (0.8 * last + 0.2 * before)[..., None]
        wide = np.exp(draw.normal(0, 0.2, (shape[0], 1, shape[2], 1))) * 0.9
        width = copied[..., -1:] - copied[..., :1]
        noise = draw.standard_normal((*shape[:3], len(LEVELS)), np.float32) * (share * 0.04)
        drift = draw.standard_normal(shape, np.float32) * share
        return np.sort(center + copied * wide + width * (noise + drift), axis=-1)

    def _block(
        self, slot: int, member: str, version: int | None, values: Float32Array
    ) -> ForecastBlock:
        block = ForecastBlock(slot, member, version, self.servers, self.targets, LEVELS, values)
        return replace(block, values=as_recorded(values))


def _quantiles(changes_SWT: Float32Array) -> Float32Array:
    """[S, T, Q]; where nothing is known, zeros."""
    known = np.where(np.isnan(changes_SWT), 0, changes_SWT)
    found = np.moveaxis(np.quantile(known, LEVELS, axis=1), 0, -1).astype(np.float32)
    return found
