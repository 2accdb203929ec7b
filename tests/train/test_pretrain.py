"""The base model: Lightning trains it, validation decides which weights are kept."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from forecast.errors import TrainingError
from tests.train.windows_scene import CONTEXT, LEVELS, model, spec, windows, without_labels
from train.checkpoint import Checkpoint
from train.course import Batches, Plan
from train.pretrain import Run, pretrain
from train.steps import evaluation_loss, lessons


def trained(train=None, validate=None, *, run=None, **changes):
    settings = {
        "epochs": 10,
        "batch_size": 16,
        "learning_rate": 0.02,
        "patience": 10,
        "max_steps": 20,
        "seed": 5,
        "threads": 1,
    }
    train = windows() if train is None else train
    validate = windows(16, first=10_060) if validate is None else validate
    return pretrain(spec(), train, validate, run=run, **{**settings, **changes})


def weights(some_model):
    return list(some_model.network.state_dict().values())


def test_training_beats_the_untrained_network_and_keeps_the_best_look():
    _, report = trained()
    assert report.steps == 20
    assert report.validation_loss == min(report.validation_losses)
    assert report.validation_losses[-1] < report.validation_losses[0]
    assert report.best_step % 2 == 0
    assert not report.stopped_early


def test_the_kept_weights_are_those_of_the_best_look():
    upside_down = windows(16)  # what is learned from the training windows is wrong for these
    last, labels = upside_down.values[:, [CONTEXT - 1]], upside_down.values[:, CONTEXT:]
    labels[:] = 2 * last - labels
    kept, report = trained(validate=upside_down)
    assert report.best_step < report.steps
    loss = evaluation_loss(kept.network, lessons(upside_down, spec().window), LEVELS)
    assert loss == pytest.approx(report.validation_loss, rel=1e-5)


def test_the_same_training_gives_the_same_bits():
    first, first_report = trained(max_steps=6)
    torch.rand(5)
    again, again_report = trained(max_steps=6)
    assert all(map(torch.equal, weights(first), weights(again)))
    assert first_report == again_report
    other, _ = trained(max_steps=6, seed=6)
    assert not all(map(torch.equal, weights(first), weights(other)))


def test_a_training_that_begins_from_weights_begins_where_they_are():
    known, _ = trained()
    start = known.network.state_dict()
    _, cold = trained(max_steps=2, learning_rate=0.001)
    _, warm = trained(max_steps=2, learning_rate=0.001, start=start)
    assert warm.validation_losses[0] < 0.8 * cold.validation_losses[0]
    assert all(map(torch.equal, weights(known), start.values()))  # which stay as they are


def test_steps_are_bounded_by_passes_and_by_max_steps():
    assert trained(epochs=2, max_steps=100)[1].steps == 6  # 48 windows are 3 batches of 16
    assert trained(max_steps=7)[1].steps == 7


def test_fewer_windows_than_a_batch_are_one_batch():
    assert trained(windows(5), max_steps=3)[1].steps == 3


def test_it_stops_when_validation_no_longer_gets_better():
    _, report = trained(learning_rate=5.0, patience=1, max_steps=100, epochs=100)
    assert report.stopped_early
    assert report.steps < 100


def test_progress_is_told_after_every_step():
    told = []
    trained(max_steps=4, run=Run(on_progress=lambda *seen: told.append(seen)))
    assert [(step, planned) for step, planned, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(loss > 0 for *_, loss in told)


def test_a_bar_is_drawn_only_when_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    trained(max_steps=2)
    assert capsys.readouterr() == ("", "")
    trained(max_steps=2, run=Run(bar=True))
    assert "validation_pinball" in capsys.readouterr().out


def test_nothing_is_written_and_torch_is_left_as_it_was_found(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger("lightning.pytorch").level
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    trained(max_steps=2)
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert logging.getLogger("lightning.pytorch").level == level


def test_the_model_does_not_hold_on_to_its_training():
    network = trained(max_steps=2)[0].network
    assert not network.training
    assert network.state_dict().keys() == model().network.state_dict().keys()


def test_windows_without_a_label_are_refused_by_name():
    with pytest.raises(TrainingError, match="no label in 48 training windows"):
        trained(without_labels(windows()))
    with pytest.raises(TrainingError, match="no label in 48 validation windows"):
        trained(validate=without_labels(windows()))


def test_a_learning_rate_that_destroys_the_weights_makes_no_model():
    with pytest.raises(TrainingError):
        trained(learning_rate=1e30)


def test_counts_below_one_are_refused():
    with pytest.raises(ValueError, match="max_steps 0"):
        trained(max_steps=0)


class _Killed(Exception):
    """Stands for a process that ends here."""


def _stopped_after(looks, **settings):
    """The last checkpoint of a training that is killed after so many looks."""
    kept = []

    def keep(checkpoint):
        kept.append(checkpoint.to_bytes())
        if len(kept) == looks:
            raise _Killed

    with pytest.raises(_Killed):
        trained(run=Run(on_look=keep), **settings)
    return Checkpoint.from_bytes(kept[-1])


def test_moments_of_another_network_are_refused():
    kept = _stopped_after(2)
    foreign = {name: value.flatten()[:1] for name, value in kept.moments.items()}
    with pytest.raises(TrainingError, match="is of another network"):
        trained(run=Run(resume=replace(kept, moments=foreign)))


@pytest.mark.parametrize("looks", [1, 3, 6, 9])
def test_a_training_goes_on_from_its_checkpoint_as_if_it_had_never_stopped(looks):
    # 48 windows in batches of 10: five steps a pass, a look every two steps, so that some looks
    # fall within a pass and some, at steps 10 and 20, at the end of one.
    settings = {"max_steps": 23, "batch_size": 10, "epochs": 20}
    whole, told = trained(**settings)
    checkpoint = _stopped_after(looks, **settings)
    assert checkpoint.progress.step == 2 * looks
    again, again_told = trained(run=Run(resume=checkpoint), **settings)
    assert all(map(torch.equal, weights(whole), weights(again)))
    assert again_told == told


def test_a_look_at_the_end_of_a_pass_is_a_place_to_go_on_from_too():
    settings = {"max_steps": 20, "batch_size": 10, "epochs": 20}
    whole, told = trained(**settings)
    checkpoint = _stopped_after(5, **settings)
    assert len(checkpoint.rest) == 0
    again, again_told = trained(run=Run(resume=checkpoint), **settings)
    assert all(map(torch.equal, weights(whole), weights(again)))
    assert again_told == told


def test_patience_and_the_best_weights_outlive_the_stop():
    settings = {"learning_rate": 5.0, "patience": 2, "max_steps": 100, "epochs": 100}
    whole, told = trained(**settings)
    assert told.stopped_early
    looks = len(told.validation_losses)
    for stop in (looks - 1, looks):  # after the last one nothing is left to train
        checkpoint = _stopped_after(stop, **settings)
        again, again_told = trained(run=Run(resume=checkpoint), **settings)
        assert all(map(torch.equal, weights(whole), weights(again)))
        assert again_told == told


def test_a_checkpoint_of_another_training_is_left_alone():
    foreign = _stopped_after(3, seed=6)
    fresh, told = trained()
    again, again_told = trained(run=Run(resume=foreign))
    assert all(map(torch.equal, weights(fresh), weights(again)))
    assert again_told == told


def test_workers_share_each_batch_and_none_is_left_without_a_window():
    plan = Plan.of(10, batch_size=4, epochs=2, max_steps=100)
    shares = [list(Batches(10, plan, seed=1, rank=rank, workers=3)) for rank in range(3)]
    for step, parts in enumerate(zip(*shares, strict=True)):
        assert len({len(part) for part in parts}) == 1
        assert len({int(row) for part in parts for row in part}) == (2 if step % 3 == 2 else 4)
    seen = sorted({int(row) for parts in shares for part in parts[:3] for row in part})
    assert seen == list(range(10))


def test_each_of_many_workers_looks_at_all_validation_windows():
    """One worker's share of two: without the other's windows its loss would be another one."""
    shared = {"strategy": _Second(process_group_backend="gloo"), "devices": 1}
    try:
        _, alone = trained(max_steps=4)
        _, one_of_two = trained(max_steps=4, run=Run(lightning=shared))
    finally:
        torch.distributed.destroy_process_group()
    assert one_of_two.validation_losses == pytest.approx(alone.validation_losses, rel=1e-6)


class _Second(DDPStrategy):
    """Deals windows out as to the second of two workers; gradients stay this worker's own."""

    @property
    def distributed_sampler_kwargs(self):
        return {"num_replicas": 2, "rank": 1}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_trains_and_the_weights_come_back_to_the_cpu(precision):
    model, report = trained(run=Run(device="cuda", precision=precision))
    assert report.validation_losses[-1] < report.validation_losses[0]
    assert all(value.device.type == "cpu" for value in weights(model))
    assert all(torch.isfinite(value).all() for value in weights(model))
    assert all(value.dtype != torch.bfloat16 for value in weights(model))


def test_a_gpu_that_is_not_there_is_said_plainly(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="a GPU was assigned, but torch"):
        trained(run=Run(device="cuda"))
