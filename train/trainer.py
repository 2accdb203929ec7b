"""What the trainer does: a first model from history, a challenger from the champion, a verdict's
scores. Plain torch; no Ray. The same job gives the same artifact, whenever it runs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forecast.artifact import Artifact, pack, unpack
from forecast.errors import ArtifactError, NothingNew, TrainingError
from forecast.fast.serving import Precision as ServingPrecision
from forecast.fit import Fit
from forecast.model import Model, ModelSpec
from forecast.schema import Schema
from forecast.serving_cost import costs
from forecast.windows import RawWindows, WindowSpec
from train import active
from train.gate import Evidence
from train.jobs import BaseJob, Result, UpdateJob
from train.learner import Learner
from train.paired import measure
from train.pretrain import PretrainReport, Run, pretrain
from train.steps import Device, Precision

OnWorkers = Callable[
    [str, ModelSpec, RawWindows, RawWindows, Mapping[str, Any]], tuple[Model, PretrainReport]
]
"""`train.distributed.pretrain_on_workers`, bound to its workers."""

log = logging.getLogger("fleetcast.trainer")

_PROBE_WINDOWS = 2
_KNOWN_WINDOWS = 2048
"""Of a training from nothing, in which they come in random order: so many show what is usual."""
_WARM_RATE = 0.1
"""Share of the base's learning rate with which a retrain begins that starts from the champion."""


