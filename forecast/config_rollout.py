"""The keys of `[rollout]`: how an accepted version goes to everyone."""

from __future__ import annotations

from pydantic import Field

from forecast.durations import Duration
from forecast.section import Section


class RolloutConfig(Section):
    """Shadow, then a canary cohort, then everyone. Lengths are event time."""

    enabled: bool = False
    """Off: a version that the gate lets pass is champion at once."""
    shadow: Duration = 7200
    """How long it forecasts beside the champion and answers nobody; 0: not at all."""
    canary: Duration = 1800
    """How long it then answers for the canary cohort."""
    canary_share: float = Field(default=0.05, gt=0, lt=1)
    """Of the servers: the same ones each time, by a hash of their names."""
    fast_shadow: Duration = 5400
    fast_canary: Duration = 900
    """The same after a confirmed drift, when what serves is known to be wrong."""
