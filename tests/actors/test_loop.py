"""The whole loop in one process: the production controller over plain objects."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil

import pytest

from actors.local import LocalFleet, LocalHandle
from actors.offline import train_base
from actors.state import ControllerState, Pending, StateFile
from forecast.errors import RegistryError, StateError
from forecast.http import reports
from tests.actors.scenario import MEMBERS, blocks, outcome_of, play, small_config, small_replay
from train.evidence import reproduce

REPLAY = small_replay()


class _Stopped(Exception):
    """Stands for a process that ends here."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The scenario's outcome, undisturbed."""
    config = small_config(tmp_path_factory.mktemp("plain"), REPLAY)
    return asyncio.run(play(config, REPLAY))


def test_an_empty_registry_and_enough_data_train_the_first_model_and_it_keeps_learning(outcome):
    kinds = [update_id.split("-")[0] for update_id, *_ in reversed(outcome["decisions"])]
    assert kinds == ["base", "update", "update", "update"]
    assert outcome["version"] == outcome["state"]["champion"]
    assert outcome["state"]["promoted"] >= 1
    assert set(outcome["forecasts"]) == MEMBERS | {"twin"}  # the base, once it is not champion


def test_every_member_is_scored_on_the_same_cells(outcome):
    members = {member.member: member for member in outcome["accuracy"].members}
    assert set(members) == MEMBERS
    assert len({member.pooled.n for member in members.values()}) == 1
    assert len({row.n for row in members["champion"].horizons}) > 1


async def test_the_same_stream_gives_the_same_decisions_and_bits(outcome, tmp_path):
    again = await play(small_config(tmp_path, REPLAY), REPLAY)
    assert again == outcome


async def test_a_loop_that_stops_anywhere_within_a_step_goes_on_as_if_it_had_not(
    outcome, tmp_path, monkeypatch
):
    """Stops at every call the controller makes in some step, each time at a later one."""
    config = small_config(tmp_path, REPLAY)
    calls = {"left": 0}
    real = LocalHandle.__getattr__

    def stopping(handle, name):
        if calls["left"] == 1:
            calls["left"] = 0
            raise _Stopped(name)
        calls["left"] = max(0, calls["left"] - 1)
        return real(handle, name)

    fleet, stops = LocalFleet(config, now=lambda: 0.0), 0
    for number, (request_id, block) in enumerate(blocks(REPLAY)):
        await fleet.buffer.append.remote(request_id, block)
        status = await fleet.buffer.status.remote()
        if number > 8:
            with monkeypatch.context() as patch:
                patch.setattr(LocalHandle, "__getattr__", stopping)
                calls["left"] = 1 + number % 14
                try:
                    await fleet.controller.catch_up(status)
                except _Stopped:
                    stops += 1
                calls["left"] = 0
            await fleet.close()
            fleet = LocalFleet(config, now=lambda: 0.0)
        await fleet.controller.catch_up(await fleet.buffer.status.remote())
    assert stops > 30
    assert await outcome_of(fleet) == outcome
    await fleet.close()


async def test_an_update_is_judged_once_even_if_its_verdict_comes_when_it_is_ready(
    tmp_path, monkeypatch
):
    """Stopped right after each verdict, with updates that take effect whenever they are done."""
    config = small_config(tmp_path, REPLAY, when_late="continue")
    real = LocalHandle.__getattr__
    stops = []

    def stopping(handle, name):
        method = real(handle, name)
        if name in ("promote", "reject"):

            async def then_stop(*args, **kwargs):
                await method.remote(*args, **kwargs)
                stops.append(name)
                raise _Stopped(name)

            return type("Stops", (), {"remote": staticmethod(then_stop)})
        return method

    fleet = LocalFleet(config, now=lambda: 0.0)
    for request_id, block in blocks(REPLAY, slots=60):
        await fleet.buffer.append.remote(request_id, block)
        status = await fleet.buffer.status.remote()
        with monkeypatch.context() as patch:
            patch.setattr(LocalHandle, "__getattr__", stopping)
            try:
                await fleet.controller.catch_up(status)
            except _Stopped:
                await fleet.close()
                fleet = LocalFleet(config, now=lambda: 0.0)
        await fleet.controller.catch_up(await fleet.buffer.status.remote())
        if (training := fleet.controller.training) is not None:
            await asyncio.wait([training])
    judged = [update.update_id for update in await fleet.registry.updates.remote(100)]
    assert len(stops) == len(judged) == len(set(judged)) >= 2
    assert fleet.controller.state.pending is None or fleet.controller.last_failure is None
    await fleet.close()