class Trainer:
    """Makes challengers and scores them; holds settings only."""

    def __init__(  # noqa: PLR0913 (settings, each by its name)
        self,
        *,
        schema: Schema,
        context: int,
        horizon: int,
        quantiles: tuple[float, ...],
        network: Mapping[str, Any],
        roles: tuple[str, ...] | None,
        base: Mapping[str, Any],
        learner: Mapping[str, Any],
        device: Device = "cpu",
        precision: Precision = "float32",
        serving: ServingPrecision = "float32",
        bar: bool = False,
        on_workers: OnWorkers | None = None,
        uncertainty: float | None = None,
    ) -> None:
        """`on_workers`, where given, trains from nothing; updates are always trained here.

        `precision` is that of training, `serving` that in which versions serve and are judged. With
        `uncertainty`, a rank, updates learn from uncertain and novel windows alone.
        """
        self._schema = schema
        self._context, self._horizon = context, horizon
        self._quantiles = quantiles
        self._network = dict(network)
        self._roles = roles
        self._base = dict(base)
        self._run = Run(device=device, precision=precision, bar=bar, on_progress=self._tell)
        self._on_workers = on_workers
        self._serving = serving
        self._uncertainty = uncertainty
        self._learner = Learner.of(learner, device=device, precision=precision)
        self._progress: dict[str, Any] = {}

    def train_base(
        self,
        job: BaseJob,
        windows: RawWindows,
        validation: RawWindows,
        start: Artifact | None = None,
    ) -> Result:
        """A model from history; raises TrainingError when there is too little of it.

        It begins from the weights of `start`, where that is given and has the network and the
        columns of today; its rate is then a tenth, so as not to lose them. An adapter is left out:
        the network learns what that corrected, and with both it would count twice.
        """
        if not windows.servers or not validation.servers:
            raise TrainingError(
                f"{job.update_id}: {len(windows.servers)} training and "
                f"{len(validation.servers)} validation windows; both are needed"
            )
        spec = self._spec(windows)
        settings = {**self._base, "seed": job.seed}
        if (warm := self._warm(start, spec)) is not None:
            spec = warm.spec
            rate = _WARM_RATE * float(settings["learning_rate"])
            settings |= {"start": warm.network.state_dict(), "learning_rate": rate}
        self._progress = {"update_id": job.update_id, "step": 0, "max_steps": 0}
        try:
            if self._on_workers is None:
                made = pretrain(spec, windows, validation, run=self._run, **settings)
            else:
                made = self._on_workers(job.update_id, spec, windows, validation, settings)
        finally:
            self._progress = {}
        model, report = made
        # Its weights were chosen by how well they forecast the validation windows.
        seen = int(validation.origin.max()) + validation.horizon
        lineage: dict[str, Any] = {"kind": job.kind, "parent": job.parent}
        lineage["validated_to_slot"] = seen
        if start is not None:
            lineage["start"] = _start(warm)
        known = self._known(model, windows.rows(slice(_KNOWN_WINDOWS)))
        return self._result(job, lineage, model, asdict(report), windows, known)

    def update(self, job: UpdateJob, champion: Artifact, windows: RawWindows) -> Result:
        """A challenger from the champion; raises TrainingError when it did not stay finite.

        Raises NothingNew without a window (the fleet may be under maintenance), and when active
        learning finds too little to learn.
        """
        if not windows.servers:
            raise NothingNew(f"{job.update_id}: no training windows")
        parent = unpack(champion, fingerprint=None, precision=None)
        choice = self._choice(parent, champion, windows)
        learned = windows if choice is None else windows.select(choice.rows)
        readable = self._fit(parent).windows(learned)
        self._progress = {"update_id": job.update_id}
        try:
            made = self._learner.update(
                parent, readable, seed=job.seed, drifted=job.drifted, replayed=readable.replayed
            )
        finally:
            self._progress = {}
        lineage = {"kind": "update", "parent": job.parent}
        told = asdict(made.report) | ({} if choice is None else {"active": choice.report()})
        losses = made.window_losses if choice is None else choice.spread(made.window_losses)
        known = self._known(made.model, windows)
        result = self._result(job, lineage, made.model, told, readable, known)
        return replace(result, window_losses=losses)

    def judge(
        self,
        challenger: Artifact,
        holdout: RawWindows,
        *,
        champion: Artifact | None = None,
        anchor: Artifact | None = None,
        started_from_champion: bool = False,
    ) -> Evidence:
        """What the gate goes by: losses on one holdout, of each as loaded from its artifact.

        `started_from_champion` says that the challenger is an update of this champion, so that how
        far it moved has a meaning. An anchor that cannot be loaded is left out. Raises
        ArtifactError when the champion cannot be.
        """
        levels, targets = self._quantiles, self._schema.targets
        forecasts, moved, before = {}, None, None
        if champion is not None:
            forecasts["champion"], before = self._forecast(champion, holdout)
        try:
            forecasts["challenger"], after = self._forecast(challenger, holdout)
            if before is not None and started_from_champion:
                moved = _moved(after, before)
        except ArtifactError as error:
            return Evidence(losses=None, fault=str(error))
        if anchor is not None:
            try:
                forecasts["anchor"], _ = self._forecast(anchor, holdout)
            except ArtifactError as error:
                log.warning("the anchor is not compared: %s", error)
        return Evidence(losses=measure(holdout, targets, levels, forecasts), moved=moved)

    def progress(self) -> dict[str, Any]:
        """What is being trained now; empty when nothing is."""
        return dict(self._progress)

    def _choice(
        self, parent: Model, champion: Artifact, windows: RawWindows
    ) -> active.Choice | None:
        """What an update learns from; None: from all of it."""
        if self._uncertainty is None:
            return None
        forecast = self._fit(parent).predict(parent, windows)
        known = champion.manifest.get("known")
        return active.choose(
            windows,
            forecast,
            self._schema,
            threshold=self._uncertainty,
            known=None if known is None else active.Known.from_json(known),
        )

    def _known(self, model: Model, windows: RawWindows) -> dict[str, Any] | None:
        """What was usual in a training, for the manifest of the version that comes of it."""
        if self._uncertainty is None:
            return None
        forecast = self._fit(model).predict(model, windows)
        return active.Known.of(windows, forecast, self._schema).to_json()

    def _forecast(
        self, artifact: Artifact, holdout: RawWindows
    ) -> tuple[NDArray[np.float32], dict[str, Tensor]]:
        """Quantiles [N, H, T, Q] in natural units, in the form in which versions serve.

        And the weights, which are the exact form's whatever form that is.
        """
        model = unpack(artifact, fingerprint=None, precision=self._serving)
        return self._fit(model).predict(model, holdout), model.weights()

    def _fit(self, model: Model) -> Fit:
        return Fit.of(
            model.spec,
            self._schema,
            context=self._context,
            horizon=self._horizon,
            levels=self._quantiles,
        )

    def _spec(self, windows: RawWindows) -> ModelSpec:
        roles = self._roles or tuple(sorted({role for role in windows.roles if role}))
        window = WindowSpec(
            step_seconds=self._schema.step_seconds,
            context=self._context,
            horizon=self._horizon,
            metrics=self._schema.metrics,
            targets=self._schema.targets,
            roles=("", *(role for role in roles if role)),
        )
        return ModelSpec(window=window, quantiles=self._quantiles, **self._network)

    def _warm(self, start: Artifact | None, spec: ModelSpec) -> Model | None:
        """The model to begin from; None where it is not of today's network, columns and roles."""
        if start is None:
            return None
        model = unpack(start, fingerprint=None, precision=None)
        roles = model.spec.window.roles
        known = set(spec.window.roles) <= set(roles)
        same = replace(spec, window=replace(spec.window, roles=roles)) == model.spec
        return model if known and same else None

    def _tell(self, step: int, max_steps: int, loss: float) -> None:
        self._progress.update(step=step, max_steps=max_steps, loss=loss)

    def _result(
        self,
        job: BaseJob | UpdateJob,
        origin: Mapping[str, Any],
        model: Model,
        report: dict[str, Any],
        windows: RawWindows,
        known: Mapping[str, Any] | None,
    ) -> Result:
        lineage = {
            **origin,
            "update_id": job.update_id,
            "seed": job.seed,
            "slot": job.slot,
            "trained_from_slot": int(windows.origin.min()) - windows.context + 1,
            "trained_to_slot": int(windows.origin.max()) + windows.horizon,
            "windows": len(windows.servers),
        }
        moment = datetime.fromtimestamp(job.slot * self._schema.step_seconds, UTC)
        artifact = pack(
            model,
            fingerprint=self._schema.fingerprint(),
            lineage=lineage,
            metrics=report,
            known=known,
            serving=costs(model, windows),
            probe=windows.select(np.arange(min(_PROBE_WINDOWS, len(windows)))),
            # Event time, so that the same job gives the same bytes; the audit log has the clock.
            created_at=moment.isoformat(),
        )
        return Result(job.update_id, origin["kind"], artifact, report)


def _start(warm: Model | None) -> str:
    """What a retrain that was given a champion began from, for its lineage."""
    if warm is None:
        return "scratch"
    return "warm" if warm.adapter is None else "warm, without the adapter"


def _moved(new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> float:
    """How far an update moved the weights it started from: |new - old| / |old|, L2 over all.

    An adapter counts; of a champion without one it is 0, which is where it begins, and the norm is
    the network's. Raises ArtifactError for weights of another shape.
    """
    fresh = [name for name in new.keys() - old.keys() if name.startswith("adapter.")]
    old = {**old, **{name: torch.zeros_like(new[name]) for name in fresh}}
    shapes = [{name: tuple(weight.shape) for name, weight in each.items()} for each in (new, old)]
    if shapes[0] != shapes[1]:
        raise ArtifactError("its weights have another shape than the champion's")
    squares = [
        (
            float((new[name].double() - weight.double()).square().sum()),
            float(weight.double().square().sum()),
        )
        for name, weight in old.items()
    ]
    moved, norm = (math.sqrt(sum(column)) for column in zip(*squares, strict=True))
    return moved / norm if norm else math.inf
