"""A fleet served in a process of its own, for tests whose Ray needs another environment.

`python -m tests.serve.fleet_process DIR SERVE_JSON` prints one JSON line when the API answers, or
why it does not, and ends when its input does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Served:
    """What the process says of itself."""

    url: str
    folder: str
    dashboard: str
    pid: int
    anonymous: str
    """Why this Serve would refuse a fleet without tokens; empty: it would not."""


@contextmanager
def served(folder: Path, serve: Mapping[str, Any], **environment: str) -> Iterator[Served]:
    """A fleet with these keys of `[serve]`, while the block runs."""
    command = [sys.executable, "-m", "tests.serve.fleet_process", str(folder), json.dumps(serve)]
    # Not the settings of the tests' own cluster, but the worst that a user may have set.
    inherited = {name: value for name, value in os.environ.items() if name[:4] != "RAY_"}
    with (
        open(folder / "errors.txt", "w", encoding="utf-8") as errors,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**inherited, "RAY_AUTH_MODE": "disabled", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        told = next((line for line in process.stdout if line.startswith("{")), "{}")
        try:
            assert "url" in told, (told, (folder / "errors.txt").read_text("utf-8")[-3000:])
            yield Served(**json.loads(told))
        finally:
            process.stdin.close()  # it stops Ray and ends


def main(folder: Path, serve: Mapping[str, Any]) -> None:
    """Serve until the input ends."""
    from actors import exposure
    from actors.embedded import Embedded
    from forecast.errors import ConfigError
    from serve_app import build
    from tests.actors.scenario import small_config, small_replay

    config = small_config(folder / "state", small_replay())
    section = config.serve.model_validate({**config.serve.model_dump(), **serve})
    config = config.model_copy(update={"fleet": "secured", "serve": section})
    with Embedded(config, build(config), dashboard=True) as embedded:
        try:
            exposure.check(section.model_validate(ANONYMOUS), exposure.exposure())
            refusal = ""
        except ConfigError as error:
            refusal = str(error)
        told = {
            "url": embedded.url,
            "folder": str(embedded.folder),
            "dashboard": f"http://{embedded.dashboard_url}",
            "pid": os.getpid(),
            "anonymous": refusal,
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


ANONYMOUS = {"allow_anonymous_loopback": True}

if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