async def test_a_first_training_that_fails_says_why_and_the_baselines_go_on(tmp_path):
    config = small_config(tmp_path, REPLAY, gate_holdout_hours=200)
    # Due after seven hours and again and again; the gate holds back more than there is.
    training = config.training.model_copy(update={"bootstrap_hours": 7})
    fleet = LocalFleet(config.model_copy(update={"training": training}), now=lambda: 0.0)
    for request_id, block in blocks(REPLAY, slots=0)[:3]:
        await fleet.append(request_id, block)
    assert "0 training" in fleet.controller.last_failure
    assert fleet.controller.state.pending is None
    snapshot = await fleet.ledger.latest.remote()
    assert snapshot.version is None
    assert set(snapshot.served) == {"seasonal_naive"}
    await fleet.close()


async def test_a_base_trained_by_hand_serves_and_is_never_scored_on_what_it_has_seen(tmp_path):
    config = small_config(tmp_path, REPLAY)
    config.panel_dir.mkdir(parents=True)
    version, report = train_base(config, REPLAY, progress="none")
    assert version == 1
    assert report["reasons"] == ("first model: there is no champion to compare with",)
    with pytest.raises(RegistryError, match="could not be fair"):
        train_base(config, REPLAY, progress="none")
    fleet = LocalFleet(config, now=lambda: 0.0)
    made = blocks(REPLAY, slots=30)
    for request_id, block in made[:8]:
        await fleet.append(request_id, block)
    assert (await fleet.ledger.latest.remote()).version == 1
    assert (await fleet.ledger.counts.remote())["issued_blocks"] == 0
    for request_id, block in made[8:]:
        await fleet.append(request_id, block)
    updates = await fleet.registry.updates.remote(100)
    assert [update.update_id.split("-")[0] for update in updates] == ["update", "train"]
    assert updates[0].slot > updates[1].slot + 24
    record, data = await fleet.registry.evidence.remote(updates[1].update_id)
    assert reproduce(record.kind, record.detail, data).differs == ()
    assert (await fleet.ledger.counts.remote())["issued_blocks"] > 0
    await fleet.close()


async def test_a_retrain_is_judged_by_the_same_gate_and_said_to_be_one(tmp_path):
    config = small_config(tmp_path, REPLAY, retrain_interval_hours=4, lookback_days=2)
    fleet = LocalFleet(config, now=lambda: 0.0)
    for request_id, block in blocks(REPLAY, slots=56):
        await fleet.append(request_id, block)
    records = await fleet.registry.updates.remote(100)
    answer = reports.updates(records, await fleet.ledger.latest.remote())
    assert [update.kind for update in answer.updates] == ["retrain", "update", "base"]
    retrain, update, base = records
    assert retrain.slot == base.report["asked_slot"] + 4 * 12 + 1
    assert retrain.report["kind"] == "retrain"
    assert retrain.parent == (update if update.verdict == "promoted" else base).version
    assert retrain.reasons[0].startswith("WQL")
    compared_from = retrain.slot - 6 * 12
    assert retrain.lineage["trained_to_slot"] <= compared_from
    assert retrain.lineage["validated_to_slot"] <= compared_from
    assert retrain.report["training"]["steps"] == 30
    await fleet.close()


