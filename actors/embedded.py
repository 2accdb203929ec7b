"""Ray and Serve on this machine for one fleet: started by us, and ended by us alone."""

from __future__ import annotations

import logging
import os
import shutil
import ssl
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray import serve
from ray._private import ray_constants
from ray.serve import Application

from actors import topology
from actors.ray_folder import new_folder, write_token
from forecast.config import Config, ServeConfig
from forecast.errors import ConfigError, StateError
from forecast.http.auth import is_loopback

log = logging.getLogger("fleetcast.embedded")

_REQUEST_S = 120.0
"""Serve gives up a request after so long; longer than a body may take and a client waits."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class Embedded:
    """A context manager around a local Ray cluster that serves `config`.

    It never joins a cluster that is already there, so leaving it ends what it started and nothing
    else. Ray's own files go to a temporary folder, its token to the fleet's state. Ray itself
    listens on loopback, the API where the config says. Raises ConfigError for a certificate that
    cannot serve.
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
        self._http = _http_options(config.serve)
        self._application = application
        self.dashboard_url: str | None = None
        self._dashboard = dashboard
        self._cpus = cpus or max(2, os.cpu_count() or 2)
        self.folder: Path | None = None

    @property
    def url(self) -> str:
        """Where the API answers."""
        told = self.config.serve
        host = _EVERYWHERE.get(told.host, told.host)
        scheme = "http" if told.tls_certificate is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{told.port}"

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
        self.folder = new_folder()
        context = ray.init(
            address="local",
            num_cpus=self._cpus,
            include_dashboard=self._dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=300 << 20,
            _temp_dir=str(self.folder),
        )
        self.dashboard_url = context.dashboard_url or None

    def serve(self) -> None:
        """Serve and the fleet's actors; returns when the API answers.

        Raises StateError with the first error of a replica that cannot start.
        """
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        told = self.config.serve
        if told.tls_certificate is None and not is_loopback(told.host):
            log.warning("%s is open to the network without TLS: tokens can be read", self.url)
        serve.start(http_options=self._http, logging_config={"enable_access_log": False})
        name = f"fleetcast-{self.config.fleet}"
        try:
            serve.run(self._application, name=name, route_prefix="/")
        except RuntimeError as error:
            raise StateError(_why_not(name) or str(error)) from error

    def stop(self) -> None:
        """End Serve, close the actors' files, end Ray, remove its folder; none waits on another."""
        with ExitStack() as steps:
            if self.folder is not None:
                steps.callback(shutil.rmtree, self.folder, ignore_errors=True)
                self.folder = None
            steps.callback(ray.shutdown)
            if ray.is_initialized():
                steps.callback(topology.stop, self.config)
                steps.callback(serve.shutdown)  # the first to run: its replicas wait on the actors

    @staticmethod
    def _environment(path: Path) -> None:
        if not path.exists():
            write_token(path)
        # Ray turns token authentication on for a fresh local cluster where nobody said anything,
        # and here nobody may: Serve's replicas listen to the network and run what they are sent.
        os.environ.pop("RAY_AUTH_MODE", None)
        # Without a path of its own Ray would keep the token in the home directory.
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(path.resolve())
        # Every process of this cluster is on this machine, so Ray needs no other address of it. Ray
        # takes 127.0.0.1 for one from nobody, but chooses it itself where clusters are off. It read
        # that setting when it was imported; its processes read it when they start.
        os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
        ray_constants.ENABLE_RAY_CLUSTER = False
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Threads that wait for work by spinning take the cores from the other processes.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _why_not(name: str) -> str:
    """The last lines of what kept a deployment from starting; empty when none says."""
    status = serve.status().applications.get(name)
    for deployment, found in ({} if status is None else status.deployments).items():
        if found.message:
            return f"{deployment} does not start: {found.message.strip().splitlines()[-1]}"
    return ""


def _http_options(config: ServeConfig) -> dict[str, Any]:
    """Serve's HTTP options; raises ConfigError for a certificate or key that cannot serve."""
    options = {"host": config.host, "port": config.port, "request_timeout_s": _REQUEST_S}
    certificate, key = config.tls_certificate, config.tls_key
    if certificate is None and key is None:
        return options
    if certificate is None or key is None:
        raise ConfigError("serve.tls_certificate and serve.tls_key go together: set both")
    for name, path in (("tls_certificate", certificate), ("tls_key", key)):
        if not os.access(path, os.R_OK) or not path.is_file():
            raise ConfigError(f"serve.{name}: {path} is no file that can be read")
    try:
        # Without a password for it, OpenSSL would ask at the terminal.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"serve.tls_certificate {certificate} and serve.tls_key {key} cannot serve: {error}"
        ) from error
    return {
        **options,
        "ssl_certfile": str(certificate.resolve()),
        "ssl_keyfile": str(key.resolve()),
    }
