"""The keys of `[online_learning]` that say when is learned, and what waits for what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from forecast.hours import Hours


def _hours(text: str) -> str:
    if text != "learned":
        Hours.parse(text)
    return text


class Scheduling(BaseModel):
    """When updates and retrains start, and what they leave to forecasts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    update_window: Annotated[str, AfterValidator(_hours)] | None = None
    """Hours in which trainings may start: `22:00-06:00` (UTC), `22:00-06:00 Europe/Berlin`, or
    `learned`, the 8 hours in a row in which the fleet is least busy; unset: at any time."""
    update_nice: int = Field(default=0, ge=0, le=19)
    """How far an update's thread gives way to Serve, as `nice` counts; full trainings do by 10."""
    update_threads: int | None = Field(default=None, ge=1)
    """Torch's threads in an update; unset, as many as `training.threads`."""
    retrain_start: Literal["scratch", "warm"] = "scratch"
    """A retrain begins from nothing, or from the champion's weights at a tenth of the rate."""
    deploy_hold_minutes: int = Field(default=120, ge=0)
    """How long after a deploy a drift alarm of its servers is held."""
