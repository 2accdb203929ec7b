"""`make smoke`: the whole way, unattended. Starts empty, ends with one JSON line.

An empty state folder, a real local Ray and Serve: history comes in over HTTP, the first model is
trained, days are streamed, updates are trained and judged, readers ask all the while and in
hundreds while a new version is swapped in. Then everything is stopped and started once more.
Exit code 0 only when every requirement is met; what is not is listed in `problems`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.embedded import Embedded
from actors.session import Session
from bench.configs import OFTEN
from bench.load import Account, Readers, servers_of
from cli import plan_replay
from connect.replay import Replay
from connect.stream import Client
from forecast.config import Config
from serve_app import build

_CALM_READERS, _CALM_PAUSE_S = 4, 0.25
_SWAP_READERS = 280
_SWAPS_UNDER_LOAD = 2
_SETTLES_S = 15.0
"""After a rush, until answers come as fast as before it."""
_HORIZONS = (1, 6, 12)


def main() -> int:
    options = _arguments().parse_args()
    with tempfile.TemporaryDirectory(prefix="fc-state-") as folder:
        loaded, replay = plan_replay(
            tuple(options.config) or OFTEN,
            options.data,
            options.targets,
            servers=options.servers if options.data else None,
            days=options.days if options.data else None,
            history_days=options.history_days,
            state_dir=Path(folder),
            port=options.port,
        )
        config = loaded.config
        figures: dict[str, Any] = {}
        slots = round(options.stream_days * 86400 / config.panel.step)
        _first_start(config, replay, slots, figures)
        _second_start(config, figures)
    problems = _problems(figures, with_data=options.data is not None)
    figures["problems"] = "; ".join(problems) or None
    print(json.dumps(figures))
    return 1 if problems else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.smoke", description=__doc__)
    parser.add_argument("--config", type=Path, action="append", default=[])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--targets", default="")
    parser.add_argument("--servers", type=int, default=24)
    parser.add_argument("--days", type=float, default=10.5)
    parser.add_argument("--history-days", type=float)
    parser.add_argument("--stream-days", type=float, default=3.0)
    parser.add_argument("--port", type=int, default=8123)
    return parser


def _first_start(config: Config, replay: Replay, slots: int, figures: dict[str, Any]) -> None:
    began = time.monotonic()
    with Embedded(config, build(config)) as embedded:
        _say(f"Ray and Serve are up after {time.monotonic() - began:.0f} s")
        client = Client(embedded.url)
        session = Session(client, replay)
        for _rows in session.feed_history():
            pass
        _say(f"history is in after {time.monotonic() - began:.0f} s")
        for _status in session.wait_for_model():
            pass
        figures["ready_s"] = round(time.monotonic() - began, 1)
        _say(f"a trained version answers after {figures['ready_s']} s")
        account = _stream(session, embedded.url, slots, config.rollout.enabled, figures)
        figures.update(_counted(client, account))
        client.close()
        stopping = time.monotonic()
    figures["stop_s"] = round(time.monotonic() - stopping, 1)


def _stream(
    session: Session, url: str, slots: int, staged: bool, figures: dict[str, Any]
) -> Account:
    """Stream days; before a swap hundreds read, until enough swaps were seen."""
    replay = session.replay
    metric = replay.schema.targets[0]
    readers = Readers(url, servers_of(replay), metric, count=_CALM_READERS, pause_s=_CALM_PAUSE_S)
    readers.start()
    began, end = time.monotonic(), min(replay.start_slot + slots, replay.end_slot)
    periods: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    since = settled = began
    for slot, status in session.stream(replay.start_slot, end):
        seen = len(readers.account.first_seen)
        pending = (status.get("controller") or {}).get("pending")
        # With a rollout the swap comes hours of event time after the verdict, as canary.
        swapping = (status.get("registry") or {}).get("challenger") if staged else pending
        rush = swapping is not None and seen <= _SWAPS_UNDER_LOAD
        readers.rush(_SWAP_READERS if rush else 0)
        now = time.monotonic()
        if seen <= _SWAPS_UNDER_LOAD:
            settled = now + _SETTLES_S
        elif since >= settled:  # a rush, and what it leaves behind, would count for one side alone
            periods[pending is not None].append((since, now))
        since = now
        if (slot - replay.start_slot) % 72 == 71:
            _say(
                f"{slot - replay.start_slot + 1} of {end - replay.start_slot} slots, "
                f"{readers.account.forecasts} forecasts, {readers.account.failed} failed, "
                f"versions {sorted(readers.account.first_seen)}"
            )
    account = readers.stop()
    figures["streamed_slots"] = end - replay.start_slot
    figures["slots_per_s"] = round((end - replay.start_slot) / (time.monotonic() - began), 2)
    figures.update(_latency(account, periods))
    for failure in account.failures[:5]:
        _say(f"failed: {failure}")
    return account


def _latency(
    account: Account, periods: Mapping[bool, Sequence[tuple[float, float]]]
) -> dict[str, float | None]:
    """How long readers waited while an update was under way, and while none was."""
    busy, calm = account.p99_s(periods[True]), account.p99_s(periods[False])
    return {
        "p99_updating_ms": None if busy is None else round(1000 * busy, 1),
        "p99_calm_ms": None if calm is None else round(1000 * calm, 1),
        "p99_ratio": None if busy is None or not calm else round(busy / calm, 3),
    }


def _counted(client: Client, account: Account) -> dict[str, Any]:
    """The figures of the JSON line, from the API and the readers' account."""
    updates = client.get("/api/v1/learning/updates", limit=200)["updates"]
    records = client.get("/api/v1/audit", kind="promote", limit=1000)["records"]
    champions = {record["detail"]["version"] for record in records}
    judged = [update for update in updates if update["kind"] == "update"]
    promoted = sum(update["version"] in champions for update in judged)
    rejected = sum(update["verdict"] == "rejected" for update in judged)
    for update in reversed(updates):
        _say(f"{update['update_id']} {update['verdict']}: {'; '.join(update['reasons'])}")
    figures: dict[str, Any] = {
        "updates": promoted + rejected,  # what is on its way is neither yet
        "promoted": promoted,
        "rejected": rejected,
        "forecasts": account.forecasts,
        "failed": account.failed,
        "versions_served": len(account.versions),
        "swap_requests": account.swap_requests(),
        "fallback_share": round(account.fallback / max(1, account.series), 6),
        "samples_accepted": client.accepted,
        "samples_rejected": client.rejected,
    }
    for member in client.get("/api/v1/accuracy")["members"]:
        steps = {row["horizon"]: row for row in member["horizons"]}
        for step in _HORIZONS:
            wql = steps[step]["wql"]  # none of a version that has just begun its way
            figures[f"wql_{member['member']}_{step}"] = None if wql is None else round(wql, 5)
    return figures


def _second_start(config: Config, figures: dict[str, Any]) -> None:
    began = time.monotonic()
    with Embedded(config, build(config)) as embedded:
        client = Client(embedded.url)
        while not client.computes():
            time.sleep(0.2)
        figures["second_start_s"] = round(time.monotonic() - began, 1)
        client.close()


def _problems(figures: Mapping[str, Any], *, with_data: bool) -> list[str]:
    wanted = {
        "promoted": figures["promoted"] >= 1,
        "failed": figures["failed"] == 0,
        "versions_served": figures["versions_served"] >= 2,
        "swap_requests": figures["swap_requests"] >= 200,
        "fallback_share": figures["fallback_share"] == 0,
        "ready_s": figures["ready_s"] < 240,
        "second_start_s": figures["second_start_s"] < 45,
    }
    if with_data:
        for step in _HORIZONS:
            ours = figures[f"wql_champion_{step}"]
            for baseline in ("copy_last", "seasonal_naive"):
                name = f"wql_{baseline}_{step}"
                wanted[f"wql_champion_{step} < {name}"] = ours < figures[name]
    return [name for name, met in wanted.items() if not met]


def _say(line: str) -> None:
    print(f"smoke: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
