"""A fleet that is a site: what the federation learned becomes a version of it like any other."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import AsyncExitStack

import httpx
import pytest
import ray

from actors import federated_arguments, handles, topology
from actors.federation import FederationActor
from actors.local import LocalFleet, LocalHandle
from actors.session import Session
from actors.site_actor import SiteActor
from connect.stream import Client
from forecast.errors import ConfigError, NothingNew
from serve_app import build
from tests.actors.scenario import blocks, small_config, small_replay
from tests.actors.test_site_lines import Asking

REPLAY = small_replay()
_DEADLINE_S = 240.0
SITE = {
    "hours": 24, "windows": 48, "own_windows": 32, "own_epochs": 1, "holdout_hours": 4,
}  # fmt: skip


def configured(folder, *, home=None, **federated):
    """The small fleet as site `north` of its own aggregator, which steps at each update."""
    config = small_config(folder, REPLAY)
    given = {
        "enabled": True, "updates": 1, "quorum": 1, "gated": False, "site": SITE,
        "home": {"site": "north", **(home or {})}, **federated,
    }  # fmt: skip
    asked = type(config.federated).model_validate(given)
    return config.model_copy(update={"federated": asked})


class _Here:
    """A fleet, its aggregator and its site in this process."""

    def __init__(self, config):
        config.panel_dir.mkdir(parents=True, exist_ok=True)
        self.aggregator = FederationActor(**federated_arguments.aggregator(config))
        self.asking = Asking(aggregator=self.aggregator)
        self.fleet = LocalFleet(config, now=lambda: 0.0, home=self.asking)
        self.asking.there[handles.BUFFER] = self.fleet.buffer
        self.site = SiteActor(**federated_arguments.home(config), actors=self.asking)
        self.asking.there[handles.SITE] = LocalHandle(self.site)

    async def until(self, told):
        """Until the site's status is so."""
        async with asyncio.timeout(_DEADLINE_S):
            while not told(status := await self.site.status()):
                await asyncio.sleep(0.02)  # polls a condition with a deadline
        return status

    async def close(self):
        """Let go of all files."""
        await self.site.close()
        await self.aggregator.close()
        await self.fleet.close()


@pytest.fixture
async def placed(monkeypatch):
    """Puts a fleet, its aggregator and its site here, and lets go of all at the end."""
    # A site gives way to all else, so on a busy machine what it is doing may take a while.
    monkeypatch.setattr("actors.site_actor._CLOSE_S", _DEADLINE_S)
    async with AsyncExitStack() as stack:

        def make(config):
            made = _Here(config)
            stack.push_async_callback(made.close)
            return made

        yield make


async def test_what_the_federation_learned_becomes_a_version_and_updates_learn_on_from_it(
    placed, tmp_path
):
    learns = {"windows": 512, "epochs": 8, "own_windows": 512, "own_epochs": 5}
    config = configured(tmp_path, site={**SITE, **learns})
    # A first model that learned next to nothing: what sites learned is better beyond chance.
    little = config.training.model_copy(update={"max_steps": 1})
    here = placed(config.model_copy(update={"training": little}))
    made = blocks(REPLAY, slots=30)
    for request_id, block in made[:8]:
        await here.fleet.append(request_id, block)
    status = await here.until(lambda told: told["offered"])
    assert (status["site"], status["failure"]) == ("north", None)
    for request_id, block in made[8:]:
        await here.fleet.append(request_id, block)
    records = await here.fleet.registry.updates.remote(100, None)
    # The newest is first; a site that is quick learns a second one on top, which may be refused.
    taken = [one for one in records if one.update_id.startswith("federated-")][-1]
    assert taken.lineage["kind"] == "federated"
    told = taken.lineage["federated"]
    assert (told["site"], told["sites"], told["form"]) == ("north", ["north"], "personal")
    assert told["version"] >= 1
    assert taken.report["kind"] == "federated"
    held = here.fleet.controller.settings.holdout_hours * 12
    assert taken.lineage["trained_to_slot"] <= taken.slot - held
    assert taken.verdict == "promoted", taken.reasons
    versions = {one.version for one in records if one.lineage["kind"] == "federated"}
    update = next(one for one in records if one.update_id.startswith("update-"))
    assert update.parent in versions
    state = await here.fleet.registry.state.remote()
    assert (await here.fleet.ledger.latest.remote()).version == state.champion >= taken.version
    await here.site.close()
    before = await here.site.status()
    await here.close()
    again = placed(configured(tmp_path))
    after = await again.until(lambda told: told["sites"])
    for number in ("offered", "version", "updates", "slot"):
        assert after[number] >= before[number] > 0, number


async def test_an_aggregator_that_is_away_is_a_log_line_and_a_retry(placed, tmp_path, caplog):
    here = placed(configured(tmp_path))
    there = here.asking.there.pop(handles.AGGREGATOR)
    for request_id, block in blocks(REPLAY, slots=0):
        await here.fleet.append(request_id, block)
    status = await here.until(lambda told: told["failure"])
    assert "KeyError" in status["failure"]
    assert "site north tries again" in caplog.text
    here.asking.there[handles.AGGREGATOR] = there
    status = await here.until(lambda told: told["version"] is not None)
    assert status["failure"] is None


