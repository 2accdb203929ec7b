"""What a gateway asks of the actors for those who steer learning."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from actors import arguments
from actors.learning_calls import LearningCalls
from actors.local import LocalHandle
from actors.registry import RegistryActor
from forecast.errors import Busy, Conflict, UnknownVersion
from tests.actors.scenario import small_config, small_replay
from tests.forecast.registry_scene import artifact

REPLAY = small_replay()
DAY = 288


class _Buffer:
    async def numbers(self):
        return {"closed_slot": 40 * DAY}


class _Controller:
    async def status(self):
        return {"breaker": {"state": "closed"}}


class _Calls(LearningCalls):
    """The gateway's calls over some actors; who is not among them is silent."""

    def __init__(self, **actors) -> None:
        async def ask(role, method, *args, **kwargs):
            if role not in actors:
                raise Busy(f"the {role} does not answer")
            return await getattr(LocalHandle(actors[role]), method).remote(*args, **kwargs)

        self._actors = SimpleNamespace(ask=ask)


@pytest.fixture
def registry(tmp_path):
    """Versions 1 to 40, one promoted a day."""
    config = small_config(tmp_path, REPLAY)
    actor = RegistryActor(**arguments.registry(config))
    for day in range(40):
        update_id, slot = f"u{day}", day * DAY
        made = artifact(update_id, fingerprint=config.panel.schema_of().fingerprint())
        version = actor._registry.register(made, update_id=update_id, slot=slot)
        actor._registry.promote(version, slot=slot, reasons=("yes",), who="gate")
    return actor


async def test_a_pause_and_a_resume_are_on_record_with_who_why_and_when(registry):
    calls = _Calls(registry=registry, buffer=_Buffer())
    state = await calls.pause("audit", "ann", "key-1")
    assert (state.paused.who, state.paused.slot, state.paused.learning) == ("ann", 40 * DAY, True)
    assert await calls.pause("again", "bob", "key-1") == state
    summary = await registry.summary()
    assert (summary["promotion_paused"], summary["paused"]["reason"]) == (True, "audit")
    assert (await calls.resume("seen", "ann", "key-2")).paused is None


async def test_who_was_champion_at_a_time_is_answered_or_refused_by_name(registry):
    calls = _Calls(registry=registry, buffer=_Buffer())
    assert await calls.champion_at(36 * DAY + 7) == 37
    with pytest.raises(UnknownVersion, match="version 6 was champion at slot"):
        await calls.champion_at(5 * DAY)
    with pytest.raises(Conflict, match="no champion at slot -1 yet"):
        await calls.champion_at(-1)


async def test_where_learning_stands_is_unknown_while_the_controller_is_silent(registry):
    assert await _Calls(registry=registry).learning() is None
    told = await _Calls(registry=registry, controller=_Controller()).learning()
    assert told == {"breaker": {"state": "closed"}}
