"""`make smoke-job`: the platform engineer's way, with Ray's own commands, on one machine.

    ray start --head ─► ray job submit: pretrain, register ─► serve deploy ─► feed, read
                        serve deploy with another config, while readers read ─► stop everything

The last line is one JSON line; exit code 0 only when the job's version serves, the second deploy
reached the trainer and the audit log, and no request failed meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from actors.session import Session
from bench.evidence import say
from bench.head import ROOT, Head
from bench.load import Readers
from connect.replay import Replay, demo
from connect.stream import Client
from forecast.errors import FleetcastError

_READERS, _PAUSE_S = 4, 0.05
_WAIT_S = 240.0
_STREAM_SLOTS = 12
_RATE = 5e-4
"""The learning rate of the second deploy; the first has the default."""
_KEY = "online_learning.online_learning_rate"


def main() -> int:
    options = _arguments().parse_args()
    figures: dict[str, Any] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fc-state-") as folder:
        state = Path(folder)
        replay = demo(seed=options.seed, servers_per_role=1, history_days=2)
        site = state / "site.toml"
        site.write_text(toml(_site(replay, state / "state", options.port)))
        with Head(port=options.ray_port, dashboard_port=options.dashboard_port, cpus=3) as head:
            figures["head_s"] = round(time.monotonic() - began, 1)
            _job(head, site, figures)
            _deploy(head, site, replay, state, options.port, figures)
            _redeploy(head, site, replay, state, options.port, figures)
            stopping = time.monotonic()
            head.run("serve", "shutdown", "--yes", "--address", head.dashboard)
        figures["stop_s"] = round(time.monotonic() - stopping, 1)
    figures["seconds"] = round(time.monotonic() - began, 1)
    problems = [name for name in ("job_ok", "deploy_ok", "redeploy_ok") if not figures[name]]
    problems += ["redeploy_failed_requests"] if figures["redeploy_failed_requests"] else []
    figures["problems"] = "; ".join(problems) or None
    print(json.dumps(figures))
    return 1 if problems else 0


def _job(head: Head, site: Path, figures: dict[str, Any]) -> None:
    """Train and register by a job; its last line says what came of it."""
    began = time.monotonic()
    done = head.run(
        "ray", "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--",
        "python", "-m", "actors.jobs", "pretrain", "--config", "configs/drill.toml",
        "--config", str(site), "--demo", "--seed", "7", "--history-days", "2",
    )  # fmt: skip
    said = [line for line in done.stdout.splitlines() if line.startswith("{")]
    result = json.loads(said[-1])
    figures["job_s"] = round(time.monotonic() - began, 1)
    figures["job_version"] = result["version"]
    figures["job_ok"] = result["version"] is not None and result["promoted"]
    say(f"smoke-job: the job registered version {result['version']} in {figures['job_s']} s")


def _deploy(
    head: Head, site: Path, replay: Replay, state: Path, port: int, figures: dict[str, Any]
) -> None:
    """Serve the job's version; feed history so that it can forecast."""
    began = time.monotonic()
    head.deploy(state / "serve.yaml", _application(site, port, {}))
    _wait_running(head)
    session = Session(Client(f"http://127.0.0.1:{port}", patience_s=_WAIT_S), replay)
    for _ in session.feed_history():
        pass
    for _ in session.stream(replay.start_slot, replay.start_slot + _STREAM_SLOTS):
        pass
    deadline = time.monotonic() + _WAIT_S
    while not session.client.computes() and time.monotonic() < deadline:
        time.sleep(0.2)
    for update in session.client.get("/api/v1/learning/updates")["updates"]:
        say(f"smoke-job: {update['update_id']} {update['verdict']}: {'; '.join(update['reasons'])}")
    answer = session.client.get("/api/v1/forecast")
    served = {member["version"] for one in answer["series"] for member in one["members"]}
    figures["deploy_s"] = round(time.monotonic() - began, 1)
    figures["deploy_ok"] = figures["job_version"] in served
    say(f"smoke-job: versions {served} answer after {figures['deploy_s']} s")


