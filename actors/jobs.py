"""Work for a cluster, asked for by hand: `ray job submit ... -- python -m actors.jobs COMMAND`.

    pretrain    a model from a file's, the demo fleet's or the running fleet's history
    retrain     the same from the last `lookback_days` of the running fleet, as its controller does
    backup      a whole copy of the running fleet, into a folder that its head can write
    backtest    a replay through the production controller, scored; it changes no fleet

Both trainings run on Ray Train workers, are judged by the gate and registered with the fleet's
RegistryActor. The last line on stdout is one JSON object. Exit codes: 0 ok, 1 refused or failed,
2 usage or config.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec

import click
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from actors import arguments, handles, topology
from actors.offline import History, history_of, train_and_judge
from actors.options import BACKTEST, REPLAY, STATE_DIR, wished, with_options
from actors.trainer import make_trainer
from connect import replay
from connect.replay import Replay
from forecast.config import Config
from forecast.config_files import load
from forecast.errors import ConfigError, DataError, FleetcastError, StateError

P = ParamSpec("P")

_ANSWER_S = 120.0
_NICE = 10


class Caller:
    """An actor's handle as a plain object: each method waits for its answer.

    Raises what the method raised, StateError when the actor does not answer in `answer_s`; None
    waits as long as it takes.
    """

    def __init__(self, handle: Any, *, answer_s: float | None = _ANSWER_S) -> None:
        self._handle, self._answer_s = handle, answer_s

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._handle, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return ray.get(method.remote(*args, **kwargs), timeout=self._answer_s)
            except RayTaskError as error:
                raise error.cause from error
            except (RayActorError, GetTimeoutError) as error:
                raise StateError(f"{name}: the actor does not answer: {error}") from error

        return call


def train(
    config: Config, chosen: Replay | None, kind: Literal["base", "retrain"]
) -> dict[str, Any]:
    """Train on Ray Train workers, judge, and let the fleet's registry keep the verdict.

    Reads the history of `chosen`, of the running fleet without it. Needs `ray.init`.
    """
    began = time.monotonic()
    registry = Caller(topology.ensure_registry(config))
    given = arguments.with_workers(arguments.trainer(config), config)
    history: History = _running(config) if chosen is None else history_of(config, chosen)
    version, verdict, report = train_and_judge(
        registry,
        history,
        # It judges in this process, which has no GPU of its own; the workers take what is asked.
        make_trainer(**{**given, "device": "cpu"}),
        arguments.settings(config),
        kind=kind,
        who=f"job {'pretrain' if kind == 'base' else 'retrain'}",
        keep=registry.keep_evidence,
    )
    return {
        "version": version,
        "promoted": verdict == "promoted",
        "verdict": verdict,
        "reasons": list(report["reasons"]),
        "kind": kind,
        "slot": report["asked_slot"],
        "steps": report["training"]["steps"],
        "stopped_early": report["training"]["stopped_early"],
        "validation_loss": report["training"]["validation_loss"],
        "train_windows": report["training"]["train_windows"],
        "relative_change": report["relative_change"],
        "workers": [given["workers"]["least"], given["workers"]["most"]],
        "seconds": round(time.monotonic() - began, 1),
    }


def _running(config: Config) -> Any:
    """The running fleet's buffer; raises StateError when there is none."""
    return Caller(_actor(config, handles.BUFFER, "deploy it, or give --data or --demo"))


def _actor(config: Config, role: str, otherwise: str) -> Any:
    """One of the running fleet's actors; raises StateError saying what to do without it."""
    found = handles.find(config.fleet, config.panel.name, role)
    if found is None:
        raise StateError(f"fleet {config.fleet} does not run here: {otherwise}")
    return found


