"""What the home site offers is a training that is due: once, when nothing else is, and by the gate.

Over the stand-ins of `test_learning`, and a site that offers what it is told to.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from types import SimpleNamespace

import pytest

from actors import handles
from actors.home_offers import Offer, Offers
from actors.state import ControllerState, Pending, StateFile
from forecast.artifact import Artifact
from forecast.errors import Busy
from forecast.pauses import Pause
from tests.actors.test_learning import _Scene
from tests.train.losses_scene import losses
from train.breaker import Breaker
from train.gate import Evidence

HOUR = 12
GOOD = Evidence(losses=losses({"challenger": 0.0, "champion": 0.0}))
WORSE = Evidence(losses=losses({"challenger": 0.5, "champion": 0.0}))


def artifact(version: int) -> Artifact:
    """As the home site makes it."""
    origin = {"site": "north", "version": version, "round": 10 + version, "sites": ["a", "north"]}
    lineage = {"kind": "federated", "parent": None, "slot": 990, "federated": origin}
    return Artifact({"fingerprint": "f", "lineage": lineage}, b"weights of %d" % version)


class _Home:
    """Answers as the site's actor does, and remembers what it was asked."""

    def __init__(self, folder):
        self.offers = Offers(folder, fingerprint="f")
        self.asked = []
        self.silent = False

    def has(self, version, slot=990):
        self.offers.make(Offer(version, slot, artifact(version)))

    async def ask(self, role, method, given, *, timeout_s):
        assert role == handles.SITE
        self.asked.append(method)
        if self.silent:
            raise Busy("the site does not answer", retry_after_s=5)
        return getattr(self.offers, method)(given)


@pytest.fixture
def scene(tmp_path):
    """A fleet whose home site has version 4; every training of the fleet's own fails."""
    made = _Scene(tmp_path)
    made.home = made.learning._home = _Home(tmp_path / "home")
    made.home.has(4)
    return made


class Dying(Exception):
    """The process is killed here."""


async def judge_as(scene, evidence):
    """What challengers are found to be; who was compared."""
    given = []

    async def judge(challenger, holdout, champion, anchor, started_from_champion):
        given.append((challenger.weights, holdout["hours"], champion, started_from_champion))
        return evidence

    scene.trainer.judge = judge
    return given


async def test_a_version_that_answers_at_home_goes_through_the_gate_into_the_registry(scene):
    given = await judge_as(scene, GOOD)
    [due] = await scene.to(1001)
    assert due == Pending("federated", "federated-1001", 1001, 1002, None, None, 6, 4)
    assert scene.home.asked == ["offer"]  # its number is kept before it is fetched
    await scene.to(1003)
    assert scene.home.asked == ["offer", "offered"]
    assert given == [(b"weights of 4", 6, 3, False)]
    [(verdict, version, record)] = scene.registry.verdicts
    assert (verdict, version, record["update_id"]) == ("promote", 9, "federated-1001")
    assert record["report"]["kind"] == "federated"
    assert record["report"]["training"] == {
        "site": "north", "version": 4, "round": 14, "sites": ["a", "north"],
    }  # fmt: skip


async def test_what_is_registered_names_the_update_beside_what_the_site_wrote(scene):
    kept = []

    async def register(artifact, *, update_id, slot):
        kept.append(artifact.manifest["lineage"])
        return 9

    scene.registry.register = register
    await judge_as(scene, GOOD)
    await scene.to(1003)
    [lineage] = kept
    assert (lineage["kind"], lineage["update_id"]) == ("federated", "federated-1001")
    assert lineage["federated"]["round"] == 14


async def test_a_version_is_offered_once_and_the_next_one_again(scene):
    await judge_as(scene, WORSE)
    await scene.to(1010)
    assert [verdict for verdict, *_ in scene.registry.verdicts] == ["reject"]
    assert scene.state.global_version == 4
    scene.home.has(7)
    due = await scene.to(1013)
    assert [(p.update_id, p.global_version) for p in due] == [("federated-1011", 7)]
    assert set(scene.home.asked) == {"offer", "offered"}  # a refusal at home is told to nobody


async def test_it_takes_no_updates_turn_nor_does_it_when_it_serves(scene):
    await judge_as(scene, GOOD)
    due = await scene.to(1015)
    assert [p.kind for p in due] == ["federated"]
    assert scene.state.last_update_slot == 1000
    scene.learning.champion_is({"kind": "federated", "slot": 1012})
    scene.home.has(5)
    scene.state = dataclasses.replace(scene.state, slot=1023)
    due = await scene.to(1026)
    assert [(p.kind, p.asked_slot) for p in due] == [("update", 1024), ("federated", 1026)]


