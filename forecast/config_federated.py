"""The keys of `[federated]`: how sites' updates are merged, and how a site learns at home."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from forecast.durations import Duration
from forecast.section import Section

_FEWEST_TO_TRIM, _MOST_SORTED = 5, 32
"""Sites of which a trimmed mean is made: fewer never step, and of more a sample decides."""
SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class SiteConfig(Section):
    """The keys of `[federated.site]`: how a site learns at home."""

    hours: int = Field(default=336, ge=1)
    """An update draws its windows from the last so many."""
    windows: int = Field(default=320, ge=1)
    """Of one update."""
    holdout_hours: int = Field(default=24, ge=1)
    """Of the newest windows: never learned from, scored on."""
    own_windows: int = Field(default=1024, ge=1)
    """What the site's own correction learns from."""
    learning_rate: float = Field(default=1e-2, gt=0)
    own_learning_rate: float = Field(default=3e-3, gt=0)
    """Of the correction."""
    epochs: int = Field(default=1, ge=1)
    own_epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=32, ge=1)
    gradient_clip: float = Field(default=1.0, gt=0)
    proximal_weight: float = Field(default=0.0, ge=0)
    """FedProx: how much it costs to leave the global weights; 0: nothing."""


class HomeConfig(Section):
    """The keys of `[federated.home]`: this fleet itself as a site, on its own live buffer."""

    site: SiteName | None = None
    """Its name; unset: the fleet is no site."""
    aggregator: str | None = Field(default=None, pattern=r"^https?://[^\s/@]+[^\s@]*$")
    """Another process's address; unset: this fleet's own, which `enabled` makes."""
    per_server: bool = False
    """A site for each server, named `SITE.SERVER`."""
    every: Duration = 3600
    """Event time from one update to the next."""


class FederatedConfig(Section):
    """One aggregator and its sites. Off by default."""

    enabled: bool = False
    """Whether this fleet runs the aggregator and its routes."""
    sites: tuple[SiteName, ...] | None = None
    """Who may send updates; unset, whoever has a token with the scope `federate`."""
    rule: Literal["mean", "median", "trimmed_mean"] = "mean"
    trim: float = Field(default=0.2, gt=0, lt=0.5)
    optimizer: Literal["plain", "momentum", "adam", "yogi"] = "plain"
    learning_rate: float = Field(default=1.0, gt=0)
    """Of the step at the centre."""
    updates: int | None = Field(default=None, ge=1)
    """A round ends when so many were accepted; unset, one of each of `sites`, or 10."""
    quorum: int = Field(default=2, ge=1)
    """Sites that a round needs, and that a merged model must not be worse for."""
    deadline: Duration = 600
    """A round that has its quorum ends so long after its first update, by the wall clock."""
    per_site: int = Field(default=4, ge=1)
    """Updates of one site that a round takes."""
    most_staleness: int = Field(default=5, ge=0)
    """Accepted versions that an update's base may lie back."""
    gated: bool = True
    """Whether sites score a merged model before it is the global one."""
    score_deadline: Duration = 600
    """So long after the step the scores that came decide, by the wall clock."""
    worse: float = Field(default=0.02, ge=0, le=0.05)
    """A site for which a merged model is worse by more keeps what it has."""
    decay_rounds: int = Field(default=0, ge=0)
    """Over so many versions the sites' learning rate falls to a tenth; 0: it stays."""
    compression: Literal["float32", "bf16", "int8"] = "float32"
    """How sites send their deltas; int8 is a quarter of the bytes, with error feedback."""
    max_update_mb: int = Field(default=16, ge=1, le=1024)
    """A longer update is refused before it is read."""
    keep_rounds: int = Field(default=200, ge=1, le=10_000)
    """Rounds whose reports are kept; a site that is silent for so long is forgotten."""
    site: SiteConfig = SiteConfig()
    home: HomeConfig = HomeConfig()

    @model_validator(mode="after")
    def _home_has_an_aggregator(self) -> FederatedConfig:
        name, address = self.home.site, self.home.aggregator
        if name is None:
            if address is not None:
                raise ValueError("federated.home.aggregator is set, but federated.home.site is not")
            return self
        if address is None and not self.enabled:
            raise ValueError(
                f"federated.home.site = {name!r} has no aggregator: set federated.home.aggregator "
                "to an address, or federated.enabled = true for this fleet's own"
            )
        own = address is None and not self.home.per_server
        if own and self.sites is not None and name not in self.sites:
            raise ValueError(
                f"federated.home.site = {name!r} is none of federated.sites: its updates would be "
                "refused"
            )
        return self

    @model_validator(mode="after")
    def _quorum_can_be_reached(self) -> FederatedConfig:
        if self.sites is not None and len(set(self.sites)) < max(1, self.quorum):
            raise ValueError(f"federated.quorum = {self.quorum}, but sites has {len(self.sites)}")
        return self

    @model_validator(mode="after")
    def _something_is_left_of_a_trimmed_mean(self) -> FederatedConfig:
        if self.rule != "trimmed_mean":
            return self
        most = _MOST_SORTED if self.sites is None else len(set(self.sites))
        counts = range(_FEWEST_TO_TRIM, min(most, _MOST_SORTED) + 1)
        if not any(2 * math.ceil(self.trim * count) < count for count in counts):
            raise ValueError(
                f"federated.rule = trimmed_mean with trim = {self.trim:g} needs {_FEWEST_TO_TRIM} "
                f"sites or more, of which some are left: of at most {most} none are"
            )
        return self

    @property
    def updates_per_round(self) -> int:
        """When a round ends."""
        return self.updates or (10 if self.sites is None else len(self.sites))
