"""What HTTP answers look like, problems included.

Times are RFC 3339 in UTC, lengths of time are `_seconds` numbers. A field that has nothing to say
is null, never left out. What can be asked stands in `forecast.http.queries`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json


def rfc3339(seconds_utc: float) -> str:
    """Epoch seconds as UTC text.

    >>> rfc3339(1767225600)
    '2026-01-01T00:00:00Z'
    """
    moment = datetime.fromtimestamp(seconds_utc, UTC)
    precision = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


class Answer(BaseModel):
    """Base of answers; a number that is not finite becomes null."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="null"
    )


SeriesStatus = Literal["ok", "warming_up", "fallback", "stale", "unknown"]
"""ok: answered as asked. fallback: by a baseline instead. warming_up: the server has too little
history yet. stale: the server, or the whole stream, has fallen silent. unknown: no such series."""

Fallback = Literal["seasonal_naive", "copy_last"]


class Member(Answer):
    """Who made a forecast."""

    member: str
    version: int | None
    weight: float


class Breach(Answer):
    """How likely a limit is crossed, from the quantiles taken as a piecewise linear distribution.

    Beyond the outer levels the nearest slope goes on, so far-away limits have probability 0.
    """

    above: float | None
    below: float | None
    probability: list[float]
    """Of each step by itself."""
    any_step_at_least: float
    """The likeliest step's. The chance that any step crosses is this or higher: how steps hang
    together is not known from quantiles."""


class SeriesForecast(Answer):
    """One series' forecast, or why there is none."""

    server: str
    metric: str | None
    """null only for an unknown server that was asked for as a whole."""
    unit: str | None
    status: SeriesStatus
    detail: str | None
    """What a person should know about the status."""
    fallback: Fallback | None
    """The baseline that answers in place of who was asked."""
    members: list[Member]
    as_of: str | None
    """What was known for the slots before this moment."""
    timestamps: list[str]
    """Begin of each forecast slot."""
    quantiles: dict[str, list[float]]
    """By level, one value per timestamp, never crossing; empty when nothing can be said."""
    missing_slots: int | None
    """Slots of history the server still lacks before a version answers for it."""
    gap_slots: int | None
    """Slots of the model's context without a value of this metric."""
    breaches: list[Breach]


class ForecastAnswer(Answer):
    """Forecasts, one entry per series asked for."""

    fleet: str
    panel: str
    revision: int
    """Of the published forecast of record; rises with every step."""
    version: int | None
    """The champion then; null before the first model. Each series names who answered for it."""
    as_of: str
    age_seconds: float
    """Wall-clock time since it was published."""
    step_seconds: int
    horizon_seconds: int
    context_slots: int
    series: list[SeriesForecast]
    warnings: list[str]


class RejectedValue(Answer):
    """One refused row, or one refused value of a row."""

    index: int
    """The row's place in the request, from 0; blank lines of NDJSON do not count."""
    metric: str | None
    reason: str
    detail: str


class IngestAnswer(Answer):
    """What became of the rows. Accepted values are kept before this is said."""

    accepted: int
    """Values, not rows."""
    rejected_count: int
    rejected: list[RejectedValue]
    """The first 100."""
    late: int
    """Accepted values for slots already closed: kept, never scored again."""
    repeated: int
    """Values that were known already."""
    clock: str | None
    """Event time: begin of the slot that half of the fleet has reached."""
    closed_until: str | None
    """Slots before this moment are closed."""


class Scores(Answer):
    """Errors of the median and the quantiles; null where nothing was compared."""

    n: int
    """Values compared."""
    mae: float | None
    rmse: float | None
    wql: float | None
    """Weighted quantile loss; lower is better."""
    coverage: dict[str, float | None]
    """Share of values within each central interval, by the share it should hold (`0.8`)."""


