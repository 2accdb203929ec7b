"""`fleetcast run`: bring a fleet up on this machine, feed it, and show what it learns."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from ray.serve import Application
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from actors.embedded import Embedded
from actors.plan import refuse
from connect.replay import Replay
from connect.stream import Client, Feeder
from connect.terminal import Board
from forecast.config import Config
from forecast.errors import TrainingError

_BOARD_EVERY_S = 2.0
_READY_POLL_S = 0.2
_ENDS = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is paced and shown."""

    max_speed: float = 5.0
    """Streamed slots per second of wall time, at most."""
    slots: int | None = None
    """Stop after so many streamed slots; None: until the data or the user ends it."""
    dashboard: bool = True


class Session:
    """A fed fleet behind an URL: what `run` and the smoke test share. Talks HTTP only."""

    def __init__(self, client: Client, replay: Replay) -> None:
        self.client = client
        self.replay = replay
        self._feeder = Feeder(client, replay.source, name=replay.fleet)

    def resume_slot(self) -> int:
        """The first slot that may not have been fed yet; before `start_slot`: history is missing.

        Waits until the buffer, which may be reading its log, can say.
        """
        while (buffer := self.client.status().get("buffer")) is None:
            time.sleep(_READY_POLL_S)
        # The clock's own slot may be half fed; feeding it again changes nothing.
        clock = buffer["clock_slot"]
        return self.replay.first_slot if clock is None else int(clock)

    def feed_history(self) -> Iterator[int]:
        """Post the history; yields the rows posted so far."""
        return self._feeder.history(self.replay.first_slot, self.replay.start_slot)

    def wait_for_model(self) -> Iterator[Mapping[str, Any]]:
        """Until a TFT version answers; yields the status meanwhile.

        Raises TrainingError when the first training failed.
        """
        while True:
            status = self.client.status()
            if failure := (status.get("controller") or {}).get("last_failure"):
                raise TrainingError(failure)
            if (status.get("forecast") or {}).get("version") is not None:
                return
            yield status
            time.sleep(_READY_POLL_S)

    def stream(self, from_slot: int, to_slot: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Feed slot by slot; yields (slot, status)."""
        return self._feeder.stream(from_slot, to_slot)


def run_fleet(
    config: Config, replay: Replay, options: RunOptions, console: Console, app: Application
) -> None:
    """Start, feed and show a fleet until the data, `options.slots` or Ctrl-C ends it.

    Raises ConfigError before anything is started when the config needs more than its `[limits]`.
    """
    console.print(refuse(config).line(), soft_wrap=True, highlight=False)
    embedded = Embedded(config, app, dashboard=options.dashboard)
    with _interruptible(), _stopped(embedded, console):
        client = Client.from_environment(embedded.url, ca_file=config.serve.tls_certificate)
        session = Session(client, replay)
        with _progress(console) as progress:
            _start(embedded, progress)
            resume = session.resume_slot()
            if resume < replay.start_slot:
                _feed_history(session, progress)
                resume = replay.start_slot
            _first_model(session, progress)
        _say_where(embedded, replay, console)
        _stream(session, resume, options, console)
        client.close()


def _start(embedded: Embedded, progress: Progress) -> None:
    task = progress.add_task("starting Ray", total=None)
    embedded.start_ray()
    progress.update(task, description="starting Serve and the actors")
    embedded.serve()
    progress.update(task, description="Ray and Serve are up", total=1, completed=1)


def _feed_history(session: Session, progress: Progress) -> None:
    replay = session.replay
    slots = replay.start_slot - replay.first_slot
    task = progress.add_task(f"sending {slots} slots of history", total=None)
    rows = 0
    for rows in session.feed_history():
        progress.update(task, description=f"sending history: {rows:,} rows")
    progress.update(task, description=f"history sent: {rows:,} rows", total=1, completed=1)


def _first_model(session: Session, progress: Progress) -> None:
    task = progress.add_task("waiting for the first model", total=None)
    for status in session.wait_for_model():
        training = status.get("trainer") or {}
        if training.get("max_steps"):
            progress.update(
                task,
                description="training the first model",
                completed=training["step"],
                total=training["max_steps"],
            )
    progress.update(task, description="a trained model answers", total=1, completed=1)


def _say_where(embedded: Embedded, replay: Replay, console: Console) -> None:
    url = embedded.url
    server = next(iter(replay.source.rows_by_slot(replay.start_slot, replay.start_slot + 1)))[1]
    name = server[0]["server"] if server else ""
    metric = replay.schema.targets[0]
    console.print(f"\n[bold]API[/bold] {url}   docs {url}/docs   metrics {url}/metrics")
    if embedded.dashboard_url:
        console.print(f"[bold]Ray dashboard[/bold] http://{embedded.dashboard_url}")
    console.print("Three things to try:")
    for path in (
        f"forecast?{urlencode({'server': name, 'metric': metric})}",
        "accuracy",
        "learning/updates",
    ):
        console.print(f"  curl -s '{url}/api/v1/{path}'", soft_wrap=True, highlight=False)
    console.print("Times are the data's own; Ctrl-C stops everything this started.\n")


def _stream(session: Session, resume: int, options: RunOptions, console: Console) -> None:
    replay, client = session.replay, session.client
    end = replay.end_slot if options.slots is None else min(replay.end_slot, resume + options.slots)
    shown = 0.0
    with Board(console, title=f"fleetcast {replay.fleet}") as board:
        for _slot, status in session.stream(resume, end):
            began = time.monotonic()
            if began - shown > _BOARD_EVERY_S:
                updates = client.get("/api/v1/learning/updates", limit=6)["updates"]
                board.show(status, client.get("/api/v1/accuracy"), updates)
                shown = began
            time.sleep(max(0.0, 1 / options.max_speed - (time.monotonic() - began)))
    console.print("the data is at its end" if end == replay.end_slot else "done")


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        console=console,
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal end a run the way Ctrl-C does; all end it quietly."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in _ENDS]
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        for number, handler in zip(_ENDS, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _stopped(embedded: Embedded, console: Console) -> Iterator[None]:
    """Stop what was started, also when the start was interrupted; a second Ctrl-C waits."""
    try:
        yield
    finally:
        console.print("stopping")
        ignored = (signal.SIGINT, *_ENDS)
        before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
        try:
            embedded.stop()
        finally:
            for number, handler in zip(ignored, before, strict=True):
                signal.signal(number, handler)
