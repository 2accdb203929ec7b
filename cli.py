"""The `fleetcast` command: the front door.

Exit codes: 0 ok, 1 refused or failed, 2 usage or config, 3 unreachable.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import click
import httpx
from rich.console import Console
from rich.table import Table

from connect import replay
from connect.replay import Replay
from connect.stream import Client
from forecast.config_files import Loaded, load
from forecast.errors import ConfigError, DataError, FleetcastError

P = ParamSpec("P")

_LAPTOP = Path(__file__).resolve().parent / "configs" / "laptop.toml"
_URL = "http://127.0.0.1:8000"


def _exits(command: Callable[P, None]) -> Callable[P, None]:
    """Turn our errors into a plain message and the documented exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ConfigError, DataError) as error:
            _fail(str(error), 2)
        except httpx.HTTPStatusError as error:
            _fail(f"{error.response.status_code}: {error.response.text}", 1)
        except httpx.TransportError as error:
            _fail(f"unreachable: {error}", 3)
        except (FleetcastError, RuntimeError) as error:  # RuntimeError: what Ray and Serve raise
            _fail(str(error), 1)

    return run


def _fail(message: str, code: int) -> None:
    click.echo(f"fleetcast: {message}", err=True)
    sys.exit(code)


@click.group()
@click.option("-v", "--verbose", is_flag=True, help="Log what happens.")
def main(verbose: bool) -> None:
    """Forecasts for a server fleet from models that keep learning while they serve."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING)


def _data_options(command: Callable[P, None]) -> Callable[P, None]:
    """The options that say which data and which config a command works on."""
    options = [
        click.option("--config", "configs", multiple=True, type=click.Path(path_type=Path)),
        click.option("--data", type=click.Path(path_type=Path), help="Your own parquet or csv."),
        click.option("--targets", default="", help="Columns to forecast, comma-separated."),
        click.option("--servers", type=int, help="Use only so many servers of the file."),
        click.option("--days", type=float, help="Use only so many days of the file."),
        click.option("--history-days", type=float, help="How much of it is history."),
        click.option("--seed", type=int, default=7, show_default=True),
        click.option("--state-dir", type=click.Path(path_type=Path), help="Where state is kept."),
        click.option("--port", type=int, help="Port of the API."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def plan_replay(
    configs: tuple[Path, ...],
    data: Path | None,
    targets: str,
    *,
    servers: int | None = None,
    days: float | None = None,
    history_days: float | None = None,
    seed: int = 7,
    state_dir: Path | None = None,
    port: int | None = None,
) -> tuple[Loaded, Replay]:
    """The config and the data of a run; raises ConfigError or DataError."""
    if data is None:
        if targets or servers is not None or days is not None:
            raise ConfigError("--targets, --servers and --days go with --data")
        chosen = replay.demo(seed=seed, history_days=round(history_days or 14))
    else:
        names = tuple(name.strip() for name in targets.split(",") if name.strip())
        chosen = replay.from_file(
            data, targets=names, servers=servers, days=days, history_days=history_days
        )
    overrides: dict[str, Any] = {}
    if state_dir is not None:
        overrides["state_dir"] = str(state_dir)
    if port is not None:
        overrides["serve"] = {"port": port}
    return load(configs or (_LAPTOP,), data=chosen.config(), overrides=overrides), chosen


@main.command()
@_data_options
@click.option(
    "--max-speed",
    type=click.FloatRange(min=0.01),
    default=5.0,
    show_default=True,
    help="Slots a second.",
)
@click.option("--slots", type=int, help="Stop after so many streamed slots.")
@click.option("--dashboard/--no-dashboard", default=True, help="Start Ray's dashboard too.")
@_exits
def run(max_speed: float, slots: int | None, dashboard: bool, **options: Any) -> None:
    """Start Ray and Serve, train a first model, then stream the fleet and learn from it."""
    from actors.session import RunOptions, run_fleet  # Ray is imported only where it is needed
    from serve_app import build

    loaded, chosen = plan_replay(options.pop("configs"), **options)
    pace = RunOptions(max_speed=max_speed, slots=slots, dashboard=dashboard)
    run_fleet(loaded.config, chosen, pace, Console(), build(loaded.config))


@main.command()
@_data_options
@_exits
def train(**options: Any) -> None:
    """Train a base model from the history and register it; the API need not run."""
    from actors.jobs import train_base

    loaded, chosen = plan_replay(options.pop("configs"), **options)
    version, report = train_base(loaded.config, chosen, progress="bar")
    click.echo(json.dumps({"version": version, **report}, default=str))


@main.group(name="config")
def config_group() -> None:
    """The configuration."""


@config_group.command("show")
@_data_options
@_exits
def config_show(**options: Any) -> None:
    """Print every value and where it came from."""
    loaded, _ = plan_replay(options.pop("configs"), **options)
    for key, value, origin in loaded.rows():
        click.echo(f"{key} = {value}  # {origin}")


def _client_options(command: Callable[P, None]) -> Callable[P, None]:
    command = click.option("--token", envvar="FLEETCAST_TOKEN", help="Bearer token.")(command)
    return click.option("--url", default=_URL, envvar="FLEETCAST_URL", show_default=True)(command)


def _get(url: str, token: str | None, path: str) -> Any:
    client = Client(url, token=token, patience_s=0.0)
    try:
        return client.get(path)
    finally:
        client.close()


@main.command()
@_client_options
@_exits
def status(url: str, token: str | None) -> None:
    """Where the running system stands."""
    click.echo(json.dumps(_get(url, token, "/api/v1/status"), indent=2))


@main.command()
@_client_options
@_exits
def models(url: str, token: str | None) -> None:
    """Versions and aliases."""
    answer: Mapping[str, Any] = _get(url, token, "/api/v1/models")
    names: dict[int, list[str]] = {}
    for alias, version in answer["aliases"].items():
        names.setdefault(version, []).append(alias)
    table = Table("version", "alias", "kind", "parent", "update")
    for version in answer["versions"]:
        table.add_row(
            str(version["version"]),
            ", ".join(sorted(names.get(version["version"], []))),
            version["kind"],
            str(version["parent"] or ""),
            version["update_id"],
        )
    Console().print(table)


if __name__ == "__main__":
    main()
