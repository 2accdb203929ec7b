"""The jobs: their usage, a backtest in this process, and one real training on Ray Train."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import ray
from click.testing import CliRunner

from actors import handles, jobs, topology
from actors.backtest import backtest
from actors.offline import train_base
from forecast.errors import StateError, TrainingError
from tests.actors.scenario import MEMBERS, small_config, small_replay

REPLAY = small_replay()
LAPTOP = str(Path(__file__).parents[2] / "configs" / "laptop.toml")


def _run(*words):
    done = CliRunner().invoke(jobs.main, list(words))
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrain", "--demo"], "Missing option '--config'"),
        (["pretrain", "--config", LAPTOP, "--demo", "--data", "x.csv"], "not both"),
        (["pretrain", "--config", LAPTOP, "--targets", "cpu"], "go with data"),
        (["pretrain", "--config", LAPTOP, "--demo"], "needs an absolute one"),
        (["pretrain", "--config", "nowhere.toml", "--demo"], "nowhere.toml"),
        (["backup", "nightly", "--config", LAPTOP], "give an absolute path"),
        (["backtest", "--config", LAPTOP], "--data or --demo"),
        (["backtest", "--config", LAPTOP, "--demo", "--stream-days", "0"], "stream-days"),
    ],
)
def test_wrong_usage_is_said_and_exits_with_two(words, said):
    code, output = _run(*words)
    assert code == 2
    assert said in output


def test_what_fails_is_told_in_the_last_line_too():
    code, output = _run("backtest", "--config", LAPTOP)
    assert code == 2
    assert json.loads(output.splitlines()[-1]) == {"error": "a backtest needs --data or --demo"}


async def test_a_backtest_scores_every_member_on_the_same_cells_and_keeps_no_state(tmp_path):
    config = small_config(tmp_path / "state", REPLAY)
    told = await backtest(config, REPLAY, stream_days=0.25)
    assert told["streamed_slots"] == 72
    assert set(told["members"]) == MEMBERS
    assert len({member["n"] for member in told["members"].values()}) == 1
    for member in told["members"].values():
        assert list(member["wql_by_step"]) == [str(step) for step in range(1, 7)]
    kinds = [update["update_id"].split("-")[0] for update in told["updates"]]
    assert kinds == ["base", "update", "update", "update"]
    assert told["promoted"] + told["rejected"] == 4
    assert told["last_failure"] is None
    assert not (tmp_path / "state").exists()
    json.dumps(told)


def _killed_once(marker, config):
    """The worker's function, whose process is killed with signal 9 after its third look."""
    from train import distributed

    report, life = distributed._report, Path(marker)
    resumed = ray.train.get_checkpoint() is not None
    (life / f"lives-{os.getpid()}").write_text("resumed" if resumed else "fresh")

    def strike(checkpoint):
        report(checkpoint)
        if len(checkpoint.progress.looks) == 3 and not (life / "killed").exists():
            (life / "killed").write_text(str(os.nice(0)))
            os.kill(os.getpid(), signal.SIGKILL)

    distributed._report = strike
    return distributed.train_loop(config)  # only the caller's process has this one in its place


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_killed_under_way_changes_nothing_about_the_model(
    ray_cluster, tmp_path, monkeypatch
):
    from train import distributed

    here = small_config(tmp_path / "here", REPLAY)
    here.panel_dir.mkdir(parents=True)
    train_base(here, REPLAY, progress="none")
    config = small_config(tmp_path / "cluster", REPLAY).model_copy(update={"fleet": "jobs"})
    monkeypatch.setattr(distributed, "train_loop", partial(_killed_once, str(tmp_path)))

    told = jobs.train(config, REPLAY, "base")

    assert int((tmp_path / "killed").read_text()) >= 10  # its niceness: Serve goes first
    assert sorted(path.read_text() for path in tmp_path.glob("lives-*")) == ["fresh", "resumed"]
    assert (told["version"], told["promoted"], told["steps"]) == (1, True, 30)
    registry = handles.find("jobs", config.panel.name, handles.REGISTRY)
    state = ray.get(registry.state.remote())
    assert state.champion == 1
    assert state.versions[0].weights_sha256 == _weights(here)
    assert list((config.panel_dir / "train").iterdir()) == []
    with pytest.raises(StateError, match="does not run here"):
        jobs.train(config, None, "retrain")
    topology.stop(config)


def _weights(config):
    [manifest] = config.artifacts_dir.rglob("manifest.json")
    return json.loads(manifest.read_text())["sha256"]


@pytest.mark.ray
def test_workers_without_room_are_refused_by_what_they_ask_for(ray_cluster):
    from train.distributed import Workers, _await_room

    workers = Workers(
        least=2,
        most=None,
        cpus=64,
        device="auto",
        precision="float32",
        storage="/nowhere",
        patience_s=0.1,
    )
    with pytest.raises(TrainingError, match=r"no room for 2 workers of \{'CPU': 64\} each"):
        _await_room("base-1", workers.resources(), workers)
