"""A site's lines within the cluster answer as a source and a centre do elsewhere."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from actors import arguments
from actors.buffer import BufferActor
from actors.local import LocalHandle
from actors.site_lines import BufferSource, ClusterCentre, Line
from forecast.errors import Conflict, StateError
from forecast.tensors import dump
from tests.actors.federation_scene import FRAME, actor, update
from tests.actors.scenario import blocks, small_config, small_replay


class Asking:
    """Asks handles that are here, as `handles.Actors` asks by name."""

    def __init__(self, **actors):
        self.there = {role: LocalHandle(one) for role, one in actors.items()}

    async def ask(self, role, method, *args, timeout_s=None, **kwargs):
        return await getattr(self.there[role], method).remote(*args, **kwargs)


def line(asking) -> Line:
    """Over this test's loop."""
    return Line(asking, asyncio.get_running_loop())


async def test_windows_are_the_buffers_own_bit_by_bit(tmp_path):
    replay = small_replay()
    config = small_config(tmp_path, replay)
    buffer = BufferActor(**arguments.buffer(config))
    for request_id, block in blocks(replay, slots=2):
        await buffer.append(request_id, block)
    source = BufferSource(line(Asking(buffer=buffer)))
    as_of = (await asyncio.to_thread(source.status)).closed_slot
    names = await asyncio.to_thread(source.servers)
    assert len(names) == 4
    asked = {"as_of": as_of, "hours": 12, "only": names[:1]}
    for method, given in (
        ("draw", {**asked, "count": 8, "seed": 3, "holdout_hours": 4}),
        ("holdout", {**asked, "every": 6}),
    ):
        found = await asyncio.to_thread(getattr(source, method), **given)
        wanted = await getattr(buffer, method)(**given)
        assert len(found)
        assert found.servers == wanted.servers
        assert np.array_equal(found.values, wanted.values, equal_nan=True)
    await buffer.close()


async def test_the_clusters_aggregator_takes_and_answers_what_one_over_http_does(tmp_path):
    one = actor(tmp_path)
    asked = ClusterCentre(line(Asking(aggregator=one)))

    async def of(method, *args, **given):
        return await asyncio.to_thread(getattr(asked, method), *args, **given)

    own = FRAME.layout.schema_hash
    assert (await of("current", "a"))["schema_hash"] == own
    assert ((await of("model", 0, schema_hash=own)) == one._aggregator.shared()).all()
    for site in "abc":
        receipt = await of("send", site, 0, dump(*update(site, 0, 0)))
        assert receipt["verdict"] == "accepted"
    assert (await of("current", "a"))["candidate"] == 1
    told = {"version": 1, "samples": 9, "change": -0.1, "lower": -1.0, "upper": 1.0}
    for site in "abc":
        fate = await of("tell", {"site": site, "blocks": 4, "finite": True, **told})
    assert fate["state"] == "accepted"
    now = await of("current", "a")
    assert (now["version"], now["made_in"], now["made_of"]) == (1, 0, ["a", "b", "c"])
    with pytest.raises(Conflict, match="version 7 is neither"):
        await of("model", 7, schema_hash=own)
    with pytest.raises(StateError, match="the same metrics, roles and"):
        await of("model", 1, schema_hash="0" * 64)
    with pytest.raises(StateError, match="is of 'a', not of 'b'"):
        await of("send", "b", 0, dump(*update("a", 1, 1)))
    await one.close()


def test_a_question_after_the_end_is_an_error_and_nothing_else():
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        Line(Asking(), loop).ask("buffer", "status")
