"""What a fleet on this machine answers under, before anything starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from actors.embedded import Embedded
from forecast.config import Config, ServeConfig
from forecast.errors import ConfigError
from tests.actors.scenario import small_config, small_replay


def pair(folder: Path, name: str, *more: str) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 -subj /CN=a"
    )
    written = ["-out", str(cert), "-keyout", str(key)]
    wanted = [*command.split(), *(more or ("-nodes",)), *written]
    subprocess.run(wanted, check=True, capture_output=True)
    return cert, key


def embedded(folder: Path, **serve) -> Embedded:
    config: Config = small_config(folder, small_replay())
    section = ServeConfig(allow_anonymous_loopback=True, port=8123, **serve)
    return Embedded(config.model_copy(update={"serve": section}), None)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8123"),
        ("0.0.0.0", "http://127.0.0.1:8123"),
        ("::", "http://[::1]:8123"),
        ("fleet.example", "http://fleet.example:8123"),
    ],
)
def test_the_url_is_one_that_this_machine_can_call(tmp_path, host, url):
    assert embedded(tmp_path, host=host).url == url


def test_with_a_certificate_the_url_is_https(tmp_path):
    cert, key = pair(tmp_path, "a")
    assert embedded(tmp_path, tls_certificate=cert, tls_key=key).url == "https://127.0.0.1:8123"


def test_a_certificate_that_cannot_serve_is_refused_before_anything_starts(tmp_path):
    (cert, key), (_, foreign) = pair(tmp_path, "a"), pair(tmp_path, "b")
    locked = pair(tmp_path, "c", "-passout", "pass:secret")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    wrong = [
        ({"tls_certificate": cert}, "go together"),
        ({"tls_key": key}, "go together"),
        ({"tls_certificate": cert, "tls_key": foreign}, "cannot serve.*(?i:mismatch)"),
        ({"tls_certificate": text, "tls_key": key}, "cannot serve"),
        ({"tls_certificate": locked[0], "tls_key": locked[1]}, "cannot serve"),
        ({"tls_certificate": tmp_path / "none", "tls_key": key}, r"tls_certificate: .*none is no"),
        ({"tls_certificate": cert, "tls_key": tmp_path}, "serve.tls_key: .* is no file"),
    ]
    for serve, said in wrong:
        with pytest.raises(ConfigError, match=said):
            embedded(tmp_path, **serve)