async def test_before_the_first_model_the_baselines_answer_and_nothing_is_of_record(tmp_path):
    fleet = LocalFleet(small_config(tmp_path, REPLAY), now=lambda: 0.0)
    for request_id, block in blocks(REPLAY, slots=0)[:4]:
        await fleet.append(request_id, block)
    snapshot = await fleet.ledger.latest.remote()
    assert snapshot.version is None
    assert set(snapshot.served) == {"seasonal_naive"}
    assert (await fleet.ledger.counts.remote())["issued_blocks"] == 0
    await fleet.close()


def _edited(config, **panel):
    return config.model_copy(update={"panel": config.panel.model_copy(update=panel)})


def _without(metrics, name):
    return tuple(metric for metric in metrics if metric.name != name)


def _renamed(metrics, old, new):
    return tuple(
        metric.model_copy(update={"name": new, "aliases": (old,)}) if metric.name == old else metric
        for metric in metrics
    )


async def test_a_controller_whose_buffer_has_lost_its_state_refuses_to_step(tmp_path):
    config = small_config(tmp_path, REPLAY)
    made = blocks(REPLAY, slots=1)
    fleet = LocalFleet(config)
    for request_id, block in made[:8]:
        await fleet.append(request_id, block)
    stepped = fleet.controller.state.slot
    await fleet.close()
    shutil.rmtree(config.panel_dir / "buffer")
    fleet = LocalFleet(config)
    with pytest.raises(StateError, match=f"slot {stepped} was stepped, but the buffer begins at"):
        await fleet.append(*made[8])
    await fleet.close()


@pytest.mark.parametrize("edit", ["added", "removed", "renamed", "target removed", "target added"])
async def test_an_edited_config_never_drops_the_fleet_to_the_fallback(edit, tmp_path):
    config = small_config(tmp_path, REPLAY)
    made = blocks(REPLAY, slots=16)
    fleet = LocalFleet(config, now=lambda: 0.0)
    for request_id, block in made[:-6]:
        await fleet.append(request_id, block)
    assert (await fleet.ledger.latest.remote()).version == 1
    await fleet.close()

    panel = config.panel
    added = panel.metrics[0].model_copy(update={"name": "brand_new", "aliases": ()})
    covariate = next(m.name for m in panel.metrics if m.name not in panel.targets)
    edits = {
        "added": {"metrics": (*panel.metrics, added)},
        "removed": {"metrics": _without(panel.metrics, covariate)},
        "renamed": {
            "metrics": _renamed(panel.metrics, "cpu_usage_ratio", "cpu_busy_ratio"),
            "targets": ("cpu_busy_ratio", *panel.targets[1:]),
        },
        "target removed": {"targets": panel.targets[:-1]},
        "target added": {"targets": (*panel.targets, covariate)},
    }
    fleet = LocalFleet(_edited(config, **edits[edit]), now=lambda: 0.0)
    schema = fleet.controller.settings.schema
    for request_id, block in made[-6:-3]:
        await fleet.append(request_id, _under(block, schema))
    snapshot = await fleet.ledger.latest.remote()
    assert snapshot.version == 1
    assert set(snapshot.served) == {"ensemble"}
    block = snapshot.block("ensemble")
    known = [target for target in snapshot.targets if target != covariate]
    for target in known:
        column = snapshot.targets.index(target)
        assert not _gaps(block.values[:, :, column]), target
    await fleet.close()


def _gaps(values):
    return bool((values != values).any())


def _under(block, schema):
    """The block as a schema with other names accepts it."""
    named = {alias: metric.name for metric in schema.metrics for alias in metric.aliases}
    return dataclasses.replace(block, metrics=tuple(named.get(m, m) for m in block.metrics))


def test_a_state_file_comes_back_and_a_damaged_one_is_refused(tmp_path):
    file = StateFile(tmp_path / "state.json")
    assert file.load() == ControllerState()
    state = ControllerState(7, 3, Pending("update", "update-3", 3, 4, 1))
    file.save(state)
    assert file.load() == state
    (tmp_path / "state.json").write_text('{"format": 1, "slot"')
    with pytest.raises(StateError, match=r"state\.json: damaged"):
        file.load()
