"""The online update: a copy learns, the champion stays as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from forecast.errors import TrainingError
from tests.train.windows_scene import model, windows, without_labels
from train.learner import Learner
from train.steps import lessons, training_loss


@pytest.fixture
def other_threads():
    """Torch's thread count, set to another one than the learner's for this test."""
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    yield before + 1
    torch.set_num_threads(before)


def learner(**changes) -> Learner:
    settings = {
        "learning_rate": 0.01,
        "epochs": 2,
        "batch_size": 16,
        "gradient_clip": 1.0,
        "threads": 1,
    }
    of = {name: changes.pop(name) for name in ("device", "precision") if name in changes}
    return Learner.of({**settings, **changes}, **of)


def weights(some_model):
    return {name: value.clone() for name, value in some_model.network.state_dict().items()}


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


def test_an_update_lowers_the_loss_on_its_windows():
    report = learner(epochs=5).update(model(), windows(), seed=1).report
    assert report.loss_after < report.loss_before
    assert (report.steps, report.windows, report.learning_rate) == (15, 48, 0.01)
    assert report.finite


def test_the_given_model_is_not_touched():
    champion = model()
    before = weights(champion)
    challenger = learner().update(champion, windows(), seed=1).model
    assert same(weights(champion), before)
    assert not same(weights(challenger), before)
    assert not champion.network.training
    assert not challenger.network.training


def test_the_same_update_gives_the_same_bits_whatever_came_before():
    champion, settings = model(), learner()
    first = settings.update(champion, windows(), seed=3)
    torch.rand(5)
    settings.update(champion, windows(seed=9), seed=8)
    again = settings.update(champion, windows(), seed=3)
    assert same(weights(first.model), weights(again.model))
    assert first.report == again.report


def test_another_seed_gives_another_challenger():
    first = learner().update(model(), windows(), seed=3).model
    other = learner().update(model(), windows(), seed=4).model
    assert not same(weights(first), weights(other))


def test_torch_is_left_as_it_was_found(other_threads):
    state = torch.get_rng_state()
    learner(epochs=1).update(model(), windows(8), seed=1)
    with pytest.raises(TrainingError):
        learner().update(model(), without_labels(windows(8)), seed=1)
    assert torch.get_num_threads() == other_threads
    assert torch.equal(torch.get_rng_state(), state)


def test_windows_without_labels_are_refused():
    with pytest.raises(TrainingError, match="no label to learn from in 48 windows"):
        learner().update(model(), without_labels(windows()), seed=1)


def test_a_champion_whose_weights_are_not_finite_makes_no_challenger():
    champion = model()
    next(champion.network.parameters()).data.fill_(torch.nan)
    with pytest.raises(TrainingError):
        learner().update(champion, windows(), seed=1)


def test_a_learning_rate_that_destroys_the_weights_makes_no_challenger():
    with pytest.raises(TrainingError):
        learner(learning_rate=1e30).update(model(), windows(), seed=1)


def test_gaps_and_missing_lags_are_no_reason_to_fail():
    raw = windows()
    values, nothing = raw.values.copy(), np.full_like(raw.daily, np.nan)
    values[::3, 2:9] = np.nan
    values[1::3, -2:] = np.nan
    gappy = replace(raw, values=values, daily=nothing, weekly=nothing)
    assert learner().update(model(), gappy, seed=1).report.finite


def test_some_windows_hide_their_role_and_the_rest_keep_it():
    champion = model()
    batch = lessons(windows(400), champion.spec.window)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        training_loss(champion.network, batch, champion.spec.quantiles)
    hidden = batch.windows.encoder_cat[:, 0, 0] == 0
    assert 0 < hidden.sum() < 60
    assert (batch.windows.encoder_cat[hidden] == 0).all()
    assert (batch.windows.decoder_cat[hidden] == 0).all()
    assert (batch.windows.decoder_cat[~hidden] == 1).all()


@pytest.mark.parametrize("wrong", [{"learning_rate": 0}, {"epochs": 0}, {"threads": 0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        learner(**wrong)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("part", ["full", "last_layers", "adapter"])
def test_an_update_on_a_gpu_comes_back_to_the_cpu(part, precision):
    champion = model()
    held = {"ewc_weight": 0.1, "distillation_weight": 0.1}
    on_gpu = learner(epochs=5, device="cuda", precision=precision, moving=part, **held)
    made = on_gpu.update(champion, windows(), seed=1)
    challenger, report = made.model, made.report
    assert report.loss_after < report.loss_before
    assert all(value.device.type == "cpu" for value in weights(challenger).values())
    assert all(value.device.type == "cpu" for value in weights(champion).values())
    assert np.isfinite(challenger.predict(windows())).all()


def test_a_gpu_that_is_not_there_is_said_plainly(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="a GPU was assigned, but torch"):
        learner(device="cuda").update(model(), windows(), seed=1)
