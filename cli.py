"""The `fleetcast` command: the front door.

Exit codes: 0 ok, 1 refused or failed, 2 usage or config, 3 unreachable.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from actors import record_commands
from actors.options import BACKTEST, REPLAY, STATE_DIR, wished, with_options
from connect import replay, rolling, steering
from connect.asking import client_options, exits, fail, get
from connect.federated import SiteClient
from connect.replay import Replay
from forecast.config import Config
from forecast.config_files import Loaded, load
from forecast.errors import ConfigError
from forecast.http.tokens import Token
from forecast.needs import NEEDS, Plan, shown

_LAPTOP = Path(__file__).resolve().parent / "configs" / "laptop.toml"


@click.group()
@click.option("-v", "--verbose", is_flag=True, help="Log what happens.")
def main(verbose: bool) -> None:
    """Forecasts for a server fleet from models that keep learning while they serve."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING)


_data_options = with_options(
    click.option("--config", "configs", multiple=True, type=click.Path(path_type=Path)),
    *REPLAY,
    STATE_DIR,
    click.option("--port", type=int, help="Port of the API."),
)
"""The options that say which data and which config a command works on."""


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
    chosen = replay.choose(
        data, targets, servers=servers, days=days, history_days=history_days, seed=seed
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
@exits
def run(max_speed: float, slots: int | None, dashboard: bool, **options: Any) -> None:
    """Start Ray and Serve, train a first model, then stream the fleet and learn from it."""
    from actors.session import RunOptions, run_fleet  # Ray is imported only where it is needed
    from serve_app import build

    loaded, chosen = plan_replay(options.pop("configs"), **options)
    pace = RunOptions(max_speed=max_speed, slots=slots, dashboard=dashboard)
    run_fleet(loaded.config, chosen, pace, Console(), build(loaded.config))


@main.command()
@_data_options
@exits
def train(**options: Any) -> None:
    """Train a base model from the history and register it; the API need not run."""
    from actors.offline import train_base

    loaded, chosen = plan_replay(options.pop("configs"), **options)
    version, report = train_base(loaded.config, chosen, progress="bar")
    click.echo(json.dumps({"version": version, **report}, default=str))


@main.command()
@_data_options
@with_options(*BACKTEST)
@exits
def backtest(**options: Any) -> None:
    """Replay data through the production controller and score every member; needs no cluster.

    Prints one JSON object: WQL, MAE and coverage of each member, pooled, by step, by day and by
    server, and every update with its verdict.
    """
    from actors.backtest import run

    wishes = wished(options)
    loaded, chosen = plan_replay(options.pop("configs"), **options)
    click.echo(json.dumps(run(loaded.config, chosen, **wishes)))


@main.command()
@_data_options
@click.option("--measure", is_flag=True, help="Time the network on this machine first.")
@click.option("--json", "as_json", is_flag=True, help="Flat JSON instead of a table.")
@exits
def plan(measure: bool, as_json: bool, **options: Any) -> None:
    """What a full fleet of this config needs; exit code 1 when that is above its [limits]."""
    from actors import plan as planning

    config = _planned(options.pop("configs"), **options)
    found = planning.plan_of(config, planning.measure(config) if measure else None)
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        Console().print(_needs(found))
    if over := found.over():
        fail("\n".join(over), 1)


def _planned(configs: tuple[Path, ...], **options: Any) -> Config:
    """The config of the files alone where they say all, else with what the data says too."""
    if configs and not any(value for name, value in options.items() if name != "seed"):
        try:
            return load(configs).config
        except ConfigError:
            return plan_replay(configs, **options)[0].config  # or it says what is wrong
    return plan_replay(configs, **options)[0].config


def _needs(plan: Plan) -> Table:
    """Each need with its limit, then where it goes, the largest part first."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("need", "part", "where"):
        table.add_column(name, no_wrap=True)
    for name in ("amount", "limit"):
        table.add_column(name, justify="right", min_width=6)
    for need in NEEDS:
        limit = plan.limits.get(need)
        table.add_section()
        table.add_row(need, "", "", shown(plan.total(need)), "" if limit is None else shown(limit))
        parts = sorted((item for item in plan.items if item.need == need), key=lambda i: -i.amount)
        for item in parts:
            table.add_row("", item.what, item.where, shown(item.amount), "")
    return table


@main.group(name="deploy")
def deploy_group() -> None:
    """The deploy file."""


@deploy_group.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@exits
def deploy_check(file: Path) -> None:
    """Refuse what Serve would ignore or what would not start: unknown keys, configs, addresses."""
    from actors.deploy_file import check

    names = [config.fleet for config in check(file).fleets]
    click.echo(f"{file}: ok, fleets: {', '.join(names)}")


@main.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, help="One or more of them.")
@click.option("--file", type=click.Path(path_type=Path), help="The token file to add it to.")
@exits
def token(name: str, scopes: tuple[str, ...], file: Path | None) -> None:
    """Make a bearer token. It is shown once, on stdout; the token file holds only its hash."""
    made = Token.make(name, scopes)
    if file is not None:
        made.append(file)
    click.echo(made.secret)
    click.echo(made.entry() if file is None else f"added to {file}", err=True)


@main.group(name="config")
def config_group() -> None:
    """The configuration."""


@config_group.command("show")
@_data_options
@exits
def config_show(**options: Any) -> None:
    """Print every value and where it came from."""
    loaded, _ = plan_replay(options.pop("configs"), **options)
    for key, value, origin in loaded.rows():
        click.echo(f"{key} = {value}  # {origin}")


@main.command()
@_data_options
@exits
def aggregator(**options: Any) -> None:
    """Serve an aggregator of a federation by itself, without Ray, until Ctrl-C.

    A fleet with `federated.enabled` has one among its actors; its record is in the audit log too.
    """
    from actors.federated_alone import serve

    loaded, _ = plan_replay(options.pop("configs"), **options)
    serve(loaded.config)


@main.command()
@click.option("--aggregator", "url", required=True, envvar="FLEETCAST_URL", help="Its address.")
@click.option("--token", envvar="FLEETCAST_TOKEN", help="Bearer token, named as the site.")
@click.option("--name", required=True, help="Of the site.")
@click.option("--only", default="", help="Servers of the data that are this site's, by comma.")
@click.option("--per-server", is_flag=True, help="A site for each server, NAME.SERVER.")
@click.option("--every", default="1h", show_default=True, help="Event time between updates.")
@click.option("--rounds", type=click.IntRange(min=1), help="Stop after so many updates.")
@click.option("--compare-days", type=float, default=0.0, help="Of the data's end: for a curve.")
@click.option("--patience", type=float, default=600.0, help="Seconds without news, then stop.")
@_data_options
@exits
def site(url: str, token: str | None, **options: Any) -> None:
    """Take part in a federation: learn at home from your data, send what sites share.

    What is the site's own stays in --state-dir, from where a killed site goes on.
    """
    from actors.site_command import SiteWishes, run

    names = ("name", "per_server", "rounds", "compare_days", "every")
    wishes = SiteWishes(
        **{name: options.pop(name) for name in names},
        servers=tuple(filter(None, options.pop("only").split(","))),
        patience_s=options.pop("patience"),
    )
    loaded, chosen = plan_replay(options.pop("configs"), **options)
    asking = SiteClient.from_environment(url, token=token, patience_s=wishes.patience_s)
    with closing(asking) as centre:
        done = run(loaded.config, chosen, wishes, centre, tell=lambda line: click.echo(line))
    click.echo(json.dumps(done))


@main.command()
@client_options
@exits
def status(url: str, token: str | None) -> None:
    """Where the running system stands."""
    click.echo(json.dumps(get(url, token, "/api/v1/status"), indent=2))


@main.command()
@client_options
@exits
def models(url: str, token: str | None) -> None:
    """Versions and aliases."""
    answer: Mapping[str, Any] = get(url, token, "/api/v1/models")
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


@main.command()
@client_options
@exits
def events(url: str, token: str | None) -> None:
    """Incidents, maintenance, deploys and holidays that stand."""
    click.echo(json.dumps(get(url, token, "/api/v1/events"), indent=2))


for _command in (*steering.COMMANDS, *rolling.COMMANDS, *record_commands.COMMANDS):
    main.add_command(_command)


if __name__ == "__main__":
    main()
