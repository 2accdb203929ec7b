"""The base model: Lightning trains it, validation decides which weights are kept."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from forecast.errors import TrainingError
from tests.train.windows_scene import CONTEXT, LEVELS, model, spec, windows, without_labels
from train.pretrain import pretrain
from train.steps import evaluation_loss, lessons


def trained(train=None, validate=None, **changes):
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
    return pretrain(spec(), train, validate, **{**settings, **changes})


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
    trained(max_steps=4, on_progress=lambda *seen: told.append(seen))
    assert [(step, planned) for step, planned, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(loss > 0 for *_, loss in told)


def test_a_bar_is_drawn_only_when_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    trained(max_steps=2)
    assert capsys.readouterr() == ("", "")
    trained(max_steps=2, progress="bar")
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
    assert network._trainer is None
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
