"""A buffer on real Ray that stops, and one whose disk is full: who sends is told to come again."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
import ray

from actors.appends import Appends
from actors.buffer import BufferActor
from forecast.errors import Busy
from tests.train.streams import SETTINGS, steady

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BEGIN = 1000
_DEADLINE_S = 60.0


class _Buffer(BufferActor):
    async def pid(self):
        return os.getpid()


@pytest.fixture
def make(ray_cluster, tmp_path):
    actors = []

    def made(**changes):
        settings = {**SETTINGS, "directory": tmp_path, "owner": "fleet a", "acknowledge": "fsync"}
        shell = ray.remote(_Buffer).options(num_cpus=0, max_concurrency=1000)
        actors.append(shell.remote(**{**settings, **changes}))
        return actors[-1]

    yield made
    for actor in actors:
        ray.kill(actor)


async def test_a_buffer_that_stopped_is_busy_at_once_and_keeps_each_request_once(make):
    actor = make()
    pid = await actor.pid.remote()
    appends = Appends(actor.append.remote, limit_bytes=1 << 20, patience_s=0.5)
    await appends.append("r0", steady(["a"], [BEGIN]))
    os.kill(pid, signal.SIGSTOP)
    try:
        first = [appends.append(f"r{at}", steady(["a"], [BEGIN + at])) for at in range(1, 9)]
        told = await asyncio.gather(*first, return_exceptions=True)
        held = appends.nbytes
        for at in range(1, 200):
            with pytest.raises(Busy, match="does not answer"):
                await appends.append(f"r{at}", steady(["a"], [BEGIN + at]))
        assert {type(one) for one in told} == {Busy}
        assert appends.nbytes == held > 0
    finally:
        os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + _DEADLINE_S
    while appends.nbytes:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)  # polls a condition with a deadline
    for at in range(1, 9):
        await appends.append(f"r{at}", steady(["a"], [BEGIN + at]))
    status = await actor.status.remote()
    assert (status.requests, status.rows) == (9, 9)


async def test_a_refusal_keeps_its_retry_after_across_ray(make):
    full = Appends(make(ingest_free_bytes=1 << 60).append.remote, limit_bytes=1 << 20)
    with pytest.raises(Busy, match="free space") as refused:
        await full.append("r", steady(["a"], [BEGIN]))
    assert type(refused.value) is Busy
    assert refused.value.retry_after_s == 30
