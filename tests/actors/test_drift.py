"""Drift in the controller: one that is confirmed is on record and asks for an update."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from actors import arguments
from actors.drift import DriftWatch
from actors.local import LocalHandle
from actors.state import ControllerState, StateFile
from forecast.record import CHAMPION
from forecast.scoring import StepReport
from tests.actors.scenario import small_config, small_replay
from tests.train.drift_scene import DAY, Scene
from tests.train.drift_scene import rules as drift_rules
from train.drift import Drift

REPLAY = small_replay()
CHANGE = 14


class _Fleet:
    """Buffer, ledger and registry of a made-up fleet: they answer for any slot, and write down."""

    def __init__(self, scene):
        self.scene, self.notes = scene, {}
        self.names = tuple(f"s{one}" for one in range(scene.cpu.shape[1]))

    def report(self, slot):
        at = slot - self.scene.first
        losses = np.stack([self.scene.served[at], self.scene.naive[at]])[..., None]
        return StepReport(
            slot=slot,
            cells=1,
            servers=self.names,
            members=(CHAMPION, "seasonal_naive"),
            wql=(None, None),
            loss=losses.astype(np.float32),
            actuals=self.scene.cpu[at][:, None].astype(np.float32),
        )

    async def actuals(self, slot):
        report = self.report(slot)
        return report.servers, report.actuals

    async def score(self, slot, actuals):
        return self.report(slot)

    async def masked(self, slot, known_at):
        return ()

    async def held(self, slot):
        return ()

    async def status(self):
        return SimpleNamespace(first_slot=self.scene.first)

    async def servers(self, slot):
        return ()

    async def note(self, kind, *, slot, detail):
        self.notes.setdefault((kind, slot), detail)


class _Run:
    """The controller's part that watches drift, on a state folder; `restart` as after a kill."""

    def __init__(self, fleet, folder, settings):
        self.fleet, self.settings = fleet, settings
        self.file = StateFile(folder / "state.json")
        self.restart()

    def restart(self):
        handle = LocalHandle(self.fleet)
        self.watch = DriftWatch(
            buffer=handle, ledger=handle, registry=handle, file=self.file, settings=self.settings
        )
        self.state = self.file.load()

    async def step(self, slot, *, killed=None):
        state = replace(self.state, slot=slot)
        state = await self.watch.step(self.fleet.report(slot), state, self.state)
        if killed == "scored":
            return self.restart()
        await self.watch.save(state)
        if killed == "saved":
            return self.restart()
        self.file.save(state)
        if killed == "committed":
            return self.restart()
        self.state = state
        self.watch.committed(state)
        return None


@pytest.fixture(scope="module")
def scene():
    made = Scene(servers=5, days=16)
    made.cpu[CHANGE * DAY :] *= 1.5
    return made


@pytest.fixture
def settings(tmp_path):
    found = arguments.settings(small_config(tmp_path, REPLAY))
    return replace(found, drift=drift_rules())


async def ran(folder, scene, settings, kills=()):
    fleet = _Fleet(scene)
    folder.mkdir()
    run = _Run(fleet, folder, settings)
    for slot in range(scene.first + 9 * DAY, scene.first + 15 * DAY):
        for line in kills if slot % 7 == 0 or slot % DAY < 2 else ():
            await run.step(slot, killed=line)
        if run.state.slot != slot:
            await run.step(slot)
    return run


async def test_a_kill_between_any_two_lines_changes_neither_state_nor_alarms(
    tmp_path, scene, settings
):
    once = await ran(tmp_path / "once", scene, settings)
    often = await ran(tmp_path / "often", scene, settings, kills=("scored", "saved", "committed"))
    assert often.state == once.state
    assert once.state.drift_due is not None
    assert often.fleet.notes == once.fleet.notes
    (kept,) = (tmp_path / "often").glob("drift-*.fcar")
    assert kept.read_bytes() == (tmp_path / "once" / kept.name).read_bytes()
    assert kept.name == f"drift-{once.state.drift_slot}.fcar"


