"""Strategy `ensemble`: accepted versions stay members beside the champion, until others come."""

from __future__ import annotations

import asyncio
import json
import shutil

import numpy as np
import pytest

from actors import arguments
from actors.local import LocalFleet
from forecast.artifact import pack
from forecast.http import answers
from forecast.http.board import Board
from forecast.model import Model, ModelSpec, build
from forecast.window_spec import WindowSpec
from tests.actors.scenario import blocks, small_config, small_replay

REPLAY = small_replay()
HISTORY, SLOTS = 3, 10
PROMOTED = {2: 2, 4: 3, 5: 4, 7: 5}
"""At which streamed slot each version is accepted."""


@pytest.fixture(scope="module")
def made():
    """The stream, and of the history the last blocks."""
    return blocks(REPLAY, slots=SLOTS)[8 - HISTORY :]


def config_of(folder, *, versions=2, strategy="ensemble"):
    config = small_config(folder, REPLAY, enabled=False, strategy=strategy, keep_model_versions=1)
    ensemble = config.ensemble.model_copy(update={"versions": versions})
    training = config.training.model_copy(update={"bootstrap_hours": 100})  # none is trained
    return config.model_copy(update={"ensemble": ensemble, "training": training})


async def accept(fleet, config, number, slot):
    """Let an untrained network serve as the version of this number."""
    schema = config.panel.schema_of()
    window = WindowSpec(300, 24, 6, schema.metrics, schema.targets, ("",))
    sizes = {"hidden_size": 4, "hidden_continuous_size": 4}
    spec = ModelSpec(window=window, quantiles=config.panel.quantiles, **sizes)
    artifact = pack(
        Model(spec, build(spec, seed=number)),
        fingerprint=schema.fingerprint(),
        lineage={"kind": "base" if number == 1 else "update", "slot": slot},
        metrics={},
        probe=(await fleet.buffer.fleet.remote(slot)).select(np.arange(1)),
        created_at="2026-01-01T00:00:00+00:00",
    )
    given = {"slot": slot, "update_id": f"update-{number}"}
    assert await fleet.registry.register.remote(artifact, **given) == number
    await fleet.registry.promote.remote(number, who="test", report={}, reasons=("yes",), **given)


async def streamed(config, made, *, restart=frozenset()):
    """The ensemble's block of each slot, and the last fleet; started anew at some slots."""
    fleet, found = LocalFleet(config, now=lambda: 0.0), []
    for request_id, block in made[:HISTORY]:
        await fleet.append(request_id, block)
    await accept(fleet, config, 1, REPLAY.start_slot - 1)
    for at, (request_id, block) in enumerate(made[HISTORY:]):
        if at in restart:
            await fleet.close()
            fleet = LocalFleet(config, now=lambda: 0.0)
        if at in PROMOTED:
            await accept(fleet, config, PROMOTED[at], REPLAY.start_slot + at - 2)
        await fleet.append(request_id, block)
        found.append((await fleet.ledger.latest.remote()).blocks)
    return found, fleet


@pytest.fixture(scope="module")
def played(made, tmp_path_factory):
    """The whole stream, undisturbed: (config, the blocks of each slot)."""

    async def run():
        config = config_of(tmp_path_factory.mktemp("whole"))
        found, fleet = await streamed(config, made)
        await fleet.close()
        return config, found

    return asyncio.run(run())


def line_up(every):
    """(member, version) of the versions in the ensemble."""
    ensemble = next(block for block in every if block.member == "ensemble")
    pairs = zip(ensemble.members, ensemble.versions, strict=True)
    return [(member, version) for member, version in pairs if version is not None]


def test_versions_come_and_go_with_promotions_and_the_base_stays(played):
    _, found = played
    changes = [line_up(found[at]) for at in (1, 2, 4, 5, 9)]
    assert changes == [
        [("champion", 1)],
        [("champion", 2), ("base", 1)],
        [("champion", 3), ("previous_1", 2), ("base", 1)],
        [("champion", 4), ("previous_1", 3), ("previous_2", 2), ("base", 1)],
        [("champion", 5), ("previous_1", 4), ("previous_2", 3), ("base", 1)],
    ]


def test_a_version_forecasts_the_same_whatever_place_it_has(played):
    _, found = played
    for at in (5, 9):
        values = {block.version: block.values for block in found[at] if block.version}
        assert len({array.tobytes() for array in values.values()}) == 4


