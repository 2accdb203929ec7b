"""The same loop on real Ray actors: same decisions, also when actors are killed under way."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
import ray

from actors import handles, topology
from tests.actors.scenario import blocks, outcome_of, play, small_config, small_replay

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REPLAY = small_replay()
_DEADLINE_S = 240.0


class _OnRay:
    """The handles that `outcome_of` reads, found by name as any client finds them."""

    def __init__(self, config):
        self.config = config
        self._role = handles.Actors(config.fleet, config.panel.name)

    def __getattr__(self, role):
        return handles.find(self.config.fleet, self.config.panel.name, role)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What the same scenario gives in one process."""
    config = small_config(tmp_path_factory.mktemp("local"), REPLAY)
    return asyncio.run(play(config, REPLAY))


async def _step_to(fleet, slot):
    """Wait until the controller has stepped through a slot."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        status = await fleet.controller.status.remote()
        if status["stepped_slot"] is not None and status["stepped_slot"] >= slot:
            return
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.02)  # polls a condition with a deadline


async def _feed(fleet, made, *, struck=lambda number: None):
    """Append block after block, never more than a slot ahead; `struck` falls while a step runs."""
    accepted = 0
    for number, (request_id, block) in enumerate(made):
        report = await fleet.buffer.append.remote(request_id, block)
        accepted += report.accepted
        struck(number)
        await _step_to(fleet, report.closed_slot)
    return accepted


def _kill(fleet, role):
    """kill -9 the process of an actor; Ray starts another under the same name."""
    name = handles.actor_name(fleet.config.panel.name, role)
    # The process id is the actor's own answer, so that nothing else can be hit.
    pid = ray.get(getattr(fleet, role).identity.remote())["pid"]
    os.kill(pid, signal.SIGKILL)
    return name


async def test_real_ray_decides_and_forecasts_what_the_local_loop_does(
    ray_cluster, outcome, tmp_path
):
    config = small_config(tmp_path, REPLAY).model_copy(update={"fleet": "parity"})
    topology.ensure(config)
    fleet = _OnRay(config)
    await _feed(fleet, blocks(REPLAY))
    found = await outcome_of(fleet)
    topology.stop(config)
    assert found == outcome


async def test_killed_controller_and_buffer_change_no_decision_and_lose_nothing(
    ray_cluster, outcome, tmp_path
):
    config = small_config(tmp_path, REPLAY).model_copy(update={"fleet": "killed"})
    topology.ensure(config)
    fleet = _OnRay(config)
    made = blocks(REPLAY)
    killed = []
    plan = {
        4: handles.BUFFER,
        14: handles.CONTROLLER,
        33: handles.CONTROLLER,
        34: handles.BUFFER,
        57: handles.LEDGER,
        58: handles.TRAINER,
        70: handles.REGISTRY,
    }

    def strike(number):
        if number in plan:
            killed.append(_kill(fleet, plan[number]))

    accepted = await _feed(fleet, made, struck=strike)
    found = await outcome_of(fleet)
    topology.stop(config)
    assert len(killed) == len(plan)
    assert accepted == sum(len(block.value) for _, block in made)
    assert found == outcome
