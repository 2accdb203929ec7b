"""Options that commands share: which data, and which part of it. Imports no Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

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


def with_options(
    *options: Callable[[Callable[P, None]], Callable[P, None]],
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """One decorator for several options, listed as `--help` shows them."""

    def decorate(command: Callable[P, None]) -> Callable[P, None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
