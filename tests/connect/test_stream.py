"""Whom the client of a fleet trusts."""

from __future__ import annotations

import pytest

from connect.stream import Client
from forecast.errors import ConfigError


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_file_without_a_certificate_to_trust_is_refused_by_name(tmp_path, text):
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"ca\.pem: no certificate to trust"):
        Client("https://localhost:1", ca_file=path)


def test_the_environment_says_the_token_and_whom_to_trust(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEETCAST_TOKEN", "abc")
    monkeypatch.setenv("FLEETCAST_CA_FILE", str(tmp_path / "absent.pem"))
    with pytest.raises(ConfigError, match=r"absent\.pem"):
        Client.from_environment("https://localhost:1")
    monkeypatch.delenv("FLEETCAST_CA_FILE")
    client = Client.from_environment("https://localhost:1")
    assert client.token == "abc"
    assert "abc" not in repr(client)
    client.close()