def test_a_new_champion_weighs_what_the_old_one_does_from_then_on(played):
    _, found = played
    for at in PROMOTED:
        ensemble = next(block for block in found[at] if block.member == "ensemble")
        by_name = dict(zip(ensemble.members, ensemble.weights[0, 0], strict=True))
        former = "previous_1" if "previous_1" in by_name else "base"
        assert by_name["champion"] == pytest.approx(by_name[former], rel=1e-3)


async def test_versions_on_disk_are_those_that_issue_and_a_restart_changes_no_bit(
    played, made, tmp_path
):
    _, found = played
    config = config_of(tmp_path)
    again, fleet = await streamed(config, made, restart={5, 8})
    await fleet.close()
    for mine, other in zip(found, again, strict=True):
        assert [block.member for block in mine] == [block.member for block in other]
        for one, two in zip(mine, other, strict=True):
            np.testing.assert_array_equal(one.values, two.values)
            np.testing.assert_array_equal(one.weights, two.weights)
    folder = config.artifacts_dir / config.panel.name
    assert sorted(int(path.name) for path in folder.iterdir() if path.is_dir()) == [
        1,
        2,
        3,
        4,
        5,
    ]  # 2 made forecasts that have not matured yet


async def test_answers_list_every_version_and_one_that_is_damaged_is_left_out(
    played, made, tmp_path, caplog
):
    config, _ = played
    shutil.copytree(config.state_dir, tmp_path / "state")
    config = config.model_copy(update={"state_dir": tmp_path / "state"})
    folder = config.artifacts_dir / config.panel.name
    [version] = [path for path in folder.iterdir() if path.is_dir() and int(path.name) == 4]
    for path in version.iterdir():
        path.write_bytes(b"damaged")
    fleet = LocalFleet(config, now=lambda: 0.0)
    snapshot = await fleet.ledger.latest.remote()
    assert [one["version"] for one in told(snapshot)] == [5, 4, 3, 1, None, None, None, None]
    [(request_id, block)] = blocks(REPLAY, slots=SLOTS + 1)[-1:]
    await fleet.append(request_id, block)
    snapshot = await fleet.ledger.latest.remote()
    assert [(one["member"], one["version"]) for one in told(snapshot)][:3] == [
        ("champion", 5),
        ("previous_2", 3),
        ("base", 1),
    ]
    assert sum(one["weight"] for one in told(snapshot)) == pytest.approx(1, abs=1e-3)
    assert "version 4 is left out of the ensemble" in caplog.text
    await fleet.close()


def told(snapshot):
    """The members of the first series of an answer."""
    server = next(one.name for one in snapshot.servers if one.state == "active")
    want = answers.wanted(snapshot)
    [piece] = answers.from_snapshot(
        Board(snapshot), [(server, snapshot.targets[0])], want, stalled=False
    )
    return json.loads(piece)["members"]


async def test_the_config_says_how_many_stay(made, tmp_path):
    found, fleet = await streamed(config_of(tmp_path, versions=1), made[: HISTORY + 6])
    await fleet.close()
    assert [member for member, _ in line_up(found[-1])] == ["champion", "previous_1", "base"]


async def test_the_base_goes_on_as_a_twin_beside_the_champion_and_moves_no_answer(made, tmp_path):
    config = config_of(tmp_path / "twin", strategy="sliding_window")
    found, fleet = await streamed(config, made[: HISTORY + 6])
    await fleet.close()
    off = config_of(tmp_path / "off", strategy="sliding_window")
    off = off.model_copy(update={"twin": off.twin.model_copy(update={"enabled": False})})
    without, fleet = await streamed(off, made[: HISTORY + 6])
    await fleet.close()
    twins = [[one for one in every if one.member == "twin"] for every in found]
    assert [len(some) for some in twins] == [0, 0, 1, 1, 1, 1]  # at first it is the champion
    champion = next(one for one in found[5] if one.member == "champion")
    [twin] = twins[5]
    assert (twin.version, champion.version) == (1, 4)
    assert set(twin.servers) <= set(champion.servers)  # so few servers have one each
    assert not np.array_equal(twin.values, champion.values)
    assert line_up(found[5]) == [("champion", 4)]
    for mine, other in zip(found, without, strict=True):
        kept = [one for one in mine if one.member != "twin"]
        assert [one.member for one in kept] == [one.member for one in other]
        for one, two in zip(kept, other, strict=True):
            np.testing.assert_array_equal(one.values, two.values)


def test_where_the_base_issues_for_all_it_needs_no_twin(played):
    _, found = played
    assert all(one.member != "twin" for every in found for one in every)


def test_under_another_strategy_the_champion_alone_issues(tmp_path):
    config = config_of(tmp_path, strategy="sliding_window")
    assert arguments.settings(config).beside == arguments.registry(config)["keep_beside"] == 0
