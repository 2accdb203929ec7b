"""How many issue forecasts of record under a config: versions, experts, and what is derived."""

from __future__ import annotations

from forecast.config import Config
from forecast.issued import DERIVED, MADE
from forecast.twin import FEWEST

EXPERTS = 4
"""Members that are no versions, but for the network: copy-last, seasonal naive, climatology, least
squares."""


def versions_beside(config: Config) -> int:
    """How many accepted versions before the champion issue beside it, and the base; 0: none."""
    return config.ensemble.versions if config.online_learning.strategy == "ensemble" else 0


def versions_of(config: Config) -> int:
    """Versions that issue at most: the champion, those beside it, the base, one on its way."""
    beside = versions_beside(config)
    return 1 + beside + bool(beside) + config.rollout.enabled


def twins_of(config: Config) -> int:
    """Servers for which the base issues as a twin, about; 0 where it issues for all."""
    if not config.twin.enabled or versions_beside(config):
        return 0
    servers = config.buffer.max_servers
    return min(servers, max(FEWEST, round(config.twin.share * servers)))


def members_of(config: Config) -> int:
    """Members whose forecasts are of record, at most, but for what people ask to see computed."""
    derived = DERIVED if not config.rollout.enabled else MADE
    network = config.ensemble.network_hours > 0
    return versions_of(config) + EXPERTS + network + len(derived)
