"""`make drill`: everything that can go wrong with a new version, on a live fleet under load.

A demo fleet with rollout on, behind a real Serve application; readers ask for forecasts without a
pause and never ask twice. Its trainer makes bad updates to order, files are damaged, processes
killed; gate, rollout, breaker and registry are the product's own and know nothing of it. A table on
stderr says of each case how it was detected, after how many slots, who answered meanwhile, how many
requests failed and what stands after it. The last line is one JSON line; exit code 0 only when
every case was detected, no request failed, and nothing bad reached more than the canary cohort.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from actors import handles, topology
from actors.embedded import Embedded
from actors.session import Session
from bench import drill_cases as cases
from bench import drill_copies as copies
from bench.drill_faults import OrderedTrainer
from bench.drill_scene import Outcome, Scene
from bench.evidence import say
from bench.load import Account, Readers, servers_of
from connect.fleet import DemoFleet
from connect.replay import Replay, demo
from connect.stream import Client
from forecast.config import Config
from forecast.config_files import load
from forecast.errors import FleetcastError
from forecast.rollout import place_of
from serve_app import build

_READERS, _PAUSE_S = 4, 0.1
_SERVERS_PER_ROLE, _HISTORY_DAYS = 3, 2
_CANARY_SHARE = 0.1
_FULL = {"updates": 48, "slots": 60 * 12}
"""Updates of the ratchet, and from Friday evening to Monday morning."""
_QUICK = {"updates": 12, "slots": 72}


def main() -> int:
    options = _arguments().parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fc-state-") as folder:
        replay = _replay(options.seed)
        config = _config(replay, Path(folder), options.port)
        outcomes, account, kept = _live(config, replay, options)
        if kept is not None:
            outcomes.append(_told(copies.restored(config, kept)))
    _show(outcomes)
    servers = servers_of(replay)
    cohort = sum(place_of(name) < _CANARY_SHARE for name in servers) / len(servers)
    figures = figures_of(outcomes, account, cohort, wanted=options.only)
    figures["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(figures))
    return 1 if figures["problems"] else 0


def _live(
    config: Config, replay: Replay, options: argparse.Namespace
) -> tuple[list[Outcome], Account, copies.Kept | None]:
    """The cases on the running fleet, and what it leaves behind for the last one."""
    began, outcomes, kept = time.monotonic(), [], None
    embedded = Embedded(config, build(config))
    try:
        embedded.start_ray()
        actors = topology.ensure(config, trainer=OrderedTrainer)
        # From the first update on: one that began before would be taken for an ordered one.
        ray.get(actors[handles.TRAINER].order.remote(()))
        embedded.serve()
        client = Client(embedded.url)
        session = Session(client, replay)
        for _ in session.feed_history():
            pass
        for _ in session.wait_for_model():
            pass
        say(f"drill: a trained version answers after {time.monotonic() - began:.0f} s")
        servers, metric = servers_of(replay), replay.schema.targets[0]
        readers = Readers(embedded.url, servers, metric, count=_READERS, pause_s=_PAUSE_S)
        scene = Scene(config, replay, client, readers)
        readers.start()
        for name, case in _cases(quick=options.quick):
            if options.only and name not in options.only:
                continue
            started, first = time.monotonic(), scene.slot
            outcomes.append(_told(_tried(name, case, scene)))
            took = time.monotonic() - started
            say(f"drill: {name}: {scene.slot - first} slots in {took:.0f} s")
        account = readers.stop()
        if not options.only or "restore" in options.only:
            scene.mark()
            kept = copies.keep(scene)
        client.close()
    finally:
        embedded.stop()
    return outcomes, account, kept


def _cases(*, quick: bool) -> Iterator[tuple[str, Callable[[Scene], Outcome]]]:
    sizes = _QUICK if quick else _FULL
    yield "nan", cases.poisoned
    yield "subtle", cases.subtly_worse
    yield "role", cases.one_role
    yield "live", cases.bad_live
    yield "file", cases.corrupted
    yield "trainer", cases.killed
    yield "crash", copies.crashes
    yield "ratchet", partial(cases.ratchet, updates=sizes["updates"])
    yield "breaker", partial(cases.breaker, failures=5)
    yield "friday", partial(cases.since_friday, slots=sizes["slots"])


def _tried(name: str, case: Callable[[Scene], Outcome], scene: Scene) -> Outcome:
    """A case's outcome; one that did not get to its end was not detected, and the next one runs."""
    since = scene.mark()
    try:
        return case(scene)
    except FleetcastError as error:
        scene.order()
        scene.change("learning/resume")
        return scene.outcome(name, since, caught=str(error), steps=None, detected=False)