def _redeploy(
    head: Head, site: Path, replay: Replay, state: Path, port: int, figures: dict[str, Any]
) -> None:
    """Deploy another config while readers read, until the trainer runs with it."""
    url = f"http://127.0.0.1:{port}"
    client = Client(url, patience_s=_WAIT_S)
    answer = client.get("/api/v1/forecast")
    names = sorted({series["server"] for series in answer["series"]})
    readers = Readers(
        url, names, replay.schema.targets[0], count=_READERS, pause_s=_PAUSE_S, patience_s=0.0
    )
    readers.start()
    began = time.monotonic()
    rate = {"online_learning": {"online_learning_rate": _RATE}}
    head.deploy(state / "serve.yaml", _application(site, port, rate))
    deadline = began + _WAIT_S
    record: Mapping[str, Any] | None = None
    while record is None and time.monotonic() < deadline:
        record = _redeployed(state / "state", replay)
        time.sleep(0.2)
    figures["redeploy_reached_s"] = round(time.monotonic() - began, 1)
    _wait_running(head)
    session = Session(client, replay)
    start = replay.start_slot + _STREAM_SLOTS
    for _ in session.stream(start, start + _STREAM_SLOTS):  # it learns on, with what it had
        pass
    figures["redeploy_s"] = round(time.monotonic() - began, 1)
    account = readers.stop()
    for failure in account.failures[:5]:
        say(f"smoke-job: failed: {failure}")
    say(f"smoke-job: on the audit record: {None if record is None else record['detail']}")
    figures["redeploy_ok"] = record is not None and record["detail"]["config"][_KEY][1] == _RATE
    figures["redeploy_requests"] = account.forecasts
    figures["redeploy_failed_requests"] = account.failed
    figures["redeploy_longest_s"] = round(max(end - start for start, end in account.spans), 2)


def _redeployed(state: Path, replay: Replay) -> Mapping[str, Any] | None:
    """The audit record of the redeploy, once there is one; it is written when all actors answer."""
    log = state / replay.schema.panel / "audit" / "audit.jsonl"
    records: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    return next(
        (one for one in records if one["kind"] == "redeploy" and _KEY in one["detail"]["config"]),
        None,
    )


def _wait_running(head: Head) -> None:
    """Until Serve says that the application runs; raises FleetcastError when it never does."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        said = head.run("serve", "status", "--address", head.dashboard).stdout
        application = next(iter(yaml.safe_load(said)["applications"].values()))
        if application["status"] == "RUNNING":
            return
        if application["status"] == "DEPLOY_FAILED" or time.monotonic() > deadline:
            raise FleetcastError(f"the application is not RUNNING: {application}")
        time.sleep(0.5)


def _application(site: Path, port: int, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The deploy file as it is shipped, for this site."""
    tree: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    tree["http_options"] = {"host": "127.0.0.1", "port": port}
    application = tree["applications"][0]
    application["args"] = {
        "config": [str(ROOT / "configs" / "drill.toml"), str(site)],
        "overrides": dict(overrides),
    }
    return tree


def _site(replay: Replay, state: Path, port: int) -> dict[str, Any]:
    """What a site's own config file says: its panel, where state is kept, who may call."""
    tree = replay.config()
    tree["state_dir"] = str(state)
    # The drill's model looks less far back and ahead than the demo's.
    tree["panel"] = {**tree["panel"], "context": "2h", "horizon": "30m"}
    tree["serve"] = {"port": port, "allow_anonymous_loopback": True}
    return tree


def toml(tree: Mapping[str, Any], prefix: str = "") -> str:
    """A config tree as TOML, whose values are written as JSON's are; None is left out."""
    lines, tables = [], []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            tables.append(f"\n[{prefix}{key}]\n{toml(value, f'{prefix}{key}.')}")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            tables += [f"\n[[{prefix}{key}]]\n{toml(one)}" for one in value]
        elif value is not None:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join([*lines, *tables]) + "\n"


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.smoke_job", description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--port", type=int, default=8125)
    parser.add_argument("--ray-port", type=int, default=6399)
    parser.add_argument("--dashboard-port", type=int, default=8275)
    return parser


if __name__ == "__main__":
    sys.exit(main())
