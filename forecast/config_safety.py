"""The keys of `[twin]`, `[breaker]` and `[notify]`: what guards learning, and who is told."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from forecast.section import Section


class TwinConfig(Section):
    """The frozen twin: the base, scored for ever on a few servers, beside the champion."""

    enabled: bool = True
    share: float = Field(default=0.05, gt=0, le=1)
    """Of each role's servers, at least one; of the fleet at least 12."""
    hours: int = Field(default=72, ge=0)
    """With the champion below the twin for so long, beyond noise, the anchor is restored and
    promotion pauses; 0: the gain is only told."""


class BreakerConfig(Section):
    """The circuit breaker: updates stop after failures, and serving goes on."""

    enabled: bool = True
    failures: int = Field(default=5, ge=1)
    """So many failed trainings, unusable challengers and rollbacks ..."""
    window_hours: int = Field(default=24, ge=1)
    """... within so long open it."""
    cooldown_hours: int = Field(default=6, ge=1)
    """After so long one training is tried; where that fails, so long again."""


class NotifyConfig(Section):
    """Who is told when people should look."""

    webhook_url: SecretStr | None = None
    """Where notices go as JSON by POST; unset: to the log, the API and the metrics alone."""
    timeout_seconds: int = Field(default=10, ge=1)
    tries: int = Field(default=6, ge=1)
    """A notice that is not taken so often is given up, and counted."""

    @field_validator("webhook_url")
    @classmethod
    def _http(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("https://", "http://")):
            raise ValueError("a webhook's address begins with https:// or http://")
        return url
