"""POST /learning/pause and /learning/resume: a person stops learning, and lets it go on."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import Field

from forecast.http.api import Answer, json_response
from forecast.http.bodies import asked_of, request_id
from forecast.http.queries import Asked
from forecast.http.service import Service
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


def paused(state: RegistryState) -> PauseAnswer | None:
    """Who holds promotion back; None when nobody does."""
    if state.paused is None:
        return None
    return PauseAnswer.model_validate(state.paused, from_attributes=True)


def _answer(state: RegistryState) -> Response:
    return json_response(SteeredAnswer(paused=paused(state), revision=state.revision))
