"""What can be asked over HTTP.

Strict: a key nobody knows or a number written as text is refused, because a typo that is ignored
gives a right answer to another question. Times are RFC 3339 with an offset; durations are `90s`,
`5m`, `1h`, `7d`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from forecast.config import seconds

MOST_SERIES = 20_000
MOST_VALUES = 4096
"""A week of context, a day and more to spare, at 5 minutes."""

Name = Annotated[str, Field(min_length=1, max_length=512)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _duration(text: str) -> str:
    if len(text) > 12 or seconds(text) < 1:
        raise ValueError(f"write a duration as 30s, 5m, 6h or 14d, not {text!r:.40}")
    return text


Duration = Annotated[str, AfterValidator(_duration)]


class Asked(BaseModel):
    """Base of requests: strict, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True
    )


class ForecastQuery(BaseModel):
    """The query of GET /forecast."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    server: list[Name] = Field(default=[], max_length=200)
    """Servers; none is the whole fleet. May be given several times."""
    metric: list[Name] = Field(default=[], max_length=100)
    """Metrics; none is every target."""
    horizon: Duration | None = None
    """How far ahead; unset, as far as the model looks."""


class AccuracyQuery(BaseModel):
    """The query of GET /accuracy."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    since: Name | None = None
    """A time, or a duration back from the newest forecast; unset, since the beginning."""
    server: Name | None = None
    metric: Name | None = None


class UpdatesQuery(BaseModel):
    """The query of GET /learning/updates."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    limit: int = Field(default=50, ge=1, le=1000)
    since: Name | None = None
    """A time, or a duration back from the newest forecast."""


class ServersQuery(BaseModel):
    """The query of GET /servers."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    state: Literal["warming_up", "active", "stale", "retired"] | None = None
    role: str | None = None
    after: str = ""
    """Names after this one, for the next page."""
    limit: int = Field(default=1000, ge=1, le=10_000)


class SeriesKey(Asked):
    """One series, or with no metric every target of a server."""

    server: Name
    metric: Name | None = None


class Threshold(Asked):
    """A limit: how likely is a value above, or below, it?"""

    metric: Name | None = None
    """Only this metric's series; unset, every one."""
    above: Finite | None = None
    below: Finite | None = None

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("give either above or below")
        return self


class InlineContext(Asked):
    """Values of one metric of one server, to forecast from instead of what was ingested.

    Values that reach a day and a week further back than the model's context give it the values of
    the same time yesterday and last week.
    """

    server: Name
    metric: Name
    start: AwareDatetime
    step: Duration
    values: list[Finite | None] = Field(min_length=1, max_length=MOST_VALUES)
    """One per step from `start` on; null is a gap."""
    role: str = Field(default="", max_length=512)
    timezone: Name = "UTC"


class ForecastRequest(Asked):
    """The body of POST /forecast. By default the newest windows, forecast now by the champion."""

    series: list[SeriesKey] | None = Field(default=None, min_length=1, max_length=MOST_SERIES)
    """Unset: the whole fleet, or with `context` what it gives."""
    horizon: Duration | None = None
    quantiles: list[Finite] | None = Field(default=None, min_length=1, max_length=99)
    """Levels between the model's outer ones; unset, the model's own."""
    model: str = Field(
        default="champion",
        pattern="^(champion|ensemble|quantile_network|least_squares|climatology|seasonal_naive"
        "|copy_last|[0-9]{1,9})$",
    )
    """`champion` or a version's number: computed now. `ensemble`, `quantile_network`,
    `least_squares`, `climatology`, `seasonal_naive` or `copy_last`: the forecast of record, with
    or without `record`."""
    as_of: AwareDatetime | None = None
    """Forecast as if this were now, from what was known for the slots before it."""
    context: list[InlineContext] | None = Field(default=None, min_length=1, max_length=1000)
    """What-if: forecast from these values. Nothing of them is kept."""
    thresholds: list[Threshold] = Field(default=[], max_length=20)
    record: bool = False
    """Answer with the forecast of record instead of computing one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.as_of is not None and self.context is not None:
            raise ValueError("as_of and context exclude each other")
        elsewhere = self.as_of is not None or self.context is not None
        if elsewhere and self.record:
            raise ValueError("there is no forecast of record for as_of or context")
        if elsewhere and self.version is None and self.model != "champion":
            raise ValueError("as_of and context need champion or a version as model")
        if self.record and self.version is not None:
            raise ValueError("the forecast of record knows its members by name, no versions")
        return self

    @property
    def computed(self) -> bool:
        """Whether it is asked for what is computed now; the other members are only of record."""
        return not self.record and (self.model == "champion" or self.version is not None)

    @property
    def version(self) -> int | None:
        """The version asked for by number."""
        return int(self.model) if self.model.isdigit() else None
