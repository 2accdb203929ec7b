"""Events in the whole loop: they mask what is scored, and a late one is told with the way back."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from actors import arguments
from actors.buffer import BufferActor
from actors.event_calls import EventCalls
from actors.local import LocalFleet, LocalHandle
from actors.registry import RegistryActor
from actors.rollout_calls import RolloutCalls
from forecast.errors import Conflict, UnknownVersion
from forecast.events import Event
from forecast.touched import Touched
from tests.actors.scenario import blocks, small_config, small_replay
from tests.forecast.registry_scene import artifact

REPLAY = small_replay()
STEP_MS = 300_000
START, SLOTS = REPLAY.start_slot, 12
FIRST, LAST = START + 4, START + 6
"""Of the incidents here."""


class _Calls(EventCalls, RolloutCalls):
    """The gateway's calls over a fleet in this process."""

    def __init__(self, fleet: LocalFleet) -> None:
        async def ask(role, method, *args, **kwargs):
            return await getattr(getattr(fleet, role), method).remote(*args, **kwargs)

        self._actors = SimpleNamespace(ask=ask)


def incident(first: int, last: int, **changes) -> Event:
    given = {"id": "e1", "kind": "incident", "servers": (), **changes}
    return Event(start_ms=first * STEP_MS, end_ms=(last + 1) * STEP_MS, **given)


def config_of(folder, **learning):
    """Hardly trained, and nothing learned later: only what is scored counts here."""
    config = small_config(folder, REPLAY, enabled=False, **learning)
    training = config.training.model_copy(update={"max_steps": 2})
    return config.model_copy(update={"training": training})


async def _play(config, told, *, restarts=()):
    """A fleet after the stream; `told` holds events by the slot after which they are told."""
    fleet = LocalFleet(config, now=lambda: 0.0)
    for request_id, block in blocks(REPLAY, slots=SLOTS):
        await fleet.append(request_id, block)
        slot = int(request_id.removeprefix("slots-"))
        if slot in told:
            await _Calls(fleet).tell_events([told[slot]], "ann")
        if slot in restarts:
            await fleet.close()
            fleet = LocalFleet(config, now=lambda: 0.0)
    return fleet


async def test_masked_slots_are_not_scored_from_when_they_were_known_on_through_restarts_too(
    tmp_path,
):
    none, in_time, late, too_late = sorted(blocks(REPLAY, slots=0)[0][1].servers)
    # The clock is at the slot that came in last; steps are made up to the one before it.
    told = {
        slot: incident(FIRST, LAST, id=name, servers=(name,))
        for slot, name in ((FIRST, in_time), (LAST, late), (LAST + 1, too_late))
    }
    fleet = await _play(config_of(tmp_path), told, restarts=(FIRST, LAST + 1))

    async def scored(server):
        report = await fleet.ledger.accuracy.remote(since_slot=None, server=server, target=None)
        return next(one.pooled.n for one in report.members if one.member == "champion")

    whole = await scored(none)
    lost = [whole - await scored(name) for name in (in_time, late, too_late)]
    # A slot was forecast from the origins before it, at most a horizon: the last ones from most.
    assert lost[0] > lost[1] > lost[2] == 0
    await fleet.close()


def _registry(folder, fleet):
    """Versions 1 to 4, each promoted, trained on 100 slots up to 100 times its number."""
    registry = RegistryActor(**arguments.registry(fleet))
    for version in (1, 2, 3, 4):
        made = artifact(
            f"u{version}", parent=version - 1, fingerprint=fleet.panel.schema_of().fingerprint()
        )
        lineage = {"trained_from_slot": 100 * version - 99, "trained_to_slot": 100 * version}
        lineage |= made.manifest["lineage"]
        made = replace(made, manifest={**made.manifest, "lineage": lineage})
        at = {"update_id": f"u{version}", "slot": 100 * version}
        registry._registry.register(made, **at)
        registry._registry.promote(version, reasons=("better",), who="gate", **at)
    return LocalHandle(registry)


async def test_an_incident_reported_late_names_who_learned_from_it_and_the_way_back(tmp_path):
    config = small_config(tmp_path, REPLAY)
    config.panel_dir.mkdir(parents=True)
    buffer = LocalHandle(BufferActor(**arguments.buffer(config)))
    [(request_id, block)] = blocks(REPLAY, slots=0)[:1]
    await buffer.append.remote(request_id, block)
    fleet = SimpleNamespace(buffer=buffer, registry=_registry(tmp_path, config))
    calls = _Calls(fleet)

    [(report, found)] = await calls.tell_events([incident(150, 250)], "ann")
    assert report.late == (150, 250)
    assert found == Touched(versions=(2, 3), way_back=1)
    [(again, same)] = await calls.tell_events([incident(150, 250)], "ann")
    assert (again.changed, same) == (False, found)
    [(_, first)] = await calls.tell_events([incident(1, 9, id="e2")], "ann")
    assert first == Touched(versions=(1,), way_back=None)  # there is nothing before the first
    [(_, ahead)] = await calls.tell_events([incident(10**7, 10**7, id="e3")], "ann")
    assert ahead is None  # not late: nobody can have learned from it

    state = await calls.rollback(found.way_back, "learned from an incident", "ann", "key-1")
    assert (state.champion, state.line) == (1, (1,))
    assert str(state.paused).startswith("promotion is paused by ann since slot")
    assert await calls.rollback(found.way_back, "again", "ann", "key-1") == state
    [(_, now)] = await calls.tell_events([incident(150, 250)], "ann")
    assert now == Touched((), None)  # who learned from it does not serve any more
    with pytest.raises(UnknownVersion):
        await calls.rollback(77, "no such version", "ann", "key-2")
    with pytest.raises(Conflict, match="no previous version"):
        await calls.rollback(None, "further", "ann", "key-3")
    log = (tmp_path / "servers" / "audit" / "audit.jsonl").read_text()
    assert log.count('"kind":"event_late"') == 2  # each event once
    assert log.count('"who":"ann"}\n') == 3
    for each in (fleet.buffer, fleet.registry):
        await each.close.remote()


async def test_going_back_to_a_damaged_version_is_a_conflict_that_says_so(tmp_path):
    config = small_config(tmp_path, REPLAY)
    config.panel_dir.mkdir(parents=True)
    buffer = LocalHandle(BufferActor(**arguments.buffer(config)))
    fleet = SimpleNamespace(buffer=buffer, registry=_registry(tmp_path, config))
    for path in config.artifacts_dir.rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    with pytest.raises(Conflict, match="sha256"):
        await _Calls(fleet).rollback(3, "worse", "ann", "key-1")
    assert (await fleet.registry.state.remote()).champion == 4
    for each in (fleet.buffer, fleet.registry):
        await each.close.remote()


async def test_a_deploy_holds_alarms_for_as_long_as_the_config_says(tmp_path):
    config = small_config(tmp_path, REPLAY, deploy_hold_minutes=10)
    fleet = LocalFleet(config, now=lambda: 0.0)
    for request_id, block in blocks(REPLAY, slots=0):
        await fleet.buffer.append.remote(request_id, block)
    deploy = Event("d", "deploy", START * STEP_MS, None)
    await fleet.buffer.tell.remote([deploy])
    held = [len(await fleet.buffer.held.remote(START + ahead)) for ahead in (-1, 0, 2, 3)]
    assert held == [0, 4, 4, 0]
    await fleet.close()
