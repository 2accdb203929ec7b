"""GET /learning, POST /learning/pause and /resume: what holds learning back, what it brought."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from forecast.http.api import Answer, json_response
from forecast.http.bodies import asked_of, request_id
from forecast.http.gain import LearningGain, gain_of
from forecast.http.queries import Asked
from forecast.http.series import end_of
from forecast.http.service import Service
from forecast.record import Snapshot
from forecast.versions import RegistryState


class ReasonRequest(Asked):
    """The body of a change that needs nothing but a reason."""

    reason: str = Field(min_length=1, max_length=1000)
    """For the audit log."""


class PauseAnswer(Answer):
    """Who holds promotion back."""

    who: str
    reason: str
    slot: int
    learning: bool
    """Whether no training starts either."""


class BreakerAnswer(Answer):
    """The circuit breaker."""

    enabled: bool
    state: Literal["closed", "open", "half_open"]
    """open: no update starts. half_open: one is let through, to see how it ends."""
    failures: int
    """That count towards opening it."""
    opened_at: str | None
    probe_at: str | None
    """When a training is let through."""


class LearningAnswer(Answer):
    """Where learning stands. What the controller knows is null while it does not answer."""

    paused: PauseAnswer | None
    breaker: BreakerAnswer | None
    gain: LearningGain | None


class SteeredAnswer(Answer):
    """What holds after the change."""

    paused: PauseAnswer | None
    revision: int


def steering_routes(service: Service) -> APIRouter:
    """POST /learning/pause, /learning/resume."""
    router = APIRouter()

    @router.post("/learning/pause", responses={200: {"model": SteeredAnswer}})
    async def pause(request: Request) -> Response:
        """Start no training and promote nothing until resumed; what serves goes on serving."""
        asked = await asked_of(request, ReasonRequest)
        who = request.state.principal.name
        return _answer(await service.pause(asked.reason, who, request_id(request)))

    @router.post("/learning/resume", responses={200: {"model": SteeredAnswer}})
    async def resume(request: Request) -> Response:
        """Lift a pause, a rollback's too, and close an open circuit breaker."""
        asked = await asked_of(request, ReasonRequest)
        who = request.state.principal.name
        return _answer(await service.resume(asked.reason, who, request_id(request)))

    return router


def reading_routes(service: Service) -> APIRouter:
    """GET /learning."""
    router = APIRouter()

    @router.get("/learning", responses={200: {"model": LearningAnswer}})
    async def learning() -> Response:
        """Who holds learning back, where the circuit breaker stands, and what learning brought."""
        told, snapshot = await service.learning(), await service.snapshot()
        return json_response(
            LearningAnswer(
                paused=paused(await service.models()),
                breaker=_breaker(told, snapshot),
                gain=gain_of(told, snapshot),
            )
        )

    return router


def _breaker(told: Mapping[str, Any] | None, snapshot: Snapshot | None) -> BreakerAnswer | None:
    if told is None:
        return None
    found = told["breaker"]
    return BreakerAnswer(
        enabled=found["enabled"],
        state=found["state"],
        failures=found.get("failures", 0),
        opened_at=end_of(found.get("opened_slot"), snapshot),
        probe_at=end_of(found.get("probe_slot"), snapshot),
    )


def paused(state: RegistryState) -> PauseAnswer | None:
    """Who holds promotion back; None when nobody does."""
    if state.paused is None:
        return None
    return PauseAnswer.model_validate(state.paused, from_attributes=True)


def _answer(state: RegistryState) -> Response:
    return json_response(SteeredAnswer(paused=paused(state), revision=state.revision))
