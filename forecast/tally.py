"""A tally: what a replay's forecasts were worth, by member, day, server, target and step.

It reads blocks as they are issued and actuals as they come, as the ledger does, and keeps the same
sums on the same cells (`scoring.join`); but all of them for as long as the replay goes on, and each
day apart. A day is one of the slots that were forecast, in UTC. As members come and go, each has
a pair beside: its sums and the champion's on the cells that both issued.

D days, S servers, T targets, H horizon, F sums per cell (`metrics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forecast.metrics import Float64Array, FloatArray, Score, central_intervals, known_mean
from forecast.record import SHADOWS, ForecastBlock
from forecast.scoring import ServerSums, join


class Tally:
    """Sums of every member; nothing of it is on disk.

    `since` is the first slot that counts: forecasts of an earlier one are not scored.
    """

    def __init__(
        self,
        *,
        targets: Sequence[str],
        levels: Sequence[float],
        horizon: int,
        day_slots: int,
        since: int = 0,
    ) -> None:
        self.targets, self.levels = tuple(targets), tuple(levels)
        self.horizon, self.day_slots = horizon, day_slots
        self._since = since
        self._waiting: dict[int, tuple[ForecastBlock, ...]] = {}
        self._days: dict[int, dict[str, ServerSums]] = {}
        self._pairs: dict[str, tuple[Float64Array, Float64Array]] = {}

    def issued(self, blocks: Sequence[ForecastBlock]) -> None:
        """Keep the blocks of one slot until their last step has been scored."""
        if blocks:
            self._waiting[blocks[0].slot] = tuple(blocks)

    def scored(self, slot: int, servers: Sequence[str], actuals_ST: FloatArray) -> None:
        """Add what the actuals [S, T] of a slot say of the forecasts made for it."""
        names = tuple(servers)
        steps = range(1, self.horizon + 1)
        origins = [self._waiting.get(slot - step, ()) for step in steps]
        for old in [origin for origin in self._waiting if origin <= slot - self.horizon]:
            del self._waiting[old]
        if slot < self._since:
            return
        day = self._days.setdefault(slot // self.day_slots, {})
        for one in join(names, actuals_ST, origins, self.levels):
            known = day.get(one.member)
            if one.member not in SHADOWS:
                if known is None:
                    day[one.member] = ServerSums(names, one.cells.copy())
                else:
                    known.add(names, one.cells)
            if one.pair is not None and one.champion is not None:
                own, champion = self._pairs.get(one.member, (0.0, 0.0))
                self._pairs[one.member] = (own + one.pair, champion + one.champion)

    @property
    def members(self) -> tuple[str, ...]:
        """Every member that was compared, by name."""
        return tuple(sorted({member for day in self._days.values() for member in day}))

    @property
    def days(self) -> tuple[int, ...]:
        """The days with comparisons, in order, as days since 1970."""
        return tuple(sorted(self._days))

    @property
    def servers(self) -> tuple[str, ...]:
        """Every server that was compared, by name."""
        return tuple(
            sorted(
                {
                    name
                    for day in self._days.values()
                    for one in day.values()
                    for name in one.servers
                }
            )
        )

    def by_day(self, member: str) -> Float64Array:
        """Sums [D, T, H, F] of one member over all servers; zeros on a day without it."""
        return np.stack([self._of(day, member).sum(0) for day in self.days])

    def by_server(self, member: str, days: Sequence[int] | None = None) -> dict[str, Float64Array]:
        """Sums [T, H, F] of one member by server, over the days given or all."""
        found: dict[str, Float64Array] = {}
        for day in self.days if days is None else days:
            one = self._days.get(day, {}).get(member)
            if one is None:
                continue
            for name, sums in zip(one.servers, one.sums, strict=True):
                found[name] = found[name] + sums if name in found else sums
        return {name: found[name] for name in sorted(found)}

    def _of(self, day: int, member: str) -> Float64Array:
        """Sums [S, T, H, F] of one day; of no server where the member is not in it."""
        one = self._days[day].get(member)
        if one is not None:
            return one.sums
        width = next(iter(self._days[day].values())).sums.shape[-1]
        return np.zeros((0, len(self.targets), self.horizon, width))

    def report(self) -> dict[str, Any]:
        """All of it as JSON: `members`, then `days` and `servers` with every member's numbers.

        A shadow is on few servers: it has its pair with the champion, under `shadows`.
        """
        members: dict[str, Any] = {}
        days: dict[str, dict[str, Any]] = {}
        servers: dict[str, dict[str, Any]] = {}
        for member in self.members:
            sums_DTHF = self.by_day(member)
            members[member] = {**self._member(sums_DTHF.sum(0)), **self._pair(member)}
            for day, sums in zip(self.days, sums_DTHF, strict=True):
                date = str(np.datetime64(day, "D"))
                days.setdefault(date, {})[member] = figures(sums.sum(1), self.levels)
            for server, sums in self.by_server(member).items():
                servers.setdefault(server, {})[member] = figures(sums.sum(1), self.levels)
        shadows = {
            name: self._pair(name)["beside_champion"] for name in SHADOWS if name in self._pairs
        }
        return {"members": members, "days": days, "servers": servers, "shadows": shadows}

    def _pair(self, member: str) -> dict[str, Any]:
        """A member's WQL and the champion's where both issued; nothing for the champion itself."""
        if member not in self._pairs:
            return {}
        own, champion = (figures(sums.sum(1), self.levels) for sums in self._pairs[member])
        pair = {"n": own["n"], "wql": own["wql"], "champion_wql": champion["wql"]}
        return {"beside_champion": pair}

    def _member(self, sums_THF: Float64Array) -> dict[str, Any]:
        steps = {str(h + 1): figures(sums_THF[:, h], self.levels) for h in range(self.horizon)}
        pooled = sums_THF.sum(1)
        by_target = {
            target: figures(pooled[row : row + 1], self.levels)
            for row, target in enumerate(self.targets)
        }
        return {
            **figures(pooled, self.levels),
            "wql_by_step": {step: known["wql"] for step, known in steps.items()},
            "mae_by_step": {step: known["mae"] for step, known in steps.items()},
            "coverage_by_step": {step: known["coverage"] for step, known in steps.items()},
            "targets": by_target,
        }


def figures(sums_TF: Float64Array, levels: Sequence[float]) -> dict[str, Any]:
    """WQL and MAE (means over targets, as the ledger's accuracy) and pooled coverage of sums.

    None where nothing was compared.
    """
    score, pooled = Score(sums_TF, levels), Score(sums_TF.sum(0), levels)
    nominal = [f"{share:g}" for share, _, _ in central_intervals(levels)]
    inside = [None if np.isnan(share) else float(share) for share in pooled.coverage]
    return {
        "n": int(pooled.n),
        "wql": known_mean(score.wql),
        "mae": known_mean(score.mae),
        "coverage": dict(zip(nominal, inside, strict=True)),
    }
