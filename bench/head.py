"""A Ray head as a platform engineer starts it: `ray start --head`, with a dashboard and a token.

It runs as a child process in the foreground (`--block`), so that it can be ended without touching
any other Ray on the machine, which `ray stop` would.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx
import yaml

from actors.ray_folder import new_folder, write_token
from forecast.errors import FleetcastError

ROOT = Path(__file__).resolve().parent.parent
_START_S, _STOP_S = 120.0, 60.0


class Head:
    """A context manager around one head; `run` runs Ray's commands against it."""

    def __init__(self, *, port: int, dashboard_port: int, cpus: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.dashboard = f"http://127.0.0.1:{dashboard_port}"
        self._port, self._dashboard_port, self._cpus = port, dashboard_port, cpus
        self.folder = new_folder()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """What a program needs to be let in: the token's file, and where the cluster is."""
        here = Path(sys.executable).parent
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_TMPDIR": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "OMP_WAIT_POLICY": "PASSIVE",
        }

    def __enter__(self) -> Self:
        write_token(self.folder / "token")
        (self.folder / "ray").mkdir()
        self._log = (self.folder / "head.log").open("wb")
        command = [
            "ray", "start", "--head", "--block", "--disable-usage-stats",
            f"--port={self._port}", f"--num-cpus={self._cpus}", "--node-ip-address=127.0.0.1",
            "--include-dashboard=true", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self._dashboard_port}", f"--object-store-memory={200 << 20}",
            f"--temp-dir={self.folder / 'ray'}",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, env=self.environment, stdout=self._log, stderr=self._log
        )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def run(self, *command: str, timeout_s: float = 600.0) -> subprocess.CompletedProcess[str]:
        """Run a command with the cluster's environment; raises FleetcastError when it fails."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**self.environment, "RAY_ADDRESS": self.address},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode:
            raise FleetcastError(f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done

    def deploy(self, file: Path, tree: Mapping[str, Any]) -> None:
        """`serve deploy` of this tree, written to a file."""
        file.write_text(yaml.safe_dump(dict(tree), sort_keys=False))
        self.run("serve", "deploy", "--address", self.dashboard, str(file))

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "head.log").read_text()
                raise FleetcastError(f"the head did not start: {log[-2000:]}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        """Whether the dashboard lets the token in."""
        token = (self.folder / "token").read_text()
        try:
            answer = httpx.get(
                f"{self.dashboard}/api/version", headers={"Authorization": f"Bearer {token}"}
            )
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    def _stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        if self._log is not None:
            self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
