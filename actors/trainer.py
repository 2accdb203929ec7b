"""TrainerActor: makes and judges challengers. Stateless but for a small cache of finished work."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import ray
import torch

from actors.telemetry import Durations
from forecast.artifact import Artifact
from forecast.errors import NothingNew
from forecast.windows import RawWindows
from train.gate import Evidence
from train.jobs import BaseJob, Result, UpdateJob
from train.steps import device_of
from train.trainer import OnWorkers, Trainer
from train.usage import Usage

_NICE = 10
"""How far a full training gives way."""
_KINDS = ("base", "retrain", "update")
_TRIES = 2
"""How often a training is done again whose process died: it may be what killed it."""


def make_trainer(
    *,
    device: Literal["auto", "cpu", "gpu"],
    workers: Mapping[str, Any] | None,
    **settings: Any,
) -> Trainer:
    """A trainer on what was assigned to this process, and on Ray Train where `workers` say so.

    Raises TrainingError when the device is `gpu` and there is none.
    """
    chosen = device_of(device, assigned_gpus(device))
    return Trainer(device=chosen, on_workers=_on_workers(workers), **settings)


def assigned_gpus(device: Literal["auto", "cpu", "gpu"]) -> list[str]:
    """The GPUs of this process: Ray's word in an actor or task, the machine's outside of Ray.

    Without Ray nobody assigns any, so `auto` takes none.
    """
    if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        return list(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))
    return [str(one) for one in range(torch.cuda.device_count())] if device == "gpu" else []


def _on_workers(given: Mapping[str, Any] | None) -> OnWorkers | None:
    if given is None:
        return None
    from train.distributed import Workers, pretrain_on_workers  # Ray Train is slow to import

    return partial(pretrain_on_workers, workers=Workers(**given))


class TrainerActor:
    """Shell around `train.trainer.Trainer`: one training at a time, in a thread.

    Called by the controller. A call repeated after a crash finds the finished work or does it
    again with the same seed: the result is the same.
    """

    def __init__(self, *, update_nice: int = 0, **settings: Any) -> None:
        self._trainer = make_trainer(**settings)
        self._busy = asyncio.Lock()
        self._finished: OrderedDict[str, Result] = OrderedDict()
        self._skipped = self._windows_saved = 0
        self._took = {kind: Durations() for kind in _KINDS}
        self._used = Usage(_KINDS)
        # A full training takes minutes: its thread gives way to Serve. An update is short, and a
        # new version waits for it: how far it gives way is the config's choice.
        self._patient = gives_way("full-training", _NICE)
        self._quick = gives_way("update", update_nice)

    @ray.method(max_task_retries=_TRIES)
    async def train_base(
        self,
        job: BaseJob,
        windows: RawWindows,
        validation: RawWindows,
        start: Artifact | None = None,
    ) -> Result:
        """A model from history: the first one, or a retrain, from `start` where that is given."""
        work = partial(self._trainer.train_base, job, windows, validation, start)
        return await self._once(job.update_id, job.kind, work, self._patient)

    @ray.method(max_task_retries=_TRIES)
    async def update(self, job: UpdateJob, champion: Artifact, windows: RawWindows) -> Result:
        """A challenger that starts from the champion."""
        work = partial(self._update, job, champion, windows)
        return await self._once(job.update_id, "update", work, self._quick)

    async def judge(
        self,
        challenger: Artifact,
        holdout: RawWindows,
        champion: Artifact | None,
        anchor: Artifact | None,
        started_from_champion: bool,
    ) -> Evidence:
        """What the gate goes by: losses of all that are given on the same windows."""
        work = partial(
            self._trainer.judge,
            challenger,
            holdout,
            champion=champion,
            anchor=anchor,
            started_from_champion=started_from_champion,
        )
        return await asyncio.to_thread(work)

    async def progress(self) -> dict[str, Any]:
        """What is being trained now, for people."""
        return self._trainer.progress()

    async def durations(self) -> dict[str, Any]:
        """How long trainings took since this process started, by kind, for telemetry.

        Beside that what they used of the machine, and what active learning saved.
        """
        took = {kind: took.to_json() for kind, took in self._took.items()}
        saved = {"skipped": self._skipped, "windows_saved": self._windows_saved}
        return {**took, **saved, **self._used.to_json()}

    def _update(self, job: UpdateJob, champion: Artifact, windows: RawWindows) -> Result:
        try:
            result = self._trainer.update(job, champion, windows)
        except NothingNew:
            self._skipped += 1
            self._windows_saved += len(windows)
            raise
        self._windows_saved += len(windows) - int(result.report.get("windows", len(windows)))
        return result

    async def _once(
        self, update_id: str, kind: str, work: Callable[[], Result], where: Executor
    ) -> Result:
        async with self._busy:
            if update_id not in self._finished:
                loop, began = asyncio.get_running_loop(), time.monotonic()
                self._used.begins()
                self._finished[update_id] = await loop.run_in_executor(where, work)
                self._took[kind].observe(time.monotonic() - began)
                self._used.ended(kind)
                while len(self._finished) > 4:
                    self._finished.popitem(last=False)
        return self._finished[update_id]


def gives_way(name: str, nice: int) -> Executor:
    """One thread of this niceness at least, which those that torch starts from it inherit."""
    return ThreadPoolExecutor(1, name, initializer=partial(_give_way, nice))


def _give_way(nice: int) -> None:
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(nice, os.getpriority(os.PRIO_PROCESS, thread)))
