"""A fleet starts only where its settings and Serve's own go together."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from actors.exposure import Exposure, check
from forecast.config import ServeConfig
from forecast.errors import ConfigError

HERE = Exposure("127.0.0.1", tls=False, haproxy=False, direct=False, ray_token=True)
ANONYMOUS = ServeConfig(allow_anonymous_loopback=True)
TOKENS = ServeConfig(tokens_file=Path("tokens.toml"))
BOTH = ServeConfig(tokens_file=Path("tokens.toml"), allow_anonymous_loopback=True)
TLS = ServeConfig(
    tokens_file=Path("tokens.toml"), tls_certificate=Path("a.pem"), tls_key=Path("a.key")
)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (ANONYMOUS, HERE),
        (ANONYMOUS, replace(HERE, host="::1")),
        (BOTH, HERE),
        (TOKENS, replace(HERE, host="0.0.0.0")),
        (TOKENS, replace(HERE, host="0.0.0.0", haproxy=True, direct=True)),
        (TLS, replace(HERE, host="0.0.0.0", tls=True)),
        (TLS, replace(HERE, host="0.0.0.0", tls=True, direct=True)),
    ],
)
def test_settings_that_go_together_start(config, found):
    check(config, found)


@pytest.mark.parametrize(
    ("config", "found", "said"),
    [
        (ANONYMOUS, replace(HERE, host="0.0.0.0"), r"listens on '0\.0\.0\.0'"),
        (BOTH, replace(HERE, host="::"), "listens on '::'"),
        (ANONYMOUS, replace(HERE, host="fleet.example"), r"listens on 'fleet\.example'"),
        (ANONYMOUS, replace(HERE, direct=True), "direct ingress"),
        (BOTH, replace(HERE, haproxy=True, direct=True), "HAProxy"),
        (TLS, HERE, "answers plain HTTP"),
        (TLS, replace(HERE, tls=True, haproxy=True, direct=True), "HAProxy mode has no TLS"),
    ],
)
def test_settings_that_would_let_strangers_in_do_not(config, found, said):
    with pytest.raises(ConfigError, match=said):
        check(config, found)


def test_a_cluster_without_rays_token_is_said_to_be_open(caplog):
    with caplog.at_level(logging.ERROR):
        check(TOKENS, replace(HERE, ray_token=False))
    assert "RAY_AUTH_MODE=token" in caplog.text
