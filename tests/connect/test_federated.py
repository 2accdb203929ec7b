"""A fleet's way to a remote aggregator: a token of its own, and only where nobody listens in."""

from __future__ import annotations

import pytest

from connect.federated import SiteClient
from forecast.errors import ConfigError


def token_for(url: str) -> str | None:
    made = SiteClient.of_fleet(url, patience_s=0.0)
    made.close()
    return made.token


def test_the_token_is_the_federations_own_and_no_other_is_sent(monkeypatch):
    monkeypatch.delenv("FLEETCAST_FEDERATION_TOKEN", raising=False)
    monkeypatch.setenv("FLEETCAST_TOKEN", "of this fleet")
    assert token_for("https://centre:8000") is None
    monkeypatch.setenv("FLEETCAST_FEDERATION_TOKEN", "of the federation")
    assert token_for("https://centre:8000") == "of the federation"


def test_a_token_goes_over_no_network_without_encryption(monkeypatch):
    monkeypatch.setenv("FLEETCAST_FEDERATION_TOKEN", "secret")
    for here in ("http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]:8000"):
        assert token_for(here) == "secret"
    for elsewhere in ("http://centre:8000", "http://10.0.0.1", "http://localhost.centre"):
        with pytest.raises(ConfigError, match="a token goes over https only") as refused:
            token_for(elsewhere)
        assert "secret" not in str(refused.value)
    monkeypatch.delenv("FLEETCAST_FEDERATION_TOKEN")
    assert token_for("http://centre:8000") is None
