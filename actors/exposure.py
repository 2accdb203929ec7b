"""Where Serve's HTTP side really listens, and whether that goes with who may call.

A fleet's config says where it is meant to listen; where it does is decided by whoever started
Serve: a deploy file listens on every interface unless it says otherwise, and HAProxy calls the
replicas from this machine in the name of callers from anywhere.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray.serve._private import constants
from ray.serve.context import _get_global_client

from forecast.config import ServeConfig
from forecast.errors import ConfigError
from forecast.http.auth import is_loopback

log = logging.getLogger("fleetcast.exposure")


@dataclass(frozen=True, slots=True)
class Exposure:
    """How Serve meets the network."""

    host: str
    """The address that HTTP listens on."""
    tls: bool
    haproxy: bool
    direct: bool
    """Whether replicas listen themselves, with HAProxy or without."""
    ray_token: bool
    """Whether Ray's own ports, which run what they are sent, want its token."""


def exposure() -> Exposure:
    """How the running Serve meets the network; Serve has no public way to ask."""
    client = _get_global_client()
    assert client is not None
    options = client.http_config
    return Exposure(
        # None: Serve runs no proxy, and the default of a replica that listens is this machine.
        host=options.host or "127.0.0.1",
        tls=bool(options.ssl_certfile and options.ssl_keyfile),
        haproxy=constants.RAY_SERVE_ENABLE_HA_PROXY,
        direct=constants.RAY_SERVE_ENABLE_DIRECT_INGRESS,
        ray_token=is_token_auth_enabled(),
    )


def check(config: ServeConfig, found: Exposure) -> None:
    """Refuse to serve where strangers could call; raises ConfigError saying what to change."""
    if config.allow_anonymous_loopback and found.direct:
        raise ConfigError(
            "serve.allow_anonymous_loopback does not go with HAProxy or direct ingress: callers "
            "from anywhere would look like this machine. Set serve.tokens_file instead"
        )
    if config.allow_anonymous_loopback and not is_loopback(found.host):
        raise ConfigError(
            f"Serve listens on {found.host!r}, which serve.allow_anonymous_loopback forbids: set "
            "serve.tokens_file instead, or the host of Serve's http_options to 127.0.0.1 (a deploy "
            "file means 0.0.0.0 unless it says otherwise)"
        )
    if config.tls_certificate is not None and found.haproxy:
        raise ConfigError("serve.tls_certificate is set, but HAProxy mode has no TLS")
    if config.tls_certificate is not None and not found.tls:
        raise ConfigError(
            "serve.tls_certificate is set, but Serve answers plain HTTP: give its http_options "
            "ssl_certfile and ssl_keyfile"
        )
    if not found.ray_token:
        log.error(
            "Ray's token authentication is off: whoever reaches a port of this cluster can run "
            "code in it. Set RAY_AUTH_MODE=token on every node"
        )