async def test_where_no_update_was_ever_asked_for_a_global_champion_begins_the_period(scene):
    scene.learning.champion_is({"kind": "federated", "slot": 1005})
    scene.home.offers._kept = {}
    scene.state = ControllerState(slot=1006)
    due = await scene.to(1030)
    assert [(p.kind, p.asked_slot) for p in due] == [("update", 1029)]


async def test_while_learning_is_paused_or_the_breaker_open_it_waits(scene):
    await judge_as(scene, GOOD)
    scene.registry.paused = Pause("ann", "audit", 1000, learning=True)
    assert await scene.to(1005) == []
    scene.registry.paused = None
    scene.state = dataclasses.replace(scene.state, breaker=Breaker(opened=1005))
    assert await scene.to(1010) == []
    scene.state = dataclasses.replace(scene.state, breaker=Breaker())
    assert [p.update_id for p in await scene.to(1011)] == ["federated-1011"]


async def test_without_learning_or_a_champion_nobody_is_asked(tmp_path):
    off = _Scene(tmp_path, enabled=False)
    off.home = off.learning._home = _Home(tmp_path / "home")
    off.home.has(4)
    assert await off.to(1010) == []
    assert off.home.asked == []


async def test_a_drift_goes_before_it(scene):
    state = dataclasses.replace(scene.state, slot=1001, drift_due=1000, drift_since=1000)
    state = await scene.learning.step(state)
    assert state.pending.kind == "update"
    state = await scene.learning.step(dataclasses.replace(state, slot=1002))
    state = await scene.learning.step(dataclasses.replace(state, slot=1003))
    # What came since the drift is held out, as for an update now.
    assert (state.pending.kind, state.pending.holdout_hours) == ("federated", 3)


async def test_what_learned_from_later_slots_than_the_steps_waits_for_its_slot(scene):
    await judge_as(scene, GOOD)
    scene.home.has(5, slot=1003)
    due = await scene.to(1004)
    assert [(p.asked_slot, p.global_version) for p in due] == [(1003, 5)]


async def test_a_step_done_again_takes_what_was_kept_although_the_site_went_on(scene, tmp_path):
    """Killed within the verdict and restarted: the same version of the same file is judged."""
    given = await judge_as(scene, GOOD)
    kept = StateFile(tmp_path / "state.json")
    [_] = await scene.to(1001)
    scene.home.has(5)
    await scene.to(1002)
    kept.save(scene.state)
    promoted = []

    async def dies(version, **record):
        promoted.append(record)
        raise Dying

    working, scene.registry.promote = scene.registry.promote, dies
    with pytest.raises(Dying):
        await scene.to(1003)
    again = _Scene(tmp_path)
    again.learning._home = scene.home
    again.trainer, again.registry = scene.trainer, scene.registry
    again.learning._trainer._actor = scene.trainer
    again.learning._registry._actor = scene.registry
    scene.registry.promote = working
    again.state = kept.load()
    assert again.state == scene.state
    await again.to(1004)  # fetched anew, which no step waits for
    assert [weights for weights, *_ in given] == [b"weights of 4"] * 2
    [(_, version, record)] = scene.registry.verdicts
    assert version == 9
    assert record["update_id"] == promoted[0]["update_id"]
    assert record["report"]["training"] == promoted[0]["report"]["training"]
    due = await again.to(1005)
    assert [p.global_version for p in due] == [5]


async def test_a_step_done_again_before_it_was_kept_may_take_a_newer_one(scene):
    state = dataclasses.replace(scene.state, slot=1001)
    first = await scene.learning.step(state)
    scene.home.has(5)
    second = await scene.learning.step(state)
    assert (first.pending.global_version, second.pending.global_version) == (4, 5)
    assert scene.learning.training is None
    assert scene.registry.verdicts == []


async def test_a_version_that_the_site_has_no_more_is_skipped_and_no_failure(scene):
    [_] = await scene.to(1001)
    scene.home.offers._kept = {}
    await scene.to(1003)
    [(kind, told)] = scene.registry.notes
    assert kind == "federated_skipped"
    assert "global version 4 no more" in told["detail"]["reason"]
    assert (scene.state.pending, scene.learning.last_failure) == (None, None)


