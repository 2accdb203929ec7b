"""Which actors exist: what they ask for, what a redeploy replaces, who may own a state."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import ray

from actors import handles, identity, topology
from actors.trainer import TrainerActor
from forecast.audit import AuditLog
from forecast.errors import StateError
from tests.actors.scenario import small_config, small_replay

on_ray = [pytest.mark.ray, pytest.mark.slow]

REPLAY = small_replay()


def fleet(state_dir, name, **learning):
    return small_config(state_dir, REPLAY, **learning).model_copy(update={"fleet": name})


def identities(config):
    """What each actor says of itself, by role."""
    found = {role: handles.find(config.fleet, config.panel.name, role) for role in handles.ROLES}
    said = ray.get([actor.identity.remote() for actor in found.values()])
    return dict(zip(found, said, strict=True))


@pytest.fixture
def started(ray_cluster):
    """Starts fleets and ends them."""
    configs = []

    def start(config):
        configs.append(config)
        return topology.ensure(config)

    yield start
    for config in configs:
        topology.stop(config)


def test_a_change_of_how_updates_learn_concerns_the_trainer_only(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    before = {s.role: s.digest("code") for s in topology.specs(fleet(tmp_path, "a"))}
    after = {
        s.role: s.digest("code")
        for s in topology.specs(fleet(tmp_path, "a", online_learning_rate=5e-4))
    }
    assert [role for role in before if before[role] != after[role]] == [handles.TRAINER]


def test_a_trainer_of_another_class_stays_when_the_fleet_is_deployed(tmp_path, monkeypatch):
    class Other(TrainerActor):
        pass

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    config = fleet(tmp_path, "a")
    usual, other = topology.specs(config), topology.specs(config, trainer=Other)
    assert [one.actor for one in other if one.role == handles.TRAINER] == [Other]
    assert [one.digest("code") for one in other] == [one.digest("code") for one in usual]


def test_other_code_concerns_everybody(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    specs = topology.specs(fleet(tmp_path, "a"))
    assert all(spec.digest("code") != spec.digest("other code") for spec in specs)


def test_what_keeps_state_stays_where_the_state_is(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    config = fleet(tmp_path, "a")

    def options(state_node):
        chosen = config.model_copy(update={"state_node": state_node})
        return {spec.role: spec.options for spec in topology.specs(chosen)}

    on_head = {"resources": {"node:__internal_head__": 0.001}}
    assert options("head") == {
        handles.REGISTRY: on_head,
        handles.BUFFER: on_head,
        handles.LEDGER: on_head,
        handles.TRAINER: {},
    }
    assert options({"disk": "fast"})[handles.BUFFER] == {"label_selector": {"disk": "fast"}}
    assert options("any")[handles.BUFFER] == {}


def test_a_site_that_cannot_be_made_is_told_of_and_stops_no_deploy(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    config = fleet(tmp_path, "a")
    given = {"home": {"site": "north", "aggregator": "https://centre"}}
    asked = type(config.federated).model_validate(given)
    config = config.model_copy(update={"federated": asked})
    planned, made, waited = topology.specs(config), [], []

    def make(config, spec, code):
        made.append(spec.role)
        if spec.role == handles.SITE:
            raise StateError("no room")
        return spec.role

    monkeypatch.setattr(topology, "_make", make)
    monkeypatch.setattr(topology, "_wait", lambda actors: waited.extend(actors))
    actors = {}
    topology._make_needed(config, planned, actors, "code")
    assert handles.SITE not in {*made, *waited, *actors}
    topology._make_optional(config, planned, actors, "code")
    assert made[-1] == handles.SITE
    assert handles.SITE not in {*waited, *actors}
    assert "the fleet goes on without its site: no room" in caplog.text

    there = {handles.SITE: "dead"}  # a health check later: it is made again when it is gone
    monkeypatch.setattr(handles, "find", lambda fleet, panel, role: there.get(role))
    topology.ensure_optional(config)
    assert made.count(handles.SITE) == 1
    there.clear()
    topology.ensure_optional(config)
    assert made.count(handles.SITE) == 2


class TestOnRay:
    pytestmark = on_ray

    def test_a_redeploy_replaces_what_changed_and_is_audited(self, started, tmp_path):
        first = fleet(tmp_path, "redeployed")
        started(first)
        before = identities(first)
        second = fleet(tmp_path, "redeployed", online_learning_rate=5e-4)
        topology.ensure(second, who="ann")
        after = identities(second)
        topology.ensure(second)
        again = identities(second)
        replaced = [role for role in before if before[role]["pid"] != after[role]["pid"]]
        assert replaced == [handles.TRAINER, handles.CONTROLLER]
        assert after[handles.TRAINER]["config"]["online_learning"]["online_learning_rate"] == 5e-4
        assert {role: said["pid"] for role, said in again.items()} == {
            role: said["pid"] for role, said in after.items()
        }
        changes = {"online_learning.online_learning_rate": [1e-3, 5e-4]}
        kinds = ("redeploy", "config")
        records = list(AuditLog(first.panel_dir / "audit").records(kinds=kinds))
        assert [r.kind for r in records] == ["config", "config", "redeploy"]
        assert [r.detail["changed"] for r in records[:2]] == [{}, changes]
        assert [r.who for r in records] == ["bootstrap", "ann", "ann"]
        assert [(r.kind, r.who, r.detail) for r in records[2:]] == [
            (
                "redeploy",
                "ann",
                {
                    "actors": [handles.CONTROLLER, handles.TRAINER],
                    "config": changes,
                    "code": None,
                },
            )
        ]

    def test_an_actor_that_found_no_room_does_not_stand_in_the_way_of_the_next_deploy(
        self, started, tmp_path, monkeypatch
    ):
        good = fleet(tmp_path, "roomless")
        wanting = good.model_copy(
            update={"trainer": good.trainer.model_copy(update={"device": "gpu"})}
        )
        monkeypatch.setattr(topology, "_START_S", 10)
        monkeypatch.setattr(identity, "_ANSWER_S", 6)
        with pytest.raises(StateError, match="the trainer did not start in 10 s"):
            started(wanting)
        monkeypatch.setattr(topology, "_START_S", 180)
        topology.ensure(good)
        assert identities(good)[handles.TRAINER]["config"]["trainer"]["device"] == "auto"

    def test_two_fleets_share_a_cluster_but_no_state(self, started, tmp_path):
        one, other = fleet(tmp_path / "one", "one"), fleet(tmp_path / "other", "other")
        started(one)
        started(other)
        pids = [said["pid"] for config in (one, other) for said in identities(config).values()]
        assert len(set(pids)) == 2 * len(handles.ROLES)
        topology.stop(other)
        assert len(identities(one)) == len(handles.ROLES)
        assert handles.find("other", other.panel.name, handles.BUFFER) is None
        thief = fleet(tmp_path / "one", "thief")
        with pytest.raises(StateError, match="owned by 'fleet one'"):
            started(thief)

    def test_a_second_head_on_the_same_state_is_fenced_and_says_so(self, started, tmp_path):
        started(fleet(tmp_path, "first-head"))
        config = fleet(tmp_path, "first-head").model_dump_json()
        environment = {key: value for key, value in os.environ.items() if "RAY_ADDRESS" not in key}
        second = subprocess.run(
            [sys.executable, "-m", "tests.actors.second_head"],
            input=config,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert "owned by 'fleet first-head'" in second.stdout, second.stdout + second.stderr
        assert "epoch 1" in second.stdout


def test_a_federation_adds_an_actor_a_home_site_another_and_the_same_config_the_same_digests(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    plain = fleet(tmp_path, "a")
    asked = plain.federated.model_copy(update={"enabled": True})
    config = plain.model_copy(update={"federated": asked})
    found = {spec.role: spec.digest("code") for spec in topology.specs(config)}
    assert found == {spec.role: spec.digest("code") for spec in topology.specs(config)}
    assert set(found) - {spec.role for spec in topology.specs(plain)} == {handles.AGGREGATOR}
    assert handles.roles_of(config) == (*handles.roles_of(plain), handles.AGGREGATOR)
    home = asked.home.model_copy(update={"site": "north"})
    site = config.model_copy(update={"federated": asked.model_copy(update={"home": home})})
    with_site = {spec.role: spec.digest("code") for spec in topology.specs(site)}
    assert with_site == {spec.role: spec.digest("code") for spec in topology.specs(site)}
    assert set(with_site) - set(found) == {handles.SITE}
    assert handles.roles_of(site) == (*handles.roles_of(config), handles.SITE)
