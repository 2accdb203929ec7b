"""Ray and Serve on this machine for one fleet: started by us, and ended by us alone."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import ray
from ray import serve
from ray.serve import Application

from actors import topology
from forecast.config import Config

_SHORT = "/tmp"
"""Ray's sockets lie below its folder, and a socket's path may have 107 characters."""


class Embedded:
    """A context manager around a local Ray cluster that serves `config`.

    It never joins a cluster that is already there, so leaving it ends what it started and nothing
    else. Ray's own files go to a temporary folder, its token to the fleet's state.
    """

    def __init__(
        self,
        config: Config,
        application: Application,
        *,
        dashboard: bool = False,
        cpus: int | None = None,
    ) -> None:
        self.config = config
        self._application = application
        self.dashboard_url: str | None = None
        self._dashboard = dashboard
        self._cpus = cpus or max(2, os.cpu_count() or 2)
        self._folder: Path | None = None

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://{self.config.serve.host}:{self.config.serve.port}"

    def __enter__(self) -> Self:
        try:
            self.start_ray()
            self.serve()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start_ray(self) -> None:
        """A fresh local cluster with token authentication."""
        self.config.state_dir.mkdir(parents=True, exist_ok=True)
        self._environment(self.config.state_dir / "ray.token")
        self._folder = Path(tempfile.mkdtemp(prefix="fc-", dir=_SHORT))
        context = ray.init(
            address="local",
            num_cpus=self._cpus,
            include_dashboard=self._dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=300 << 20,
            _temp_dir=str(self._folder),
        )
        self.dashboard_url = context.dashboard_url or None

    def serve(self) -> None:
        """Serve and the fleet's actors; returns when the API answers."""
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        http = {"host": self.config.serve.host, "port": self.config.serve.port}
        serve.start(http_options=http, logging_config={"enable_access_log": False})
        serve.run(self._application, name=f"fleetcast-{self.config.fleet}", route_prefix="/")

    def stop(self) -> None:
        """End Serve, close the actors' files, end Ray, remove its folder; none waits on another."""
        with ExitStack() as steps:
            if self._folder is not None:
                steps.callback(shutil.rmtree, self._folder, ignore_errors=True)
                self._folder = None
            steps.callback(ray.shutdown)
            if ray.is_initialized():
                steps.callback(topology.stop, self.config)
                steps.callback(serve.shutdown)  # the first to run: its replicas wait on the actors

    @staticmethod
    def _environment(path: Path) -> None:
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        # Ray turns token authentication on for a fresh local cluster; without a path of its own it
        # would keep the token in the home directory.
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(path.resolve())
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Threads that wait for work by spinning take the cores from the other processes.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
