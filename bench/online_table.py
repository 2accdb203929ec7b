"""The table of the bench of online learning: what each row's forecasts were worth, and how surely.

A row is a member of a run. WQL is pooled over cells per target, then the mean over targets, as the
ledger has it. A gain is 1 - WQL / WQL of the frozen model, on the same cells; its interval comes
from a paired bootstrap over days, the blocks (Künsch, Annals of Statistics 17, 1989).

D days, T targets, H horizon, F sums per cell (`forecast.metrics`), B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import adaptation
from bench.adaptation import Hours
from bench.online_runs import Outcome
from bench.scenarios import Change
from forecast.metrics import Float64Array, Score, central_intervals, known_mean

_STEPS = (1, 6, 12)
_NOMINAL = 0.8
_RESAMPLES = 2000
_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: the first of these members that the run has."""

    name: str
    run: str
    members: tuple[str, ...]
    what: str


_SERVED = ("ensemble", "champion")
ROWS = (
    Row("copy_last", "frozen", ("copy_last",), "the newest value"),
    Row("seasonal_naive", "frozen", ("seasonal_naive",), "the same time yesterday"),
    Row("climatology", "frozen", ("climatology",), "the quantiles of the context"),
    Row("least_squares", "frozen", ("least_squares",), "forgetting least squares"),
    Row("quantile_network", "frozen", ("quantile_network",), "the network fitted each day"),
    Row("frozen", "frozen", ("champion",), "the base model, never updated"),
    Row("frozen_calibrated", "frozen", ("champion_calibrated",), "frozen, calibrated online"),
    Row("frozen_ensemble", "frozen", ("ensemble",), "frozen and experts, learned weights"),
    Row("naive", "naive", ("champion",), "an update every hour, no gate"),
    Row("learned", "default", ("champion",), "default's champion alone: what learning made of it"),
    Row("default", "default", _SERVED, "the product as configured"),
    Row("rollout", "rollout", _SERVED, "default; what passes goes by shadow and canary"),
    Row("periodic", "periodic", _SERVED, "a retrain from nothing every day, no updates"),
    Row("sliding_window", "sliding_window", _SERVED, "updates on the sliding window alone"),
    Row("replay", "replay", _SERVED, "updates with replay"),
    Row("versions", "ensemble", _SERVED, "accepted versions stay as members"),
    Row("last_layers", "last_layers", _SERVED, "updates move the last layers only"),
    Row("adapter", "adapter", _SERVED, "updates move an output adapter only"),
    Row("full", "full", _SERVED, "updates move all weights"),
    Row("ewc", "ewc", _SERVED, "default and EWC"),
    Row("distillation", "distillation", _SERVED, "default and distillation"),
    Row("warm_restarts", "warm_restarts", _SERVED, "default and warm restarts"),
    Row("active", "active", _SERVED, "default, learning from uncertain and novel windows only"),
    Row("no_gate", "no_gate", _SERVED, "default without the gate's accuracy test"),
    Row("no_drift", "no_drift", _SERVED, "default without drift detection"),
    Row("no_clipping", "no_clipping", _SERVED, "default without gradient clipping"),
    Row("oracle", "oracle", ("champion",), "LEAKY: trained on what came after the drift"),
    Row("leaky", "leaky", ("champion",), "LEAKY upper bound: as naive, with labels of the future"),
)


