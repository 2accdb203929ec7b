"""The live board of `fleetcast run`: what came in, what was learned, how good the answers are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

_PLAIN_EVERY_S = 10.0
_HORIZONS = ("1", "6", "12")


class Board:
    """A live board on a terminal; elsewhere one plain line now and then."""

    def __init__(self, console: Console, *, title: str) -> None:
        self._console = console
        self._title = title
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._said = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(
        self,
        status: Mapping[str, Any],
        accuracy: Mapping[str, Any] | None,
        updates: Sequence[Mapping[str, Any]],
    ) -> None:
        """Show where things stand."""
        if self._console.is_terminal:
            headline = _headline(self._title, status)
            self._live.update(Group(headline, _errors(accuracy), _verdicts(updates)))
        elif time.monotonic() - self._said > _PLAIN_EVERY_S:
            self._said = time.monotonic()
            self._console.print(_headline(self._title, status).plain)


def _headline(title: str, status: Mapping[str, Any]) -> Text:
    forecast = status.get("forecast") or {}
    buffer = status.get("buffer") or {}
    registry = status.get("registry") or {}
    training = status.get("trainer") or {}
    text = Text.assemble((f"{title}  ", "bold"), f"as of {forecast.get('as_of', '-')}  ")
    text.append(f"rows {buffer.get('rows', 0):,}  servers {buffer.get('servers', 0)}  ")
    text.append(f"version {registry.get('champion') or '-'}  ")
    text.append(f"promoted {registry.get('promoted', 0)}  rejected {registry.get('rejected', 0)}")
    if training:
        steps = f" {training['step']}/{training['max_steps']}" if training.get("max_steps") else ""
        text.append(f"  training {training['update_id']}{steps}", "yellow")
    return text


def _errors(accuracy: Mapping[str, Any] | None) -> Table:
    table = Table(title="error so far (WQL: lower is better)", title_justify="left")
    table.add_column("answered by")
    for step in _HORIZONS:
        table.add_column(f"{step} steps ahead", justify="right")
    table.add_column("all", justify="right")
    table.add_column("coverage of 80 %", justify="right")
    for member in (accuracy or {}).get("members", []):
        steps = {str(row["horizon"]): row for row in member["horizons"]}
        cells = [_number(steps.get(step, {}).get("wql")) for step in _HORIZONS]
        pooled = member["pooled"]
        coverage = (pooled.get("coverage") or {}).get("0.8")
        table.add_row(member["member"], *cells, _number(pooled.get("wql")), _number(coverage))
    return table


def _verdicts(updates: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="latest updates", title_justify="left")
    for name in ("update", "verdict", "why"):
        table.add_column(name)
    for update in updates[:6]:
        verdict = str(update["verdict"])
        style = "red" if verdict == "rejected" else "green"
        reasons = "; ".join(update["reasons"])
        table.add_row(str(update["update_id"]), Text(verdict, style), reasons)
    return table


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float | int) else "-"