def _exits(command: Callable[P, dict[str, Any]]) -> Callable[P, None]:
    """Print the result as the last line; turn our errors into a message and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            told = command(*args, **kwargs)
        except (ConfigError, DataError) as error:
            _fail(str(error), 2)
        except (FleetcastError, RuntimeError, ConnectionError, RayError) as error:
            _fail(str(error), 1)
        else:
            click.echo(json.dumps(told, default=str))
            sys.exit(0 if told.get("promoted", True) else 1)

    return run


def _fail(message: str, code: int) -> None:
    click.echo(f"fleetcast: {message}", err=True)
    click.echo(json.dumps({"error": message}))
    sys.exit(code)


_options = with_options(
    STATE_DIR,
    click.option(
        "--config",
        "configs",
        multiple=True,
        required=True,
        type=click.Path(path_type=Path),
        help="A config file; later ones win.",
    ),
)
"""Where the config comes from."""
_data_options = with_options(
    *REPLAY, click.option("--demo", is_flag=True, help="The demo fleet's history.")
)


def _chosen(data: Path | None, demo: bool, targets: str, **wishes: Any) -> Replay | None:
    if data is not None and demo:
        raise ConfigError("--data or --demo, not both")
    if data is None and not demo:
        if targets or any(wishes[name] is not None for name in ("servers", "days", "history_days")):
            raise ConfigError("--targets, --servers, --days and --history-days go with data")
        return None
    return replay.choose(data, targets, **wishes)


def _config(configs: tuple[Path, ...], state_dir: Path | None, chosen: Replay | None) -> Config:
    overrides = {} if state_dir is None else {"state_dir": str(state_dir)}
    data = None if chosen is None else chosen.config()
    return load(configs, data=data or {}, overrides=overrides).config


def _connect(config: Config) -> None:
    """Join the cluster this job runs on; its own process gives way to Serve."""
    if not config.state_dir.is_absolute():
        raise ConfigError(
            f"state_dir is {config.state_dir}: a job runs in a folder of its own, so it needs an "
            "absolute one, from the config or as --state-dir"
        )
    os.nice(_NICE)
    # What workers print must not come after this command's last line.
    ray.init(address="auto", log_to_driver=False)


@click.group()
def main() -> None:
    """Trainings and backtests on a Ray cluster."""


@main.command()
@_options
@_data_options
@_exits
def pretrain(configs: tuple[Path, ...], state_dir: Path | None, **source: Any) -> dict[str, Any]:
    """Train a model from history; without --data or --demo, the running fleet's."""
    chosen = _chosen(**source)
    config = _config(configs, state_dir, chosen)
    _connect(config)
    return train(config, chosen, "base")


@main.command()
@_options
@_exits
def retrain(configs: tuple[Path, ...], state_dir: Path | None) -> dict[str, Any]:
    """Train anew on the last days of the running fleet."""
    config = _config(configs, state_dir, None)
    _connect(config)
    return train(config, None, "retrain")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_options
@_exits
def backup(configs: tuple[Path, ...], state_dir: Path | None, folder: Path) -> dict[str, Any]:
    """Copy the running fleet, whole, into a new FOLDER; its path is absolute, on the head."""
    if not folder.is_absolute():
        raise ConfigError(f"{folder}: a job runs in a folder of its own: give an absolute path")
    config = _config(configs, state_dir, None)
    _connect(config)
    controller = Caller(_actor(config, handles.CONTROLLER, "deploy it"), answer_s=None)
    told: dict[str, Any] = controller.backup(folder)
    return told


@main.command()
@_options
@_data_options
@with_options(*BACKTEST)
@_exits
def backtest(configs: tuple[Path, ...], state_dir: Path | None, **options: Any) -> dict[str, Any]:
    """Replay data through the production controller and score it; no fleet is changed."""
    from actors.backtest import run

    wishes = wished(options)
    chosen = _chosen(**options)
    if chosen is None:
        raise ConfigError("a backtest needs --data or --demo")
    return run(_config(configs, state_dir, chosen), chosen, **wishes)


if __name__ == "__main__":
    main()