class Table:
    """Figures of rows from the outcomes of runs; of several seeds the sums are added up.

    `scale` is each (server, target)'s mean absolute error of the seasonal naive on the history,
    for MASE. A row whose run or member is missing has None for every figure.
    """

    def __init__(
        self,
        outcomes: Sequence[Outcome],
        scale: Mapping[tuple[str, str], float],
        *,
        rows: Sequence[Row] = ROWS,
        drifts: Sequence[Change] = (),
        seed: int = 0,
    ) -> None:
        self._outcomes, self._scale, self._seed = tuple(outcomes), scale, seed
        self.rows, self._drifts = tuple(rows), tuple(drifts)
        self._known_hours: dict[Row, Hours | None] = {}
        self.levels = self._outcomes[0].tally.levels if self._outcomes else ()

    def member(self, row: Row) -> str | None:
        """The member that stands for a row; None when no run has it."""
        for outcome in self._outcomes:
            if outcome.run == row.run:
                return next((one for one in row.members if one in outcome.tally.members), None)
        return None

    def by_day(self, run: str, member: str) -> tuple[tuple[int, ...], Float64Array]:
        """Days [D] and sums [D, T, H, F] of a member over all servers and seeds."""
        chosen = [outcome for outcome in self._outcomes if outcome.run == run]
        days = chosen[0].tally.days
        if any(outcome.tally.days != days for outcome in chosen):
            raise ValueError(f"runs of {run!r} with other seeds have other days")
        return days, np.sum([outcome.tally.by_day(member) for outcome in chosen], axis=0)

    def by_server(self, run: str, member: str) -> dict[str, Float64Array]:
        """Sums [T, H, F] of a member by server, over all days and seeds."""
        found: dict[str, Float64Array] = {}
        for outcome in self._outcomes:
            if outcome.run == run:
                for name, sums in outcome.tally.by_server(member).items():
                    found[name] = found[name] + sums if name in found else sums
        return found

    def updates(self, run: str) -> tuple[tuple[int, str], ...]:
        """(slot, verdict) of the updates of a run's first seed."""
        return next((one.updates for one in self._outcomes if one.run == run), ())

    def figures(self, row: Row) -> dict[str, Any] | None:
        """One row's numbers; None when it was not run."""
        member = self.member(row)
        if member is None:
            return None
        days, sums_DTHF = self.by_day(row.run, member)
        pooled = sums_DTHF.sum((0, 2))
        worst, name = self._worst_server(row, member)
        covered = self._coverage(sums_DTHF.sum((1, 2)))
        cells = sums_DTHF[..., 0].sum((1, 2))
        # A day of which little was observed says little: an outage would be the worst one always.
        known = np.flatnonzero((cells > 0) & (2 * cells >= np.median(cells))).tolist()
        worst_day = max(known, key=lambda at: abs(covered[at] - _NOMINAL), default=None)
        overall = float(self._coverage(sums_DTHF.sum((0, 1, 2))[None])[0])
        runs = [outcome for outcome in self._outcomes if outcome.run == row.run]
        steps = [step for step in _STEPS if step <= sums_DTHF.shape[2]]
        return {
            "member": member,
            "n": int(Score(pooled.sum(0), self.levels).n),
            "wql": known_mean(Score(pooled, self.levels).wql),
            **{
                f"wql_{h}": known_mean(Score(sums_DTHF[:, :, h - 1].sum(0), self.levels).wql)
                for h in steps
            },
            "mae": known_mean(Score(pooled, self.levels).mae),
            "mse": known_mean(Score(pooled, self.levels).rmse ** 2),
            "mase": self._mase(row.run, member),
            "coverage": overall,
            "coverage_error": abs(overall - _NOMINAL),
            "worst_day_coverage": None if worst_day is None else float(covered[worst_day]),
            "worst_day": None if worst_day is None else str(np.datetime64(days[worst_day], "D")),
            "worst_server": worst,
            "worst_server_name": name,
            **self.gain(row, FROZEN),
            "promoted": sum(verdict == "promoted" for one in runs for _, verdict in one.updates),
            "updates": sum(len(one.updates) for one in runs),
            "cpu_s": round(sum(one.cpu_s for one in runs), 1),
            "cost_ratio": self._cost(row.run),
            **self._adapted(row),
        }

    def gain(self, row: Row, against: Row) -> dict[str, float | None]:
        """`gain`, `gain_low`, `gain_high` of a row against another one, paired by day."""
        mine, other = self.member(row), self.member(against)
        nothing: dict[str, float | None] = dict.fromkeys(("gain", "gain_low", "gain_high"))
        if mine is None or other is None:
            return nothing
        _, ours = self.by_day(row.run, mine)
        _, theirs = self.by_day(against.run, other)
        gain, low, high = paired_gain(ours.sum(2), theirs.sum(2), self.levels, self._seed)
        return {"gain": gain, "gain_low": low, "gain_high": high}

    def _cost(self, run: str) -> float | None:
        """CPU time that learning added to a run, over what a retrain every day adds."""
        spent = {
            name: sum(one.cpu_s for one in self._outcomes if one.run == name)
            for name in (run, FROZEN.run, "periodic")
        }
        if not all(spent.values()):
            return None
        mine, frozen, daily = spent[run], spent[FROZEN.run], spent["periodic"]
        return (mine - frozen) / (daily - frozen) if daily > frozen else None

    def _adapted(self, row: Row) -> dict[str, float | None]:
        """How the row stands to drifts; None without one, or without what it is compared with."""
        mine, frozen, oracle = (self._hours(each) for each in (row, FROZEN, ORACLE))
        told: dict[str, float | None] = dict.fromkeys(ADAPTED)
        if mine is None or frozen is None:
            return told
        horizon = self._outcomes[0].tally.horizon
        after = adaptation.days_after(mine, self._drifts, -(-horizon // mine.slots))
        if len(after):
            told["coverage_after"] = adaptation.finite(float(np.nanmin(self._coverage(after))))
        return {**told, **adaptation.figures(mine, frozen, oracle, self._drifts)}

    def _hours(self, row: Row) -> Hours | None:
        """Hour by hour, of the servers that drift; None when the row was not run.

        Every row is compared with the same two: theirs are added up once.
        """
        if row not in self._known_hours:
            member = self.member(row)
            mine = [one for one in self._outcomes if one.run == row.run]
            hours = [one.hours for one in mine if one.hours is not None]
            found = [] if member is None else [Hours.of(each, member) for each in hours]
            self._known_hours[row] = Hours.together(found) if found else None
        return self._known_hours[row]

    def _coverage(self, sums: Float64Array) -> Float64Array:
        """The share inside the central interval of 0.8 (else the widest) of sums [N, F]."""
        shares = [share for share, _, _ in central_intervals(self.levels)]
        if not shares:
            return np.full(len(sums), np.nan)
        near = int(np.argmin([abs(share - _NOMINAL) for share in shares]))
        return np.asarray(Score(sums, self.levels).coverage[:, near])

    def _mase(self, run: str, member: str) -> float | None:
        """Mean over (server, target) of the MAE over that of the seasonal naive on the history."""
        targets, ratios = self._outcomes[0].tally.targets, []
        for server, sums_THF in self.by_server(run, member).items():
            for target, mae in zip(targets, Score(sums_THF.sum(1), self.levels).mae, strict=True):
                scale = self._scale.get((server, target), 0.0)
                ratios.append(mae / scale if scale > 0 else np.nan)
        return known_mean(np.array(ratios))

    def _worst_server(self, row: Row, member: str) -> tuple[float | None, str | None]:
        """The largest WQL / frozen WQL - 1 of a server, and which."""
        frozen = self.member(FROZEN)
        if frozen is None:
            return None, None
        known = self.by_server(FROZEN.run, frozen)
        worse = {
            server: float(
                mean_wql(sums.sum(1)[None], self.levels)[0]
                / mean_wql(known[server].sum(1)[None], self.levels)[0]
                - 1
            )
            for server, sums in self.by_server(row.run, member).items()
            if server in known
        }
        found = {server: ratio for server, ratio in worse.items() if np.isfinite(ratio)}
        worst = max(found, key=found.__getitem__, default=None)
        return (None, None) if worst is None else (found[worst], worst)


ADAPTED = ("coverage_after", *adaptation.FIGURES)
_DRIFTED = ("coverage_after", "closed")
FROZEN = next(row for row in ROWS if row.name == "frozen")
ORACLE = next(row for row in ROWS if row.name == "oracle")
DEFAULT = next(row for row in ROWS if row.name == "default")


def learning_gain(table: Table) -> dict[str, float | None]:
    """The default row against the same member of the frozen run: what moving weights brought."""
    member = table.member(DEFAULT)
    same = Row("same", "frozen", () if member is None else (member,), "")
    found = table.gain(DEFAULT, same)
    return {name.replace("gain", "learning_gain"): value for name, value in found.items()}


def line(table: Table, about: Mapping[str, Any]) -> dict[str, Any]:
    """The flat result: what the bench is about, the main figures, every row's WQL.

    `same_cells` says whether all rows were compared on as many cells; else gains are unfair.
    """
    every = {row.name: table.figures(row) for row in table.rows}
    default = every.get("default") or {}
    told: dict[str, Any] = dict(about)
    for name in ("frozen", "copy_last", "default", "leaky"):
        told[f"{name}_wql"] = (every.get(name) or {}).get("wql")
    for name in ("gain", "gain_low", "gain_high"):
        told[name] = default.get(name)
    told.update(learning_gain(table))
    for name in ("worst_server", "worst_server_name", "coverage_error", "worst_day_coverage"):
        told[name] = default.get(name)
    for name in (*ADAPTED, "cost_ratio"):
        told[name] = default.get(name)
    for name, figures in every.items():
        for key in ("wql", "mae", "mase", "gain", "coverage_error", "cpu_s", *_DRIFTED):
            told.setdefault(f"{name}_{key}", None if figures is None else figures[key])
    counted = {figures["n"] for figures in every.values() if figures is not None}
    told["same_cells"] = len(counted) <= 1
    told["promoted"], told["updates"] = default.get("promoted"), default.get("updates")
    if told["promoted"] is not None:
        told["rejected"] = told["updates"] - told["promoted"]
    return told


def paired_gain(
    ours_DTF: Float64Array, theirs_DTF: Float64Array, levels: Sequence[float], seed: int
) -> tuple[float, float, float]:
    """1 - WQL / WQL of the other over all blocks D, and the ends of its interval of 95 %.

    Blocks without a scored cell are none: a resample of them alone would have no WQL.
    """
    seen = (ours_DTF[..., 0] > 0).any(1)
    ours_DTF, theirs_DTF = ours_DTF[seen], theirs_DTF[seen]
    gain = (
        1
        - mean_wql(ours_DTF.sum(0)[None], levels)[0] / mean_wql(theirs_DTF.sum(0)[None], levels)[0]
    )
    blocks = len(ours_DTF)
    drawn = np.random.default_rng(seed).integers(0, blocks, (_RESAMPLES, blocks))
    times_BD = np.stack([np.bincount(one, minlength=blocks) for one in drawn]).astype(float)
    resampled = [
        mean_wql(np.einsum("bd,dtf->btf", times_BD, sums), levels)
        for sums in (ours_DTF, theirs_DTF)
    ]
    low, high = np.quantile(1 - resampled[0] / resampled[1], _INTERVAL)
    return float(gain), float(low), float(high)


def mean_wql(sums_BTF: Float64Array, levels: Sequence[float]) -> Float64Array:
    """Mean over targets of the WQL of sums [B, T, F]; a target without any size is left out."""
    wql_BT = Score(sums_BTF, levels).wql
    known = ~np.isnan(wql_BT)
    total = np.where(known, wql_BT, 0.0).sum(1)
    return np.asarray(total / np.where(known.any(1), known.sum(1), np.nan))
