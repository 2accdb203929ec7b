"""Options that commands share: which data, and which part of it. Imports no Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import click

from connect.replay import DEMO_SEED

P = ParamSpec("P")

STATE_DIR = click.option(
    "--state-dir", type=click.Path(path_type=Path), help="Where state is kept."
)
REPLAY = (
    click.option("--data", type=click.Path(path_type=Path), help="Your own parquet or csv."),
    click.option("--targets", default="", help="Columns to forecast, comma-separated."),
    click.option("--servers", type=int, help="Use only so many servers of the file."),
    click.option("--days", type=float, help="Use only so many days of the file."),
    click.option("--history-days", type=float, help="How much of it is history."),
    click.option(
        "--seed", type=int, default=DEMO_SEED, show_default=True, help="Of the demo fleet."
    ),
)
"""What `connect.replay.choose` takes."""

BACKTEST = (
    click.option(
        "--stream-days",
        type=click.FloatRange(min=0, min_open=True),
        default=3.0,
        show_default=True,
        help="How much to stream.",
    ),
    click.option("--label-delay", default="0s", help="Score and learn so much later: 2h."),
    click.option("--training-seed", type=int, help="Of the trainings; else the config's."),
    click.option(
        "--dump",
        type=click.Path(path_type=Path),
        help="Write every issued quantile to this parquet file, and the actuals beside it.",
    ),
    click.option(
        "--dump-every",
        type=click.IntRange(min=1),
        default=1,
        help="Only the origins whose slot this number divides.",
    ),
)
"""What `actors.backtest.run` takes besides a config and data."""


def wished(options: dict[str, Any]) -> dict[str, Any]:
    """Take what `BACKTEST` adds out of a command's options."""
    names = ("stream_days", "label_delay", "training_seed", "dump", "dump_every")
    return {name: options.pop(name) for name in names}


def with_options(
    *options: Callable[[Callable[P, None]], Callable[P, None]],
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """One decorator for several options, listed as `--help` shows them."""

    def decorate(command: Callable[P, None]) -> Callable[P, None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