def _told(outcome: Outcome) -> Outcome:
    what = "detected" if outcome.detected else "NOT DETECTED"
    say(f"drill: {outcome.case}: {what}: {outcome.caught}")
    return outcome


def _show(outcomes: Sequence[Outcome]) -> None:
    """The table."""
    table = Table(title="make drill", title_justify="left")
    for name in ("case", "detected how", "slots", "answered", "exposed", "failed", "after"):
        table.add_column(name)
    for one in outcomes:
        table.add_row(
            one.case,
            one.caught if one.detected else f"NOT: {one.caught}",
            "-" if one.steps is None else str(one.steps),
            ", ".join(map(str, one.served)),
            "by hand" if one.exposed is None else f"{one.exposed:.1%}",
            str(one.failed),
            one.after,
        )
    Console(stderr=True, width=160).print(table)


def figures_of(
    outcomes: Sequence[Outcome], account: Account, cohort: float, *, wanted: Sequence[str]
) -> dict[str, Any]:
    """Flat figures of all cases; what was left out is null."""
    exposed = [one.exposed for one in outcomes if one.exposed is not None]
    missed = [one.case for one in outcomes if not one.detected]
    figures: dict[str, Any] = {
        "cases": len(outcomes),
        "undetected": len(missed),
        "failed_requests": account.failed,
        "forecasts": account.forecasts,
        "fallback": account.fallback,
        "contradictions": account.contradictions,
        "max_exposed_share": round(max(exposed, default=0.0), 4),
        "canary_cohort_share": round(cohort, 4),
        "ratchet_max": None,
    }
    for one in outcomes:
        figures.update(one.figures)
    problems = [f"undetected: {name}" for name in missed]
    problems += [name for name in ("failed_requests", "contradictions") if figures[name]]
    problems += ["max_exposed_share"] if max(exposed, default=0.0) > cohort else []
    worst = figures["ratchet_max"]
    problems += ["ratchet_max"] if worst is not None and worst > cases.WORST_RATCHET else []
    problems += [] if account.forecasts else ["no forecast was asked for"]
    if not wanted and len(outcomes) < len([*_cases(quick=True)]) + 1:
        problems.append("cases")
    figures["problems"] = "; ".join(problems) or None
    return figures


def _replay(seed: int) -> Replay:
    """A demo fleet that never drifts: what is told of the cases is of the cases alone."""
    replay = demo(seed=seed, servers_per_role=_SERVERS_PER_ROLE, history_days=_HISTORY_DAYS)
    fleet = DemoFleet(seed=seed, servers_per_role=_SERVERS_PER_ROLE, drift_day=None)
    return replace(replay, source=fleet)


def _config(replay: Replay, state: Path, port: int) -> Config:
    overrides = {
        "state_dir": str(state),
        "serve": {"port": port, "allow_anonymous_loopback": True},
        "online_learning": {
            "update_frequency_minutes": 30,
            "gate_holdout_hours": 4,
            "windows_per_update": 128,
            # A network as small as this one moves far when it learns what is wrong thoroughly.
            "max_weight_move": 1.0,
        },
        "rollout": {
            "enabled": True,
            "shadow": "1h",
            "canary": "90m",
            "canary_share": _CANARY_SHARE,
        },
        "breaker": {"cooldown_hours": 2},
    }
    return load([Path("configs/drill.toml")], data=replay.config(), overrides=overrides).config


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.drill", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Fewer updates, a shorter weekend.")
    parser.add_argument("--only", action="append", default=[], help="One case, by its name.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--port", type=int, default=8127)
    return parser


if __name__ == "__main__":
    sys.exit(main())
