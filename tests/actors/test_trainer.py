"""The trainer actor: where each kind of training runs."""

from __future__ import annotations

import threading
from os import PRIO_PROCESS, getpriority
from types import SimpleNamespace

import pytest
import torch

from actors import arguments
from actors.trainer import TrainerActor, make_trainer
from forecast.errors import TrainingError
from tests.actors.scenario import small_config, small_replay
from train.jobs import BaseJob, UpdateJob
from train.trainer import Trainer

REPLAY = small_replay()


def _config(tmp_path, **trainer):
    config = small_config(tmp_path, REPLAY)
    return config.model_copy(update={"trainer": config.trainer.model_copy(update=trainer)})


def test_a_gpu_is_asked_of_the_cluster_only_where_the_config_says_so(tmp_path):
    on_cpu = arguments.trainer_resources(_config(tmp_path, device="cpu"))
    on_gpu = arguments.trainer_resources(_config(tmp_path, device="gpu"))
    assert (on_cpu["num_gpus"], on_gpu["num_gpus"]) == (0, 1)
    assert on_cpu["num_cpus"] == on_gpu["num_cpus"] == 1


def test_a_trainer_that_needs_a_gpu_says_when_it_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(TrainingError, match="no GPU is assigned"):
        make_trainer(**arguments.trainer(_config(tmp_path, device="gpu")))


def test_without_workers_nothing_is_asked_of_ray_train(tmp_path):
    assert arguments.trainer(_config(tmp_path))["workers"] is None
    given = arguments.trainer(_config(tmp_path, workers=2, max_workers=4, cpus_per_worker=1.5))
    assert given["workers"]["least"] == 2
    assert given["workers"]["most"] == 4
    assert given["workers"]["cpus"] == 1.5
    assert given["workers"]["storage"] == str(tmp_path / "servers" / "train")


async def test_a_training_from_nothing_gives_way_and_the_rest_of_the_process_does_not(
    tmp_path, monkeypatch
):
    seen = []

    def train(self, job, windows, validation, start):
        seen.append(getpriority(PRIO_PROCESS, threading.get_native_id()))
        return job.update_id

    monkeypatch.setattr(Trainer, "train_base", train)
    before = getpriority(PRIO_PROCESS, threading.get_native_id())
    actor = TrainerActor(**arguments.trainer(_config(tmp_path)))
    for _ in range(2):  # the second time it finds what it has finished
        assert await actor.train_base(BaseJob("base-1", 1, 7), None, None) == "base-1"
    assert seen == [max(10, before)]
    assert getpriority(PRIO_PROCESS, threading.get_native_id()) == before
    took = await actor.durations()
    assert sum(took["base"]["counts"]) == 1
    assert sum(took["update"]["counts"]) == 0


async def test_an_update_gives_way_and_is_bounded_as_far_as_the_config_says(tmp_path, monkeypatch):
    seen = []

    def update(self, job, champion, windows):
        seen.append(getpriority(PRIO_PROCESS, threading.get_native_id()))
        return SimpleNamespace(report={})

    monkeypatch.setattr(Trainer, "update", update)
    before = getpriority(PRIO_PROCESS, threading.get_native_id())
    for nice in (0, 13):
        config = small_config(tmp_path, REPLAY, update_nice=nice)
        actor = TrainerActor(**arguments.trainer_actor(config))
        await actor.update(UpdateJob(f"update-{nice}", 1, 7, 1), None, ())
    assert seen == [max(0, before), max(13, before)]
    assert arguments.trainer(config)["learner"]["threads"] == config.training.threads
    config = small_config(tmp_path, REPLAY, update_threads=3)
    assert arguments.trainer(config)["learner"]["threads"] == 3
    assert arguments.trainer(config)["base"]["threads"] == config.training.threads
