"""Rollout in the whole loop: a version goes to everyone step by step, or back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from actors import arguments
from actors.local import LocalFleet, LocalHandle
from actors.rollout import RolloutLine
from actors.rollout_calls import RolloutCalls
from actors.state import ControllerState, StateFile
from forecast.artifact import pack
from forecast.errors import Conflict, PreconditionFailed
from forecast.model import Model, ModelSpec, build
from forecast.record import ForecastBlock
from forecast.rolling_out import tag_of
from forecast.rollout import Cohort, Flight, Rollouts, Share, Table
from forecast.versions import RegistryState
from forecast.window_spec import WindowSpec
from tests.actors.scenario import blocks, small_config, small_replay
from train.rollout import Trial

REPLAY = small_replay()
HISTORY, SLOTS, HORIZON = 3, 30, 6
START = REPLAY.start_slot
BEGIN = 2
"""At which streamed slot the challenger is accepted."""
CANARY = Table.canary(1, 2, 0.5)


@pytest.fixture(scope="module")
def made():
    """The stream, and of the history the last blocks."""
    return blocks(REPLAY, slots=SLOTS)[8 - HISTORY :]


def config_of(folder, *, rollback=True, **rollout):
    """Nobody learns; what is accepted is in shadow for 40 minutes and in the canary for 20."""
    config = small_config(folder, REPLAY, enabled=False, enable_rollback=rollback)
    asked = {"enabled": True, "shadow": 2400, "canary": 1200, "canary_share": 0.5, **rollout}
    asked = config.rollout.model_copy(update=asked)
    training = config.training.model_copy(update={"bootstrap_hours": 100})  # none is trained
    return config.model_copy(update={"rollout": asked, "training": training})


async def network(fleet, config, slot, *, number, shift):
    """An untrained network, the same one whatever its number; its forecasts shifted by so much."""
    schema = config.panel.schema_of()
    window = WindowSpec(300, 24, 6, schema.metrics, schema.targets, ("",))
    sizes = {"hidden_size": 4, "hidden_continuous_size": 4}
    spec = ModelSpec(window=window, quantiles=config.panel.quantiles, **sizes)
    net = build(spec, seed=1)
    with torch.no_grad():
        for name, weights in net.named_parameters():
            if name.endswith("output_bias"):
                weights.add_(shift)
    return pack(
        Model(spec, net),
        fingerprint=schema.fingerprint(),
        lineage={"kind": "base" if number == 1 else "update", "slot": slot},
        metrics={},
        probe=(await fleet.buffer.fleet.remote(slot)).select(np.arange(1)),
        created_at="2026-01-01T00:00:00+00:00",
    )


async def accept(fleet, config, number, slot, *, shift=0.0):
    """What the gate does: register the version of this number, and let it go its way."""
    artifact = await network(fleet, config, slot - 1, number=number, shift=shift)
    given = {"slot": slot, "update_id": f"update-{number}"}
    assert await fleet.registry.register.remote(artifact, **given) == number
    told = {"who": "gate", "report": {}, "reasons": ("yes",), **given}
    if number == 1:
        await fleet.registry.promote.remote(number, **told)
        return
    rules = arguments.rollout_rules(config)
    way = {"stage": rules.first(fast=False), "canary_share": rules.canary_share}
    await fleet.registry.accept.remote(number, **told, **way)


class _Seen:
    """What each slot showed: who served which server, and what the registry held."""

    def __init__(self):
        self.served, self.states, self.blocks = [], [], []

    async def look(self, fleet):
        snapshot = await fleet.ledger.latest.remote()
        self.states.append(await fleet.registry.state.remote())
        self.blocks.append({one.member: one for one in snapshot.blocks})
        ensemble, served = self.blocks[-1].get("ensemble"), {}
        for row, server in enumerate(ensemble.servers):
            shares = ensemble.weights[row].max(0)
            pairs = zip(ensemble.versions, shares, strict=True)
            served[server] = {version for version, share in pairs if version and share > 0}
        self.served.append(served)

    def stages(self):
        """(champion, stage of what is in flight) at each slot, repeats left out."""
        found = []
        for state in self.states:
            flight = state.rollout.flight
            one = (state.champion, None if flight is None else flight.stage)
            found += [one] if not found or found[-1] != one else []
        return found

    def exposed(self, version):
        """The servers that a version ever answered for."""
        return {name for served in self.served for name, by in served.items() if version in by}


async def play(config, made, *, accepted, restart=(), broken=(), slots=SLOTS):
    """Stream it; `accepted` has (number, shift) by slot, the process ends before some slots, and
    fails at the end of others, before their state is committed."""
    fleet, seen = LocalFleet(config, now=lambda: 0.0), _Seen()
    for request_id, block in made[:HISTORY]:
        await fleet.append(request_id, block)
    await accept(fleet, config, 1, START - 1)
    for at, (request_id, block) in enumerate(made[HISTORY : HISTORY + slots]):
        if at in restart:
            await fleet.close()
            fleet = LocalFleet(config, now=lambda: 0.0)
        if at in accepted:
            number, shift = accepted[at]
            await accept(fleet, config, number, START + at - 1, shift=shift)
        if at in broken:
            fleet.controller._commit = _dies
            with pytest.raises(ZeroDivisionError):
                await fleet.append(request_id, block)
            await fleet.close()
            fleet = LocalFleet(config, now=lambda: 0.0)
        await fleet.append(request_id, block)
        await seen.look(fleet)
    return seen, fleet


def _dies(state):
    raise ZeroDivisionError


@pytest.fixture(scope="module")
def good(made, tmp_path_factory):
    """A version that is no worse, undisturbed: (what was seen, the controller's last state)."""

    async def run():
        config = config_of(tmp_path_factory.mktemp("good"))
        seen, fleet = await play(config, made, accepted={BEGIN: (2, 0.0)})
        state = fleet.controller.state
        await fleet.close()
        return seen, state

    return asyncio.run(run())


def test_a_version_that_is_no_worse_goes_by_shadow_and_canary_to_everyone(good):
    seen, _ = good
    assert seen.stages() == [(1, None), (1, "shadow"), (1, "canary"), (2, None)]
    canary = {name for name in seen.served[0] if CANARY.cohort_of(name) == "canary"}
    assert 0 < len(canary) < len(seen.served[0])
    for state, served in zip(seen.states, seen.served, strict=True):
        flight = state.rollout.flight
        by_two = {name for name, versions in served.items() if versions == {2}}
        if flight is None or flight.stage == "shadow":
            assert by_two == (set(served) if state.champion == 2 else set())
        else:
            assert by_two == canary
            assert {tuple(versions) for versions in served.values()} == {(1,), (2,)}


def test_a_shadow_is_scored_beside_the_champion_calibrated_as_it_is(good):
    seen, _ = good
    shadow = seen.blocks[BEGIN + 3]
    assert shadow["challenger"].version == shadow["challenger_calibrated"].version == 2
    np.testing.assert_array_equal(shadow["challenger"].values, shadow["champion"].values)
    assert "challenger" not in seen.blocks[-1]


async def test_one_that_is_bad_live_is_back_and_never_answered_anybody(made, tmp_path):
    config = config_of(tmp_path)
    seen, fleet = await play(config, made, accepted={BEGIN: (2, 4.0)})
    assert seen.stages() == [(1, None), (1, "shadow"), (1, None)]
    assert seen.exposed(2) == set()
    [record, *_] = await fleet.registry.rollouts.remote(1)
    assert (record.detail["action"], record.who) == ("back", "rollout")
    assert "of late it loses" in record.detail["reasons"][0]
    assert record.detail["report"]["change"] > 0.5
    # Compared from the first slot on that only origins with it forecast; three such are enough.
    assert record.slot == START + BEGIN - 1 + HORIZON + 2
    await fleet.close()


async def test_without_a_shadow_stage_a_bad_one_reaches_its_canary_cohort_at_most(made, tmp_path):
    config = config_of(tmp_path, shadow=0)
    seen, fleet = await play(config, made, accepted={BEGIN: (2, 4.0)})
    assert seen.stages() == [(1, None), (1, "canary"), (1, None)]
    canary = {name for name in seen.served[0] if CANARY.cohort_of(name) == "canary"}
    assert seen.exposed(2) == canary
    assert seen.served[-1] == seen.served[0]
    await fleet.close()


async def test_with_the_way_back_switched_off_a_bad_canary_stays_until_somebody_acts(
    made, tmp_path
):
    config = config_of(tmp_path, shadow=0, rollback=False)
    seen, fleet = await play(config, made, accepted={BEGIN: (2, 4.0)}, slots=16)
    assert seen.stages() == [(1, None), (1, "canary")]
    told = fleet.controller.rollout
    assert (told["verdict"], told["reasons"][0]) == ("hold", "it goes back by hand only")
    assert told["comparison"]["change"] > 0.5
    await fleet.close()


async def test_a_newer_version_waits_supersedes_one_that_waits_and_begins_in_turn(made, tmp_path):
    accepted = {BEGIN: (2, 4.0), BEGIN + 2: (3, 0.0), BEGIN + 4: (4, 0.0)}
    seen, fleet = await play(config_of(tmp_path), made, accepted=accepted)
    flights = [state.rollout.flight for state in seen.states]
    assert {one.version for one in flights if one is not None} == {2, 4}
    state = await fleet.registry.state.remote()
    assert (state.champion, state.rollout.versions) == (4, set())
    assert [info.version for info in state.versions] == [1, 4]
    await fleet.close()


async def test_a_restart_or_a_kill_anywhere_on_the_way_changes_no_bit(good, made, tmp_path):
    seen, state = good
    moves = [at for at in range(1, SLOTS) if seen.states[at].rollout != seen.states[at - 1].rollout]
    assert len(moves) == 3
    again, fleet = await play(
        config_of(tmp_path),
        made,
        accepted={BEGIN: (2, 0.0)},
        restart={BEGIN + 4, moves[1] + 2},
        broken={*moves, moves[0] + 5, moves[1] + 1},
    )
    assert fleet.controller.state == state
    for one, other in zip(seen.states, again.states, strict=True):
        assert one == other
    for mine, theirs in zip(seen.blocks, again.blocks, strict=True):
        assert set(mine) == set(theirs)
        for name, block in mine.items():
            np.testing.assert_array_equal(block.values, theirs[name].values)
            np.testing.assert_array_equal(block.weights, theirs[name].weights)
    await fleet.close()


async def test_a_version_whose_files_are_damaged_is_back_at_the_next_step(made, tmp_path, caplog):
    config = config_of(tmp_path)
    fleet, seen = LocalFleet(config, now=lambda: 0.0), _Seen()
    for request_id, block in made[:HISTORY]:
        await fleet.append(request_id, block)
    await accept(fleet, config, 1, START - 1)
    for at, (request_id, block) in enumerate(made[HISTORY : HISTORY + 6]):
        if at == BEGIN:
            await accept(fleet, config, 2, START + at - 1)
            for path in (config.artifacts_dir / config.panel.name / "000002").iterdir():
                path.write_bytes(b"damaged")
        await fleet.append(request_id, block)
        await seen.look(fleet)
    assert seen.stages() == [(1, None), (1, "shadow"), (1, None)]
    assert len([one for one in seen.states if one.rollout.flight]) == 1
    assert "version 2 is left out" in caplog.text
    await fleet.close()


async def test_somebodys_own_table_stands_and_the_loop_only_compares(made, tmp_path):
    config = config_of(tmp_path)
    fleet, seen = LocalFleet(config, now=lambda: 0.0), _Seen()

    async def ask(role, method, *args, timeout_s=None, **kwargs):
        return await getattr(getattr(fleet, role), method).remote(*args, **kwargs)

    calls = RolloutCalls()
    calls._actors = SimpleNamespace(ask=ask)
    for request_id, block in made[:HISTORY]:
        await fleet.append(request_id, block)
    await accept(fleet, config, 1, START - 1)
    artifact = await network(fleet, config, START - 2, number=2, shift=4.0)
    given = {"slot": START - 1, "update_id": "update-2"}
    await fleet.registry.register.remote(artifact, **given)
    await fleet.registry.promote.remote(2, who="gate", report={}, reasons=("yes",), **given)
    await fleet.registry.rollback.remote(1, slot=START - 1, who="ann", reason="test", key="r0")
    table = Table((Share(1, 1.0),), (Cohort("b", 0.5, (Share(2, 1.0),)),))
    told = {"reason": "A/B", "who": "ann", "dry_run": False}
    seen_tag = tag_of(await fleet.registry.state.remote())
    await calls.steer("put", table=table, request_id="r1", expected=seen_tag, **told)
    with pytest.raises(PreconditionFailed):
        await calls.steer("put", table=table, request_id="r2", expected=seen_tag, **told)
    with pytest.raises(Conflict, match="is the champion"):
        await calls.steer("retire", version=1, request_id="r3", expected="*", **told)
    for request_id, block in made[HISTORY : HISTORY + 14]:
        await fleet.append(request_id, block)
        await seen.look(fleet)
    assert seen.stages() == [(1, "operator")]
    assert fleet.controller.rollout["comparison"]["change"] > 0.5
    assert {frozenset(by) for by in seen.served[-1].values()} == {frozenset({1}), frozenset({2})}
    before = await calls.rollback(None, "bad", "ann", "r4", dry_run=True)
    assert (await fleet.registry.state.remote()).rollout.table == table
    after = await calls.rollback(None, "bad", "ann", "r5")
    assert (before.rollout.table, after.rollout.table, after.champion) == (None, None, 1)
    await fleet.close()


def block(member, version, values):
    return ForecastBlock(7, member, version, ("a", "b"), ("cpu",), (0.1, 0.5, 0.9), values)


@pytest.mark.parametrize(
    ("stage", "automatic", "back"),
    [("shadow", True, True), ("canary", False, False), ("operator", True, False)],
)
async def test_numbers_that_are_none_are_found_before_they_are_recorded(
    tmp_path, stage, automatic, back
):
    asked = []

    class Registry:
        async def back(self, version, **record):
            asked.append((version, record["slot"], record["reasons"]))

    config = config_of(tmp_path, rollback=automatic)
    line = RolloutLine(
        buffer=None,
        registry=LocalHandle(Registry()),
        members=None,
        settings=arguments.settings(config),
    )
    flight = Flight(2, stage, 3, 3)
    state = RegistryState(rollout=Rollouts(flight=flight))
    whole = np.ones((2, 6, 1, 3), np.float32)
    broken = whole.copy()
    broken[1, 4, 0, 2] = np.inf
    made = (block("champion", 1, whole), block("challenger", 2, whole))
    assert await line.sound(made, state, 7)
    made = (block("champion", 1, whole), block("challenger", 2, broken))
    assert await line.sound(made, state, 7) is not back
    said = ("its forecasts of 1 series are not finite",)
    assert asked == ([(2, 7, said)] if back else [])


def test_a_state_file_of_before_rollouts_is_read_and_a_comparison_is_kept(tmp_path):
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"format": 1, "slot": 7, "last_update_slot": 3, "pending": None}))
    assert StateFile(path).load() == ControllerState(7, 3)
    trial = Trial.fresh(Flight(2, "shadow", 3, 3)).added(
        20, np.ones((2, 1), np.float32), np.ones((2, 1), np.float32), ("web", "db"), 6
    )
    state = replace(ControllerState(21, 3), trial=trial)
    StateFile(path).save(state)
    assert StateFile(path).load() == state


def test_the_config_says_how_a_version_goes_to_everyone(tmp_path):
    assert arguments.settings(small_config(tmp_path, REPLAY)).rollout is None
    rules = arguments.settings(config_of(tmp_path, fast_shadow=0)).rollout
    assert (rules.shadow, rules.canary, rules.canary_share, rules.horizon) == (8, 4, 0.5, 6)
    assert (rules.first(fast=False), rules.first(fast=True)) == ("shadow", "canary")
    assert rules.threshold == 0.05
