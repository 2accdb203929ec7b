"""TrainerActor: makes and judges challengers. Stateless but for a small cache of finished work."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from forecast.artifact import Artifact
from forecast.windows import RawWindows
from train.trainer import BaseJob, Result, Trainer, UpdateJob


class TrainerActor:
    """Shell around `train.trainer.Trainer`: one training at a time, in a thread.

    Called by the controller. A call repeated after a crash finds the finished work or does it
    again with the same seed: the result is the same.
    """

    def __init__(self, **settings: Any) -> None:
        self._trainer = Trainer(**settings)
        self._busy = asyncio.Lock()
        self._finished: OrderedDict[str, Result] = OrderedDict()

    async def train_base(self, job: BaseJob, windows: RawWindows, validation: RawWindows) -> Result:
        """A base model from history."""
        return await self._once(
            job.update_id, lambda: self._trainer.train_base(job, windows, validation)
        )

    async def update(self, job: UpdateJob, champion: Artifact, windows: RawWindows) -> Result:
        """A challenger that starts from the champion."""
        return await self._once(job.update_id, lambda: self._trainer.update(job, champion, windows))

    async def judge(
        self, challenger: Artifact, champion: Artifact | None, holdout: RawWindows
    ) -> Any:
        """Scores of the champion (None without one) and the challenger on the same windows."""
        return await asyncio.to_thread(self._trainer.judge, challenger, champion, holdout)

    async def progress(self) -> dict[str, Any]:
        """What is being trained now, for people."""
        return self._trainer.progress()

    async def _once(self, update_id: str, work: Callable[[], Result]) -> Result:
        async with self._busy:
            if update_id not in self._finished:
                self._finished[update_id] = await asyncio.to_thread(work)
                while len(self._finished) > 4:
                    self._finished.popitem(last=False)
        return self._finished[update_id]