async def test_a_confirmed_drift_is_on_record_and_asks_for_an_update(tmp_path, scene, settings):
    run = await ran(tmp_path / "run", scene, settings)
    begin = scene.first + CHANGE * DAY
    details = [one for (kind, slot), one in run.fleet.notes.items() if slot >= begin]
    wide = next(one for one in details if one["fleet_wide"])
    assert abs(wide["fleet_since"] - begin) <= 6
    assert run.state.drift_since == wide["fleet_since"]
    assert begin <= run.state.drift_due <= begin + DAY
    told = run.watch.told()
    assert (told["enabled"], told["watching"], told["detector"]) == (True, 5, "cusum")


async def test_without_updates_some_servers_drift_asks_for_nothing_but_the_fleets_does(
    tmp_path, settings
):
    settings = replace(settings, drift=replace(settings.drift, update_share=0.1))
    one = Scene(servers=5, days=16)
    one.cpu[CHANGE * DAY :, 0] *= 1.5
    run = await ran(tmp_path / "run", one, replace(settings, online=False))
    acted = [told for told in run.fleet.notes.values() if not told["fleet_wide"]]
    assert acted
    assert run.state.drift_due is None
    one.cpu[CHANGE * DAY :, 1:] *= 1.5
    run = await ran(tmp_path / "all", one, replace(settings, online=False))
    assert run.state.drift_due is not None


async def test_under_other_rules_it_begins_anew_from_the_stream_and_keeps_the_alarms(
    tmp_path, scene, settings
):
    run = await ran(tmp_path / "run", scene, settings)
    run.settings = replace(settings, drift=drift_rules(false_alarm_slots=50_000))
    before = run.watch.told()
    run.restart()
    await run.step(run.state.slot + 1)
    after = run.watch.told()
    assert after["watching"] > 0
    assert [one["slot"] for one in before["alarms"]] == [one["slot"] for one in after["alarms"]]


async def test_a_damaged_file_is_no_end_it_begins_anew_from_the_stream(
    tmp_path, scene, settings, caplog
):
    run = await ran(tmp_path / "run", scene, settings)
    (kept,) = (tmp_path / "run").glob("drift-*.fcar")
    kept.write_bytes(kept.read_bytes()[:-9])
    run.restart()
    await run.step(run.state.slot + 1)
    assert "begins anew" in caplog.text
    assert run.watch.told()["watching"] > 0
    (kept,) = (tmp_path / "run").glob("drift-*.fcar")
    assert Drift.unpack(kept.read_bytes(), drift_rules()).slot == run.state.slot


async def test_without_rules_nothing_is_watched(tmp_path, scene, settings):
    run = await ran(tmp_path / "run", scene, replace(settings, drift=None))
    assert run.state == ControllerState(slot=scene.first + 15 * DAY - 1)
    assert run.watch.told() == {"enabled": False}


def test_every_key_reaches_the_detection(tmp_path):
    def rules(**learning):
        return arguments.settings(small_config(tmp_path, REPLAY, **learning)).drift

    usual = rules()
    assert (usual.detector, usual.block) == ("cusum", 12)
    assert (usual.fleet_share, usual.update_share) == (0.5, 0.25)
    assert rules(drift_detection_enabled=False) is None
    asked = rules(drift_detector="window", drift_window_size=600, drift_threshold=0.3)
    assert (asked.window, asked.threshold) == (600, 0.3)
    inputs, losses = asked.detectors(2)
    assert inputs.settings == losses.settings == {"window": 50, "threshold": 0.3, "floor": 1e-9}
    rare = rules(drift_false_alarm_slots=50_000, drift_fleet_share=0.7, drift_update_share=0.3)
    assert (rare.fleet_share, rare.update_share) == (0.7, 0.3)
    assert rare.detectors(2)[1].settings["wanted"] == 50_000 / 12
    for kind in ("adwin", "kswin", "page_hinkley"):
        assert rules(drift_detector=kind).detectors(1)[0].kind == kind
    assert Drift(asked).rules is asked