class HorizonAccuracy(Scores):
    """Errors so many steps ahead, the mean over targets. With one target mae and rmse have its
    unit; over several they mix units.
    """

    horizon: int | None
    """Steps ahead; null: all of them together."""
    targets: dict[str, Scores]


class MemberAccuracy(Answer):
    """One member's errors: on the same series and times as every other that was there then."""

    member: str
    pooled: HorizonAccuracy
    horizons: list[HorizonAccuracy]


class VersionAccuracy(Answer):
    """The members while one version was champion."""

    version: int
    members: list[MemberAccuracy]


class AccuracyAnswer(Answer):
    """Errors of the forecasts of record: the champion first, the baselines beside it."""

    since: str | None
    """Begin of the first day counted; null: the beginning."""
    scored_until: str | None
    """Slots before this moment are scored."""
    server: str | None
    metric: str | None
    members: list[MemberAccuracy]
    versions: list[VersionAccuracy]


class VersionAnswer(Answer):
    """One version of the model."""

    version: int
    kind: str
    """`base` and `retrain` (trained from nothing), `update`, or `federated`."""
    parent: int | None
    update_id: str
    status: str
    created_at: str
    bytes: int
    weights_sha256: str


class ModelsAnswer(Answer):
    """The versions kept, oldest first, and what each alias names."""

    revision: int
    aliases: dict[str, int]
    versions: list[VersionAnswer]


class UpdateAnswer(Answer):
    """One round of learning and the gate's verdict on it."""

    sequence: int
    """Its place in the audit log."""
    time: str
    """Wall-clock time of the verdict."""
    slot: int
    as_of: str | None
    """Event time of the verdict; null while the step is unknown to this replica."""
    update_id: str | None
    kind: str
    """`base`, `retrain`, `update`, or `federated`: a global version."""
    verdict: str
    """`promoted`, `rejected`, or `accepted`: on its way by a rollout."""
    version: int | None
    parent: int | None
    who: str
    reasons: list[str]
    report: dict[str, Any]
    """The gate's figures."""
    lineage: dict[str, Any]
    """What the version was trained from."""


class UpdatesAnswer(Answer):
    """Verdicts, newest first."""

    updates: list[UpdateAnswer]


class ServerAnswer(Answer):
    """One server's lifecycle."""

    name: str
    role: str
    timezone: str
    state: str
    first_seen: str | None
    """Begin of its present life; null while the step is unknown to this replica."""
    last_seen: str | None
    """End of the newest slot it was heard in."""
    missing_slots: int


class ServersAnswer(Answer):
    """Servers by name."""

    servers: list[ServerAnswer]
    next_after: str | None
    """Ask again with `after` set to this; null: no more."""


class ReadyAnswer(Answer):
    """Whether anything can answer, and what is missing for everything to."""

    ready: bool
    version: int | None
    as_of: str | None
    age_seconds: float | None
    missing: list[str]


class FieldProblem(Answer):
    """One thing wrong with a request."""

    where: str
    message: str


class Problem(Answer):
    """An error as RFC 9457 (problem details) has it, `application/problem+json`."""

    type: str
    """A page that explains it."""
    title: str
    status: int
    detail: str
    instance: str
    """The path that was asked for."""
    errors: list[FieldProblem] = []
    report: dict[str, Any] | None = None
    """The gate's, of a version that it did not let pass."""


def json_body(answer: BaseModel | Mapping[str, Any]) -> bytes:
    """An answer as JSON; a number that is not finite becomes null."""
    if isinstance(answer, BaseModel):
        return answer.model_dump_json().encode()
    return to_json(answer, inf_nan_mode="null", fallback=_plain)


def json_response(answer: BaseModel | Mapping[str, Any], *, status: int = 200) -> Response:
    """An answer as a response."""
    return Response(json_body(answer), status, media_type="application/json")


def _plain(value: Any) -> Any:  # noqa: ANN401
    """A numpy number as Python's; what is none is said in words."""
    return value.item() if hasattr(value, "item") else str(value)