@pytest.mark.parametrize("away", ["taken out of the config", "dead", "answers nonsense"])
async def test_a_site_that_is_gone_while_its_version_is_pending_stops_nobody(scene, away):
    [_] = await scene.to(1001)
    if away == "dead":
        scene.home.silent = True
    elif away == "answers nonsense":
        scene.home.offers._kept["offered"] = Offer(4, 990, None)
    else:
        scene.learning._home = None
    await scene.to(1003)
    assert (scene.state.pending, scene.learning.outcome) == (None, None)
    [(kind, told)] = scene.registry.notes
    assert kind == "federated_skipped"
    assert "global version 4" in told["detail"]["reason"]
    scene.learning._home = None
    due = await scene.to(1026)
    assert [(p.kind, p.asked_slot) for p in due] == [("update", 1024)]


async def test_a_site_that_hangs_holds_up_no_step_also_where_late_trainings_are_waited_for(scene):
    given, go = await judge_as(scene, GOOD), asyncio.Event()
    assert scene.settings.when_late == "wait"
    ask = scene.home.ask

    async def hangs(role, method, version, *, timeout_s):
        if method == "offered":
            await go.wait()
        return await ask(role, method, version, timeout_s=timeout_s)

    scene.home.ask = hangs
    await scene.to(1006)
    assert (scene.state.pending.update_id, given) == ("federated-1001", [])
    go.set()
    await scene.learning.training
    await scene.to(1007)
    assert (scene.state.pending, len(given)) == (None, 1)


@pytest.mark.parametrize(
    "evidence", [GOOD, WORSE, Evidence(losses=None, fault="its weights are not finite")]
)
async def test_how_it_ends_is_nothing_that_the_breaker_counts(scene, evidence):
    await judge_as(scene, evidence)
    scene.learning.last_failure = "update-990 failed: out of luck"
    await scene.to(1003)
    assert len(scene.registry.verdicts) == 1
    assert scene.learning.outcome is None
    assert scene.learning.last_failure == "update-990 failed: out of luck"
    scene.state = dataclasses.replace(scene.state, pending=_pending())
    report = {"fault": "its weights are not finite"}

    async def verdict(update_id):
        return SimpleNamespace(report=report)

    scene.registry.verdict = verdict  # the step was cut short after it
    await scene.to(1004)
    assert (scene.state.pending, scene.learning.outcome) == (None, None)


async def test_it_is_no_probe_of_a_half_open_breaker(scene):
    await judge_as(scene, GOOD)
    rules = scene.settings.breaker
    opened = Breaker(opened=1000 - rules.cooldown)
    assert opened.state(1001, rules) == "half_open"
    scene.state = dataclasses.replace(scene.state, breaker=opened)
    assert [p.kind for p in await scene.to(1030)] == ["update"]


async def test_where_nothing_serves_when_it_concludes_it_is_no_first_model(scene):
    given = await judge_as(scene, GOOD)
    await scene.to(1001)
    scene.members.champion, scene.members.complete = None, False
    await scene.to(1003)
    assert (given, scene.registry.verdicts, scene.state.pending) == ([], [], None)
    [(kind, told)] = scene.registry.notes
    assert kind == "federated_skipped"
    assert "nothing serves" in told["detail"]["reason"]


async def test_it_waits_for_the_hours_that_the_config_names(tmp_path):
    # Slot 1152 begins at midnight; updates are due at 1211 and 1235, see `test_learning`.
    made = _Scene(tmp_path, update_window="05:00-08:00")
    made.home = made.learning._home = _Home(tmp_path / "home")
    made.home.has(4)
    await judge_as(made, GOOD)
    due = await made.to(1300)
    assert [p.asked_slot for p in due if p.kind == "federated"] == [1213]


def _pending() -> Pending:
    return Pending("federated", "federated-1001", 1001, 1002, None, None, 6, 4)


async def test_a_site_that_does_not_answer_is_asked_again_an_hour_later(scene, caplog):
    await judge_as(scene, GOOD)
    scene.home.silent = True
    assert await scene.to(1005) == []
    assert scene.home.asked == ["offer"]
    assert "asked again in an hour" in caplog.text
    scene.home.silent = False
    assert [p.asked_slot for p in await scene.to(1014)] == [1001 + HOUR]


def test_a_state_of_before_loads_and_has_taken_no_global_version(tmp_path):
    path = tmp_path / "state.json"
    pending = Pending("update", "update-5", 5, 6, 1)
    StateFile(path).save(ControllerState(slot=5, pending=pending))
    tree = json.loads(path.read_text())
    del tree["global_version"], tree["pending"]["global_version"]
    path.write_text(json.dumps(tree))
    assert StateFile(path).load() == ControllerState(slot=5, pending=pending)
