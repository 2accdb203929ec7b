"""Twin, breaker and notices in the controller: what is done, once, and the same after a restart."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from actors import arguments
from actors.local import LocalHandle
from actors.registry import RegistryActor
from actors.safety import Safety
from actors.state import ControllerState, StateFile
from connect.webhook import Outbox
from forecast.errors import StateError
from forecast.record import ServerStatus
from forecast.scoring import StepReport
from tests.actors.scenario import small_config, small_replay
from tests.forecast.registry_scene import artifact
from train.breaker import Breaker, BreakerRules, Outcome

REPLAY = small_replay()
SERVERS = ("db-1", "web-1", "web-2")
BLOCK, DAY, COOLDOWN = 2, 48, 12
"""Slots of half an hour: an hour, a day, six hours."""
RULES = BreakerRules(failures=3, window=DAY, cooldown=COOLDOWN)
WORSE, BETTER = 1.1, 0.9


class _Buffer:
    async def servers(self, slot):
        return [
            ServerStatus(name, name.partition("-")[0], "UTC", "active", 0, slot, 0)
            for name in SERVERS
        ]

    async def actuals(self, slot):
        return SERVERS, np.ones((3, 1), np.float32)


class _Ledger:
    """Reports in which the champion lost `share` times what the twin did; kept for a day."""

    def __init__(self, targets, share):
        self.targets, self.share, self.through = targets, share, -1

    def report(self, slot):
        rng = np.random.default_rng(slot)
        shape = (len(SERVERS), len(self.targets))
        twin = rng.uniform(0.5, 1.5, shape)
        champion = self.share * twin * rng.uniform(0.98, 1.02, shape)
        loss = np.stack([champion, twin]).astype(np.float32)
        actuals = rng.uniform(5, 15, shape).astype(np.float32)
        members = ("champion", "twin")
        return StepReport(slot, 1, SERVERS, members, (None, None), loss, actuals)

    async def score(self, slot, actuals, masked=()):
        if slot < self.through - DAY:
            raise StateError(f"no report of slot {slot} is kept")
        return self.report(slot)


class _Scene:
    """Versions 1 (the base), 2 and 3, the champion; the anchor is 2. Slots from 0 on."""

    def __init__(self, folder, *, share=WORSE, breaker=RULES, **changes):
        config = small_config(folder, REPLAY)
        given = arguments.settings(config)
        schema = replace(given.schema, step_seconds=1800)
        known = {"schema": schema, "horizon": 2, "update_every": 4, "learning": False}
        self.settings = replace(given, **{**known, "breaker": breaker, **changes})
        self.actor = RegistryActor(**arguments.registry(config))
        self.registry = self.actor._registry
        for version in (1, 2, 3):
            kind = "base" if version == 1 else "update"
            made = artifact(
                f"u{version}", kind=kind, fingerprint=config.panel.schema_of().fingerprint()
            )
            at = {"update_id": f"u{version}", "slot": version - 10}
            self.registry.register(made, **at)
            anchor = 2 if version == 3 else None
            self.registry.promote(version, reasons=("yes",), who="gate", anchor=anchor, **at)
        self.ledger = _Ledger(self.settings.schema.targets, share)
        self.file = StateFile(folder / "state.json")
        self.outbox = Outbox(folder / "notices.json")
        self.state = ControllerState(slot=-1)
        self.start()

    def start(self):
        """As a start of the process does: all that is not on disk is gone."""
        self.safety = Safety(
            buffer=LocalHandle(_Buffer()),
            ledger=LocalHandle(self.ledger),
            registry=LocalHandle(self.actor),
            file=self.file,
            settings=self.settings,
            outbox=self.outbox,
        )

    async def step(self, slot, outcome=None, *, commit=True):
        """One slot; without a commit it is cut short there."""
        self.ledger.through = slot
        state = replace(self.state, slot=slot)
        state = await self.safety.step(self.ledger.report(slot), state, self.state)
        state = await self.safety.learned(outcome, state)
        await self.safety.save(state)
        if commit:
            self.file.save(state)
            self.state = state
            self.safety.committed(state)
        return state

    async def to(self, slot, *, restarts=()):
        """Every slot up to this one."""
        while self.state.slot < slot:
            if self.state.slot in restarts:
                self.state = self.file.load()
                self.start()
            await self.step(self.state.slot + 1)

    def told(self):
        return [notice.kind for notice in self.outbox.waiting]


# The twin


async def test_three_days_below_the_twin_restore_the_anchor_pause_promotion_and_tell_people(
    tmp_path, caplog
):
    scene = _Scene(tmp_path)
    await scene.to(3 * DAY - 2)
    assert (scene.registry.state().champion, scene.told()) == (3, [])
    await scene.to(3 * DAY - 1)
    state = scene.registry.state()
    assert (state.champion, state.anchor, state.paused.who) == (2, 2, "twin")
    assert scene.safety.restored  # the rest of this step goes by who serves now
    assert scene.told() == ["twin_restored"]
    assert "for 72 h the champion erred" in scene.outbox.waiting[0].text
    assert "version 2 is restored and promotion is paused" in caplog.text
    told = scene.safety.told(scene.state)
    assert told["twin_restores"] == 1
    assert told["gain"]["upper"]["all"] < 0
    assert set(told["gain"]["ratio"]) == {"all", "db", "web"}


async def test_where_the_anchor_serves_already_the_base_is_restored(tmp_path):
    scene = _Scene(tmp_path)
    scene.registry.set_alias("anchor", 3, slot=0, who="ann", reason="it is the best")
    await scene.to(3 * DAY - 1)
    assert scene.registry.state().champion == 1


@pytest.mark.parametrize(
    ("damaged", "champion", "said"),
    [
        ((2,), 1, "version 1 is restored and promotion is paused"),
        ((2, 1), 3, "version 1 cannot be restored"),
    ],
)
async def test_where_the_anchor_is_damaged_the_base_is_restored_and_without_it_only_paused(
    tmp_path, damaged, champion, said
):
    scene = _Scene(tmp_path)
    for version in damaged:
        for path in scene.actor._artifacts.glob(f"{version:06d}/weights*"):
            path.write_bytes(b"damaged")
    await scene.to(3 * DAY - 2)
    for _ in range(2):  # cut short, and done again by another process
        await scene.step(3 * DAY - 1, commit=False)
        scene.start()
    before = scene.registry.state()
    await scene.to(3 * DAY)
    assert scene.registry.state() == before
    assert (before.champion, before.paused.who) == (champion, "twin")
    assert scene.told()[:1] == ["twin_restored"]
    assert said in scene.outbox.waiting[0].text
    kinds = [record.kind for record in scene.registry._audit.records(since=6)]
    assert kinds == ["rollback" if champion == 1 else "pause"]


async def test_a_gain_restores_nothing_and_neither_does_harm_where_it_is_only_told(tmp_path):
    for name, changes in (("better", {"share": BETTER}), ("told", {"twin_hours": 0})):
        scene = _Scene(tmp_path / name, **changes)
        await scene.to(4 * DAY)
        assert (scene.registry.state().champion, scene.registry.state().paused) == (3, None)
        assert scene.safety.told(scene.state)["gain"]["ratio"]["all"] != 0


async def test_a_step_cut_short_after_the_restore_is_done_again_with_the_same_result(tmp_path):
    whole, cut = _Scene(tmp_path / "whole"), _Scene(tmp_path / "cut")
    await whole.to(3 * DAY + 5)
    await cut.to(3 * DAY - 2)
    await cut.step(3 * DAY - 1, commit=False)
    assert cut.registry.state().champion == 2
    cut.state = cut.file.load()
    cut.start()
    await cut.to(3 * DAY + 5)
    assert cut.state == whole.state
    assert cut.registry.state() == whole.registry.state()
    assert cut.told() == whole.told() == ["twin_restored"]
    assert cut.state.breaker.failures == (3 * DAY,)  # the rollback counts, in the step after it


async def test_a_restore_in_a_step_that_fails_later_is_told_when_it_is_done_again(tmp_path):
    whole, failed = _Scene(tmp_path / "whole"), _Scene(tmp_path / "failed")
    await whole.to(3 * DAY + 5)
    await failed.to(3 * DAY - 2)
    for _ in range(2):  # the rest of the step raises: nothing is saved
        slot = failed.ledger.through = 3 * DAY - 1
        state = replace(failed.state, slot=slot)
        await failed.safety.step(failed.ledger.report(slot), state, failed.state)
        assert failed.safety.restored
    await failed.to(3 * DAY + 5)
    assert failed.outbox.waiting == whole.outbox.waiting
    assert failed.told() == ["twin_restored"]
    assert failed.safety.told(failed.state)["twin_restores"] == 1
    assert (failed.state, failed.registry.state()) == (whole.state, whole.registry.state())
    kept = [one.file.part("twin", one.state.twin_slot) for one in (failed, whole)]
    assert kept[0] is not None
    assert kept[0] == kept[1]


async def test_a_step_that_failed_and_is_done_again_in_the_same_process_counts_once(tmp_path):
    once, twice = _Scene(tmp_path / "once"), _Scene(tmp_path / "twice")
    for slot in range(9 * BLOCK):
        await once.step(slot)
        await twice.step(slot, commit=False)
        await twice.step(slot)
    assert twice.state == once.state
    [mine], [theirs] = (
        [path.read_bytes() for path in (tmp_path / name).glob("twin-*.fcar")]
        for name in ("once", "twice")
    )
    assert mine == theirs


async def test_restarts_change_no_bit_of_what_is_known(tmp_path):
    whole, again = _Scene(tmp_path / "whole"), _Scene(tmp_path / "again")
    await whole.to(DAY + 9)
    await again.to(DAY + 9, restarts={0, 1, 2, 5, 22, DAY})
    assert again.state == whole.state
    assert again.file.part("twin", again.state.twin_slot) == whole.file.part(
        "twin", whole.state.twin_slot
    )
    assert len(list((tmp_path / "again").glob("twin-*.fcar"))) == 1


async def test_a_damaged_file_begins_anew_and_says_so(tmp_path, caplog):
    scene = _Scene(tmp_path)
    await scene.to(9 * BLOCK)
    [path] = tmp_path.glob("twin-*.fcar")
    path.write_bytes(b"damaged")
    scene.start()
    await scene.to(10 * BLOCK)
    assert "begins anew" in caplog.text


# The breaker


async def fail(scene, *slots):
    """Failed trainings at these slots, and every slot up to the last of them."""
    for slot in slots:
        await scene.to(slot - 1)
        await scene.step(slot, Outcome("out of luck"))


async def test_failures_open_it_people_are_told_and_a_probe_that_succeeds_closes_it(tmp_path):
    scene = _Scene(tmp_path, twin_share=0.0)
    await fail(scene, 5, 9, 20)
    assert scene.told() == ["breaker_open"]
    assert "learning stops for 6 h" in scene.outbox.waiting[0].text
    told = scene.safety.told(scene.state)["breaker"]
    assert (told["state"], told["open"], told["probe_slot"]) == ("open", True, 20 + COOLDOWN)
    await scene.to(20 + COOLDOWN)
    assert scene.safety.told(scene.state)["breaker"]["state"] == "half_open"
    await scene.step(21 + COOLDOWN, Outcome(None))
    assert scene.safety.told(scene.state)["breaker"]["state"] == "closed"
    assert scene.told() == ["breaker_open", "breaker_closed"]
    kinds = [record.kind for record in scene.registry._audit.records()]
    assert kinds[-2:] == ["breaker_open", "breaker_closed"]


async def test_a_rollback_is_a_failure_and_a_resume_closes_it(tmp_path):
    scene = _Scene(tmp_path, twin_share=0.0)
    await fail(scene, 5, 9)
    scene.registry.rollback(slot=9, who="ann", reason="bad night", pause=True)
    await scene.to(10)
    assert scene.state.breaker == Breaker(opened=10)
    scene.registry.resume(reason="found it", who="ann", slot=12)
    await scene.to(12)
    assert scene.state.breaker.opened == 10  # what came in with a slot counts from the next on
    await scene.to(13)
    assert scene.state.breaker == Breaker()
    assert scene.told() == ["rollback", "breaker_open", "resumed", "breaker_closed"]
    assert "version 2 serves again, by ann: bad night" in scene.outbox.waiting[0].text


async def test_what_was_changed_by_hand_is_taken_in_once_through_restarts_and_steps_cut_short(
    tmp_path,
):
    scene = _Scene(tmp_path, twin_share=0.0)
    await scene.to(4)
    scene.registry.pause(reason="audit", who="ann", slot=4)
    scene.registry.rollback(slot=4, who="ann", reason="bad night")
    await scene.step(5, commit=False)
    await scene.step(5, commit=False)
    scene.start()
    await scene.to(30, restarts={7, 20})
    assert scene.state.breaker.failures == (5,)
    assert scene.told() == ["promotion_paused", "rollback"]


async def test_what_was_done_before_there_was_a_breaker_is_no_news(tmp_path):
    scene = _Scene(tmp_path, twin_share=0.0)
    for slot in range(3):
        scene.registry.rollback(1 + slot % 2, slot=slot - 9, who="ann", reason="then")
    await scene.to(5)
    assert (scene.state.breaker, scene.told()) == (Breaker(), [])


async def test_without_a_breaker_nothing_is_counted(tmp_path):
    scene = _Scene(tmp_path, breaker=None, twin_share=0.0)
    await fail(scene, *range(1, 9))
    assert (scene.state.breaker, scene.told()) == (Breaker(), [])


# Learning that gives nothing


async def test_a_day_without_an_accepted_update_is_told_once_a_day(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    scene = _Scene(tmp_path, twin_share=0.0, learning=True)
    await scene.to(DAY - 9)
    assert scene.told() == []
    await scene.to(2 * DAY)
    assert scene.told() == ["no_accepted_update", "no_accepted_update"]
    assert "no update was accepted for 24 h" in caplog.text


@pytest.mark.parametrize("changes", [{"learning": False}, {"update_every": 10 * DAY}])
async def test_where_none_is_due_nobody_is_told(changes, tmp_path):
    scene = _Scene(tmp_path, twin_share=0.0, **{"learning": True, **changes})
    await scene.to(2 * DAY)
    assert scene.told() == []


def test_a_state_file_of_before_twin_and_breaker_is_read_and_one_of_now_comes_back(tmp_path):
    file = StateFile(tmp_path / "state.json")
    file.save(ControllerState(slot=7, breaker=Breaker((3, 5), None), seen_revision=4, quiet_slot=2))
    assert file.load() == ControllerState(
        slot=7, breaker=Breaker((3, 5), None), seen_revision=4, quiet_slot=2
    )
    (tmp_path / "state.json").write_text('{"format": 1, "slot": 7, "pending": null}')
    assert file.load() == ControllerState(slot=7)
