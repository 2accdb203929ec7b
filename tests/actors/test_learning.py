"""Which training is due when: the rules alone, over stand-ins that remember what was asked."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest

from actors import arguments
from actors.learning import Learning
from actors.local import LocalHandle
from actors.state import ControllerState, Pending, StateFile
from forecast.canonical import sha256
from forecast.errors import ArtifactError, NothingNew
from forecast.hours import Hours
from forecast.pauses import Pause
from forecast.versions import RegistryState
from tests.actors.scenario import ROLLOUT, small_config, small_replay
from tests.train.losses_scene import losses
from train.breaker import Breaker
from train.evidence import unpack
from train.gate import Evidence

REPLAY = small_replay()
HOUR = 12
RETRAIN = {"retrain_interval_hours": 10, "lookback_days": 2}


def _result(job):
    given = {"artifact": "challenger", "report": {}, "window_losses": None}
    return SimpleNamespace(update_id=job.update_id, **given)


class _Buffer:
    """A history from slot 0 on; `draw` and `holdout` give back what was asked."""

    def __init__(self):
        self.may_learn = True
        self.rows = 1000
        self.told = []
        self.quiet, self.quiet_asked = None, []

    async def status(self):
        return SimpleNamespace(first_slot=0, may_learn=self.may_learn)

    async def new_rows_since(self, slot, as_of):
        return self.rows

    async def quiet_hours(self, as_of):
        self.quiet_asked.append(as_of)
        return self.quiet

    async def draw(self, **query):
        return query

    async def holdout(self, **query):
        return query

    async def rehearse(self, **query):
        return query

    async def reprioritize(self, update_id, losses):
        self.told.append((update_id, losses))


class _Trainer:
    """Fails every training, after writing down what it was asked for."""

    def __init__(self):
        self.asked = []

    async def train_base(self, job, windows, validation, start=None):
        self.asked.append((job, windows, validation))
        self.start = start
        raise RuntimeError("out of luck")

    async def update(self, job, champion, windows):
        self.asked.append((job, windows, None))
        raise RuntimeError("out of luck")


class _Registry:
    """Version 3 is the anchor; verdicts are written down."""

    def __init__(self):
        self.anchor = 3
        self.damaged, self.versions, self.paused = set(), (), None
        self.verdicts, self.notes = [], []

    async def verdict(self, update_id):
        return None

    async def load(self, version):
        if version in self.damaged:
            raise ArtifactError("weights have another sha256")
        return version

    async def state(self):
        aliases = {"champion": 3, "anchor": self.anchor}
        return RegistryState(aliases=aliases, versions=self.versions, paused=self.paused)

    async def register(self, artifact, *, update_id, slot):
        return 9

    async def keep_evidence(self, data, *, slot):
        self.kept = unpack(data)
        return sha256(data)

    async def promote(self, version, **record):
        self.verdicts.append(("promote", version, record))

    async def accept(self, version, **record):
        self.verdicts.append(("accept", version, record))

    async def reject(self, version, **record):
        self.verdicts.append(("reject", version, record))

    async def note(self, kind, **detail):
        self.notes.append((kind, detail))


class _Scene:
    """A champion that was trained at slot 1000, and a clock to turn."""

    def __init__(self, tmp_path, *, kind="base", **learning):
        config = small_config(tmp_path, REPLAY, **learning)
        self.settings = arguments.settings(config)
        self.buffer, self.trainer, self.registry = _Buffer(), _Trainer(), _Registry()
        self.members = SimpleNamespace(champion=3, complete=True)
        self.learning = Learning(
            buffer=LocalHandle(self.buffer),
            trainer=LocalHandle(self.trainer),
            registry=LocalHandle(self.registry),
            members=self.members,
            settings=self.settings,
        )
        self.learning.champion_is({"kind": kind, "slot": 1000})
        self.state = ControllerState(slot=1000, last_update_slot=1000)

    def judged_as(self, evidence):
        """Trainings succeed from now on and are found to be this; with what they are judged."""
        given = []

        async def update(job, champion, windows):
            return _result(job)

        async def judge(challenger, holdout, champion, anchor, started_from_champion):
            given.append((champion, anchor, started_from_champion))
            return evidence

        self.trainer.update, self.trainer.judge = update, judge
        return given

    async def to(self, slot):
        """Step slot by slot; what became due on the way."""
        due = []
        while self.state.slot < slot:
            before = self.state.pending
            state = dataclasses.replace(self.state, slot=self.state.slot + 1)
            self.state = await self.learning.step(state)
            if self.state.pending is not None and before is None:
                due.append(self.state.pending)
        return due


async def test_a_retrain_comes_a_period_after_the_last_training_from_nothing(tmp_path):
    scene = _Scene(tmp_path, **RETRAIN)
    due = await scene.to(1000 + 25 * HOUR)
    assert [p.asked_slot for p in due if p.kind == "retrain"] == [1120, 1240]
    assert due[4] == Pending("retrain", "retrain-1120", 1120, 1121, 3, None, 6)
    updates = [p.asked_slot for p in due if p.kind == "update"]
    assert updates == [1024, 1048, 1072, 1096, 1144, 1168, 1192, 1216, 1264, 1288]


@pytest.mark.parametrize("changes", [{"retrain_interval_hours": 0}, {"enabled": False}])
async def test_without_a_period_or_without_learning_there_is_no_retrain(changes, tmp_path):
    scene = _Scene(tmp_path, **{**RETRAIN, **changes})
    assert not [p for p in await scene.to(1300) if p.kind == "retrain"]


async def test_a_retrain_reads_the_lookback_and_nothing_it_is_compared_on(tmp_path):
    scene = _Scene(tmp_path, **RETRAIN)
    await scene.to(1123)
    job, windows, validation = scene.trainer.asked[-1]
    # Its weights are chosen on the validation windows: they too end a horizon before the holdout.
    before = 1120 - scene.settings.holdout_hours * HOUR - scene.settings.horizon
    assert (job.kind, job.parent, job.seed) == ("retrain", 3, scene.settings.seed + 1120)
    assert windows["hours"] == 48
    assert windows["as_of"] == validation["as_of"] == before
    assert "retrain-1120 failed: out of luck" in scene.learning.last_failure


async def test_a_retrain_done_by_hand_begins_the_period_anew(tmp_path):
    scene = _Scene(tmp_path, **RETRAIN)
    await scene.to(1100)
    scene.learning.champion_is({"kind": "retrain", "slot": 1110})
    due = await scene.to(1240)
    assert [p.asked_slot for p in due if p.kind == "retrain"] == [1230]


async def test_a_promoted_update_does_not_begin_it_anew(tmp_path):
    scene = _Scene(tmp_path, **RETRAIN)
    await scene.to(1100)
    scene.learning.champion_is({"kind": "update", "slot": 1098})
    assert [p.asked_slot for p in await scene.to(1122) if p.kind == "retrain"] == [1120]


async def test_where_nobody_knows_when_the_last_one_was_the_period_begins_now(tmp_path):
    scene = _Scene(tmp_path, kind="update", **RETRAIN)
    due = await scene.to(1130)
    # Ten hours after 1001, and a slot later: an update is under way just then.
    assert [p.asked_slot for p in due if p.kind == "retrain"] == [1122]


async def test_the_periodic_strategy_makes_a_full_retrain_a_day_and_no_updates(tmp_path):
    scene = _Scene(tmp_path, strategy="periodic", lookback_days=2)
    due = await scene.to(1000 + 60 * HOUR)
    assert [(p.kind, p.asked_slot) for p in due] == [("retrain", 1288), ("retrain", 1576)]
    every = _Scene(tmp_path, strategy="periodic", **RETRAIN)
    assert [p.asked_slot for p in await every.to(1250)] == [1120, 1240]


async def test_a_retrain_begins_from_nothing_or_from_the_champion(tmp_path):
    for asked, start in (("scratch", None), ("warm", 3)):
        scene = _Scene(tmp_path, retrain_start=asked, **RETRAIN)
        await scene.to(1123)
        assert scene.trainer.start == start
    scene.registry.damaged = {3}  # then too it goes on, from nothing
    await scene.to(1250)
    assert (scene.trainer.asked[-1][0].kind, scene.trainer.start) == ("retrain", None)


async def test_trainings_wait_for_the_hours_that_the_config_names(tmp_path):
    # Slot 1152 begins at midnight; an update is due two hours after the last one.
    scene = _Scene(tmp_path, update_window="05:00-08:00")
    asked = [p.asked_slot for p in await scene.to(1300)]
    assert asked == [1211, 1235]  # 05:00 and 07:00
    assert scene.buffer.quiet_asked == []


async def test_hours_are_learned_once_a_day_from_what_was_known_before_it(tmp_path):
    scene = _Scene(tmp_path, update_window="learned")
    scene.buffer.quiet = Hours(5 * 60, 8 * 60)
    assert [p.asked_slot for p in await scene.to(1300)] == [1211, 1235]
    assert scene.buffer.quiet_asked == [863, 1151]


async def test_an_urgent_update_waits_only_for_the_one_under_way(tmp_path):
    scene = _Scene(tmp_path, update_window="05:00-08:00")
    scene.buffer.rows = 1  # fewer than min_samples_for_update
    state = dataclasses.replace(scene.state, slot=1001)
    state = await scene.learning.step(dataclasses.replace(state, drift_due=1001))
    pending = Pending("update", "update-1001", 1001, 1002, 3)
    assert dataclasses.replace(state.pending, drift=None, holdout_hours=None) == pending
    state = await scene.learning.step(dataclasses.replace(state, slot=1002, drift_due=1002))
    assert state.pending is None
    state = await scene.learning.step(dataclasses.replace(state, slot=1003, drift_due=None))
    assert state.pending is None


async def test_windows_are_masked_by_what_is_known_when_they_are_asked_for(tmp_path):
    scene = _Scene(tmp_path, **RETRAIN)
    await scene.to(1123)
    _, windows, validation = scene.trainer.asked[-1]
    assert windows["known_at"] == validation["known_at"] == 1120


async def test_with_too_little_disk_nothing_starts_until_there_is_more(tmp_path, caplog):
    scene = _Scene(tmp_path)
    scene.buffer.may_learn = False
    assert await scene.to(1040) == []
    assert caplog.text.count("waits for free space") == 1
    scene.buffer.may_learn = True
    assert [p.update_id for p in await scene.to(1042)] == ["update-1041"]


async def test_while_promotion_is_paused_a_challenger_is_judged_and_refused_with_the_reason(
    tmp_path,
):
    scene = _Scene(tmp_path)
    scene.registry.paused = Pause("ann", "bad night", 1000)
    scene.judged_as(Evidence(losses=losses({"challenger": 0.0, "champion": 0.0})))
    await scene.to(1026)
    [(verdict, version, record)] = scene.registry.verdicts
    assert (verdict, version) == ("reject", 9)
    assert record["reasons"][0] == "promotion is paused by ann since slot 1000: bad night"
    assert "WQL changes by +0.00%" in record["reasons"][1]  # what the gate found stands beside it


async def test_while_learning_is_paused_no_training_starts_and_then_one_does_at_once(tmp_path):
    scene = _Scene(tmp_path, **RETRAIN)
    scene.registry.paused = Pause("ann", "audit", 1000, learning=True)
    assert await scene.to(1300) == []
    scene.registry.paused = None
    assert [p.kind for p in await scene.to(1301)] == ["retrain"]


async def test_while_the_breaker_is_open_no_update_starts_and_then_one_does(tmp_path):
    scene = _Scene(tmp_path)
    opened = Breaker(opened=1000)
    scene.state = dataclasses.replace(scene.state, breaker=opened)
    probe = 1000 + scene.settings.breaker.cooldown
    due = await scene.to(probe + 5)
    assert [p.asked_slot for p in due] == [probe]
    assert scene.learning.last_failure is not None


@pytest.mark.parametrize(
    ("evidence", "failure"),
    [
        (Evidence(losses=losses({"challenger": 0.0, "champion": 0.0})), None),
        (Evidence(losses=losses({"challenger": 0.5, "champion": 0.0})), None),
        (Evidence(losses=None, fault="its weights have another shape"), "another shape"),
    ],
)
async def test_a_training_ends_well_unless_its_challenger_cannot_be_used(
    evidence, failure, tmp_path
):
    scene = _Scene(tmp_path)
    scene.judged_as(evidence)
    await scene.to(1025)
    outcome = scene.learning.outcome
    assert outcome is not None
    assert (outcome.failure is None) == (failure is None)
    assert failure is None or failure in outcome.failure
    await scene.to(1026)
    assert scene.learning.outcome is None


async def test_a_training_that_fails_is_a_failure_and_one_that_was_skipped_is_none(tmp_path):
    scene = _Scene(tmp_path)
    await scene.to(1025)
    assert "out of luck" in scene.learning.outcome.failure

    async def update(job, champion, windows):
        raise NothingNew("nothing to learn")

    scene.trainer.update = update
    await scene.to(1049)
    assert scene.learning.outcome is None


async def test_a_challenger_is_compared_with_what_a_job_promoted_meanwhile(tmp_path):
    scene = _Scene(tmp_path)
    judged = []

    async def update(job, champion, windows):
        return _result(job)

    async def judge(challenger, holdout, champion, anchor, started_from_champion):
        judged.append((challenger, champion, anchor, started_from_champion))
        raise RuntimeError("enough")

    scene.trainer.update, scene.trainer.judge = update, judge
    due = await scene.to(1024)
    assert [p.parent for p in due] == [3]
    scene.members.champion = 4
    await scene.to(1026)
    assert judged == [("challenger", 4, 3, False)]


async def test_an_update_of_what_was_rolled_back_meanwhile_is_refused_unseen(tmp_path):
    scene = _Scene(tmp_path)
    given = scene.judged_as(Evidence(losses=losses({})))
    await scene.to(1024)
    scene.registry.versions = (SimpleNamespace(version=3, status="withdrawn"),)
    scene.members.champion = 2
    await scene.to(1025)
    [(verdict, version, record)] = scene.registry.verdicts
    assert (verdict, version, given) == ("reject", None, [])
    assert record["reasons"] == ("version 3, which it learned on from, was withdrawn",)
    assert scene.state.pending is None


async def test_an_update_is_compared_with_its_parent_and_with_the_anchor(tmp_path):
    scene = _Scene(tmp_path)
    scene.registry.anchor = 2
    given = scene.judged_as(Evidence(losses=losses({"challenger": 0.0, "champion": 0.0})))
    await scene.to(1026)
    assert given == [(3, 2, True)]
    [(verdict, version, record)] = scene.registry.verdicts
    assert (verdict, version, record["anchor"]) == ("promote", 9, 3)  # 2 was not comparable
    assert record["report"]["anchor"] == 2
    assert record["who"] == "gate"


async def test_the_anchor_is_not_loaded_twice_where_it_is_the_champion(tmp_path):
    scene = _Scene(tmp_path)
    given = scene.judged_as(Evidence(losses=losses({"challenger": 0.1, "champion": 0.0})))
    await scene.to(1026)
    assert given == [(3, None, True)]
    [(verdict, _, record)] = scene.registry.verdicts
    assert (verdict, record["anchor"]) == ("reject", None)


async def test_an_anchor_that_is_damaged_does_not_stop_learning(tmp_path, caplog):
    scene = _Scene(tmp_path)
    scene.registry.anchor, scene.registry.damaged = 2, {2}
    given = scene.judged_as(Evidence(losses=losses({"challenger": 0.0, "champion": 0.0})))
    await scene.to(1026)
    assert given == [(3, None, True)]
    assert "version 2 cannot be compared with" in caplog.text
    assert scene.registry.verdicts[0][0] == "promote"


async def test_a_challenger_that_cannot_be_used_is_refused_and_never_registered(tmp_path):
    scene = _Scene(tmp_path, enable_validation=False)
    scene.judged_as(Evidence(losses=None, fault="its weights have another shape"))
    await scene.to(1026)
    [(verdict, version, record)] = scene.registry.verdicts
    assert (verdict, version) == ("reject", None)
    assert "another shape" in record["reasons"][0]
    assert scene.learning.last_failure is None


async def test_validation_off_is_on_record(tmp_path):
    scene = _Scene(tmp_path, enable_validation=False)
    scene.judged_as(Evidence(losses=losses({"challenger": 0.5, "champion": 0.0})))
    await scene.to(1026)
    [(verdict, _, record)] = scene.registry.verdicts
    assert (verdict, record["report"]["validated"]) == ("promote", False)
    assert "validation is off" in record["reasons"][0]


async def test_the_gate_goes_by_what_the_config_says(tmp_path):
    scene = _Scene(tmp_path, validation_threshold=0.02, max_weight_move=0.1)
    evidence = Evidence(losses=losses({"challenger": 0.0, "champion": 0.0}), moved=0.2)
    scene.judged_as(evidence)
    await scene.to(1026)
    [(verdict, _, record)] = scene.registry.verdicts
    assert (verdict, record["report"]["threshold"]) == ("reject", 0.02)
    assert record["report"]["most_weight_move"] == 0.1


@pytest.mark.parametrize(("drift", "stage"), [(None, "shadow"), (1020, "canary")])
async def test_with_a_rollout_what_passes_is_accepted_and_after_a_drift_goes_the_fast_lane(
    tmp_path, drift, stage
):
    scene = _Scene(tmp_path)
    settings = dataclasses.replace(scene.settings, rollout=ROLLOUT)
    scene.settings = scene.learning._settings = settings
    scene.judged_as(Evidence(losses=losses({"challenger": 0.0, "champion": 0.0})))
    scene.state = dataclasses.replace(scene.state, drift_due=drift)
    await scene.to(1026 if drift is None else 1003)
    [(verdict, version, record)] = scene.registry.verdicts
    assert (verdict, version, record["stage"]) == ("accept", 9, stage)
    assert (record["canary_share"], record["fast"]) == (0.1, drift is not None)


async def test_without_a_champion_that_answers_what_passes_serves_at_once_all_the_same(tmp_path):
    scene = _Scene(tmp_path)
    scene.learning._settings = dataclasses.replace(scene.settings, rollout=ROLLOUT)
    scene.judged_as(Evidence(losses=losses({"challenger": 0.0})))  # the champion's are not finite
    await scene.to(1026)
    assert [verdict for verdict, _, _ in scene.registry.verdicts] == ["promote"]


async def test_a_disk_that_is_full_fails_the_update_and_not_the_step(tmp_path):
    scene = _Scene(tmp_path)

    async def judge(*given):
        raise OSError(28, "No space left on device")

    async def update(job, champion, windows):
        return _result(job)

    scene.trainer.update, scene.trainer.judge = update, judge
    await scene.to(1026)
    assert scene.state.pending is None
    assert "No space left" in scene.learning.last_failure


def test_a_state_file_of_before_retrains_is_read(tmp_path):
    path = tmp_path / "state.json"
    old = {"format": 1, "slot": 7, "last_update_slot": 3, "pending": None}
    path.write_text(json.dumps(old))
    assert StateFile(path).load() == ControllerState(7, 3, None, None)
    state = ControllerState(9, 3, Pending("retrain", "retrain-3", 3, 4, 1), 3)
    StateFile(path).save(state)
    assert StateFile(path).load() == state


async def test_with_replay_a_share_of_an_update_comes_from_the_table_and_nothing_else_does(
    tmp_path,
):
    changes = {"strategy": "replay", "replay_sample_ratio": 0.4, "replay_buffer_size": 900}
    config = small_config(tmp_path, REPLAY, **changes)
    assert arguments.buffer(config)["replay_windows"] == 900
    assert arguments.buffer(small_config(tmp_path, REPLAY))["replay_windows"] == 0
    scene, plain = _Scene(tmp_path, **changes, **RETRAIN), _Scene(tmp_path, **RETRAIN)
    for one in (scene, plain):
        await one.to(1123)
    asked = {job.kind if hasattr(job, "kind") else "update": q for job, q, _ in scene.trainer.asked}
    usual = {job.kind if hasattr(job, "kind") else "update": q for job, q, _ in plain.trainer.asked}
    more = {"update_id": "update-1096", "ratio": 0.4}
    assert asked == {"retrain": usual["retrain"], "update": {**usual["update"], **more}}


async def test_the_table_hears_of_an_updates_losses_before_the_verdict_and_only_of_an_updates(
    tmp_path,
):
    scene = _Scene(tmp_path, strategy="replay")
    scene.judged_as(Evidence(losses=losses({"challenger": 0.0, "champion": 0.0})))
    told_at_verdict = []

    async def promote(version, **record):
        told_at_verdict.append(list(scene.buffer.told))

    scene.registry.promote = promote
    await scene.to(1026)
    assert told_at_verdict == [[("update-1024", None)]]


async def test_an_update_that_was_not_worth_it_is_put_on_record_and_is_no_failure(tmp_path):
    scene = _Scene(tmp_path, active_learning=True)

    async def update(job, champion, windows):
        raise NothingNew("5 of 64 windows are uncertain or novel, an update needs 10")

    scene.trainer.update = update
    due = await scene.to(1050)
    assert [p.asked_slot for p in due] == [1024, 1048]
    assert scene.learning.last_failure is None
    assert [kind for kind, _ in scene.registry.notes] == 2 * ["update_skipped"]
    assert scene.registry.notes[0][1]["detail"]["update_id"] == "update-1024"
    assert scene.registry.verdicts == []


def test_active_learning_reaches_the_trainer_with_its_threshold(tmp_path):
    off = small_config(tmp_path, REPLAY, uncertainty_threshold=0.9)
    on = small_config(tmp_path, REPLAY, uncertainty_threshold=0.9, active_learning=True)
    assert arguments.trainer(off)["uncertainty"] is None
    assert arguments.trainer(on)["uncertainty"] == 0.9


async def test_a_confirmed_drift_asks_for_an_update_at_once_and_only_once(tmp_path):
    scene = _Scene(tmp_path, update_frequency_minutes=600, min_samples_for_update=10_000)
    state = dataclasses.replace(scene.state, slot=1001)
    assert (await scene.learning.step(state)).pending is None
    due = dataclasses.replace(state, drift_due=1000)
    after = await scene.learning.step(due)
    assert (after.pending.kind, after.pending.drift, after.drift_due) == ("update", 1000, None)
    await scene.learning.step(dataclasses.replace(after, slot=1002))  # takes the training in


async def test_without_learning_a_drift_asks_for_nothing(tmp_path):
    scene = _Scene(tmp_path, enabled=False)
    state = dataclasses.replace(scene.state, slot=1001, drift_due=1000)
    assert (await scene.learning.step(state)).pending is None


async def test_where_there_are_no_updates_a_drift_asks_for_a_retrain_at_once(tmp_path):
    periodic = {"strategy": "periodic", "lookback_days": 2, "gate_holdout_hours": 6}
    scene = _Scene(tmp_path, update_window="05:00-08:00", **periodic)
    drifted = {"drift_due": 1100, "drift_since": 1100 - 4 * HOUR}
    state = dataclasses.replace(scene.state, slot=1101, **drifted)
    after = await scene.learning.step(state)
    assert (after.pending.kind, after.pending.drift, after.drift_due) == ("retrain", 1100, None)
    assert after.last_full_slot == 1101
    await scene.learning.step(dataclasses.replace(after, slot=1102))  # takes the training in
    [(_, windows, exams)] = scene.trainer.asked
    before = 1101 - 4 * HOUR - scene.settings.horizon  # what came since is held out, no more
    assert (windows["as_of"], windows["holdout_hours"]) == (before, 4)
    assert (exams["as_of"], exams["hours"]) == (before, 4)


async def test_a_drift_of_before_the_champion_learned_asks_for_nothing(tmp_path):
    scene = _Scene(tmp_path)
    state = dataclasses.replace(scene.state, slot=999, drift_due=998)
    state = await scene.learning.step(state)
    assert (state.pending, state.drift_due) == (None, None)


async def test_after_a_drift_of_the_fleet_only_what_came_since_is_held_out(tmp_path):
    scene = _Scene(tmp_path, gate_holdout_hours=6)
    held = {}
    for since in (None, 1000 - HOUR, 1000 - 4 * HOUR, 1000 - 50 * HOUR):
        state = dataclasses.replace(scene.state, slot=1001, drift_due=1000, drift_since=since)
        after = await scene.learning.step(state)
        held[since] = after.pending.holdout_hours
        await scene.learning.step(dataclasses.replace(after, slot=1002))  # takes the training in
    assert list(held.values()) == [6, 3, 4, 6]
    window = scene.trainer.asked[-1][1]
    assert window["holdout_hours"] in (3, 4, 6)
