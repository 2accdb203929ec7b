"""The keys of twin, breaker and webhook: defaults, and what is refused."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from actors import arguments
from forecast.config import Config

PANEL = {"targets": ("cpu",), "metrics": ({"name": "cpu"},)}
URL = "https://hooks.example.com/a-secret"


def config(**sections):
    return Config.model_validate({"state_dir": "s", "panel": PANEL, **sections})


def test_twin_and_breaker_are_on_and_their_lengths_are_in_slots_for_the_controller():
    settings = arguments.settings(config())
    assert (settings.twin_share, settings.twin_hours) == (0.05, 72)
    assert (settings.breaker.failures, settings.breaker.window) == (5, 24 * 12)
    assert settings.breaker.cooldown == 6 * 12
    assert (settings.gain().block, settings.gain().blocks) == (12, 72)
    off = arguments.settings(config(twin={"enabled": False}, breaker={"enabled": False}))
    assert (off.twin_share, off.breaker) == (0.0, None)


def test_the_webhooks_address_reaches_the_controller_and_is_shown_nowhere():
    told = config(notify={"webhook_url": URL})
    assert arguments.controller(told)["webhook"] == {"url": URL, "timeout_s": 10, "tries": 6}
    assert "a-secret" not in json.dumps(told.model_dump(mode="json")) + repr(told)
    assert arguments.controller(config())["webhook"] is None


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("notify", "webhook_url", "ftp://hooks.example.com"),
        ("notify", "tries", 0),
        ("twin", "share", 0),
        ("twin", "hours", -1),
        ("breaker", "failures", 0),
        ("breaker", "reset", True),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(section, key, value):
    with pytest.raises(ValidationError, match=key):
        config(**{section: {key: value}})