async def test_a_remote_aggregator_is_asked_with_a_token_of_its_own(
    placed, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("FLEETCAST_FEDERATION_TOKEN", "secret")
    monkeypatch.setattr("actors.site_actor._PATIENCE_S", 0.0)
    url = f"http://127.0.0.1:{_free_port()}"  # where nobody listens
    here = placed(configured(tmp_path, home={"aggregator": url}))
    for request_id, block in blocks(REPLAY, slots=0):
        await here.fleet.append(request_id, block)
    status = await here.until(lambda told: told["failure"])
    assert here.site._remote.token == "secret"
    assert (status["aggregator"], status["failure"][:12]) == (url, "ConnectError")
    assert "secret" not in caplog.text


async def test_two_sites_on_one_folder_are_a_status_and_a_retry(tmp_path, monkeypatch):
    monkeypatch.setattr("actors.site_actor.HANDOVER_S", 0.0)
    monkeypatch.setattr("actors.site_actor._BACKOFF_S", (0.02,))
    given = federated_arguments.home(configured(tmp_path))
    one = SiteActor(**given, actors=Asking())
    await one._begun.wait()
    other = SiteActor(**given, actors=Asking())
    async with asyncio.timeout(_DEADLINE_S):
        while not (failure := (await other.status())["failure"]):
            await asyncio.sleep(0.02)  # polls a condition with a deadline
        assert "owned by 'fleet" in failure
        assert await other.offer(None) is None
        assert set(await other.status()) == set(await one.status())
        await one.close()
        await other._begun.wait()
    with pytest.raises(NothingNew, match="but none"):
        await other.offered(3)
    await other.close()
    again = SiteActor(**given, actors=Asking())
    async with asyncio.timeout(_DEADLINE_S):
        await again._begun.wait()  # the lock was let go
    await again.close()


def test_the_site_holds_out_what_the_gate_does_and_waits_for_the_history_of_a_base(tmp_path):
    given = federated_arguments.home(configured(tmp_path))["home"]
    assert given["recipes"]["settings"].holdout_hours == 6  # the gate's, longer than its own 4
    assert (given["every"], given["per_server"]) == (12, False)
    hours = small_config(tmp_path, REPLAY).training.bootstrap_hours
    assert given["needs"] == max(hours * 12, 6 * 12 + 24 + 2 * 6)
    with pytest.raises(ConfigError, match="the fleet is no site"):
        federated_arguments.home(small_config(tmp_path, REPLAY))


def test_a_home_site_needs_an_aggregator_that_takes_it(tmp_path):
    def refused(match, **given):
        with pytest.raises(ValueError, match=match):
            configured(tmp_path, **given)

    refused("has no aggregator", enabled=False)
    refused("is none of federated.sites", sites=["a", "b"])
    refused("aggregator is set, but", home={"site": None, "aggregator": "https://centre"})
    refused("pattern", home={"aggregator": "https://ann:secret@centre"})
    refused("pattern", home={"site": "../else"})
    remote = configured(tmp_path, enabled=False, home={"aggregator": "https://centre:8000"})
    assert handles.roles_of(remote) == (*handles.ROLES, handles.SITE)
    assert configured(tmp_path, sites=["a", "north"]).federated.home.site == "north"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.ray
@pytest.mark.slow
def test_a_served_fleet_shows_rounds_updates_and_where_its_site_stands(ray_cluster, tmp_path):
    from ray import serve

    serve.shutdown()  # one of another test would listen elsewhere
    port = _free_port()
    config = configured(tmp_path)
    config = config.model_copy(
        update={"fleet": "home", "serve": config.serve.model_copy(update={"port": port})}
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build(config), name="fleetcast-home", route_prefix="/")
    session = Session(Client(f"http://127.0.0.1:{port}"), REPLAY)
    deadline = time.monotonic() + _DEADLINE_S
    try:
        for _ in session.feed_history():
            pass
        for status in session.wait_for_model():
            assert time.monotonic() < deadline, status
        slot = REPLAY.start_slot
        while not (taken := _federated(session.client.base_url)):
            for _ in session.stream(slot, slot + 1):
                pass
            slot += 1
            assert time.monotonic() < deadline, session.client.status()["home_site"]
        with httpx.Client(base_url=session.client.base_url, timeout=30.0) as client:
            rounds = client.get("/api/v1/federated/rounds").json()["rounds"]
            status = client.get("/api/v1/status").json()
        told = taken[0]["lineage"]["federated"]
        assert told["sites"] == ["north"]
        assert told["version"] in [one["version"] for one in rounds]
        assert taken[0]["kind"] == "federated"
        assert status["home_site"]["site"] == "north"
        assert status["home_site"]["version"] >= told["version"]
        assert status["home_site"]["updates"] >= 1
        again = _killed(config, session.client, deadline)
        assert again["version"] >= told["version"]
        assert again["updates"] >= status["home_site"]["updates"]
    finally:
        session.client.close()
        serve.delete("fleetcast-home")
        topology.stop(config)
        serve.shutdown()
    assert handles.find("home", config.panel.name, handles.SITE) is None


def _killed(config, client, deadline):
    """What the site says of itself after kill -9 of its process, once it has gone on."""
    found = handles.find(config.fleet, config.panel.name, handles.SITE)
    # The process id is the actor's own answer, so that nothing else can be hit.
    os.kill(ray.get(found.identity.remote())["pid"], signal.SIGKILL)
    while not ((told := client.status()["home_site"]) and told["sites"]):
        assert time.monotonic() < deadline, told
    return told


def _federated(url: str) -> list:
    updates = httpx.get(f"{url}/api/v1/learning/updates", timeout=30.0).json()["updates"]
    return [one for one in updates if one["kind"] == "federated"]
