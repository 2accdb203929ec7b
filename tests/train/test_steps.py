"""What an error counts, and what a batch's loss is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from forecast.errors import TrainingError
from forecast.model import forward, pinball
from tests.train.windows_scene import LEVELS, model, spec, windows, without_labels
from train.steps import Lessons, device_of, evaluation_loss, lessons


def test_an_error_counts_by_the_root_of_its_natural_size():
    raw = windows(24)
    raw.values[12:] *= 4  # a server whose numbers are four times as large
    found = lessons(raw, spec().window)
    scale, center = found.windows.scale, found.windows.center
    size = np.sqrt(scale * np.exp(center * [0, 1]))  # the rate is read as log1p
    np.testing.assert_allclose(found.weight, size / size.mean(axis=0), rtol=1e-5)
    assert found.weight[12:].mean() > 1.5 * found.weight[:12].mean()


def test_the_weight_that_a_window_brings_along_comes_on_top():
    raw = windows(6)
    weight = np.array([1, 0.5, 1, 0.25, 1, 1], np.float32)
    weighed = lessons(replace(raw, weight=weight), spec().window).weight
    assert np.array_equal(weighed, lessons(raw, spec().window).weight * weight[:, None])


def test_no_window_is_ignored_and_none_counts_more_than_ten_times():
    raw = windows(200)
    raw.values[0] *= 1e9
    weight = lessons(raw, spec().window).weight
    assert weight[:, 1].max() == pytest.approx(10)
    assert weight.min() == pytest.approx(0.1)
    assert np.isfinite(weight).all()


def test_the_loss_is_the_weighed_mean_over_the_labels_that_are_known():
    network, raw = model().network, windows(6)
    raw.values[2, -1, 0] = np.nan
    given = lessons(raw, spec().window)
    total, count = 0.0, 0
    with torch.no_grad():
        predicted = forward(network, given.windows)
        for place in np.argwhere(np.isfinite(given.windows.target)):
            n, h, t = (int(number) for number in place)
            label = torch.tensor([[[given.windows.target[n, h, t]]]])
            one = pinball(predicted[n : n + 1, h : h + 1, t : t + 1], label, LEVELS)
            total, count = total + float(given.weight[n, t]) * one.item(), count + 1
    assert count == 6 * 3 * 2 - 1
    assert evaluation_loss(network, given, LEVELS) == pytest.approx(total / count, rel=1e-5)


def test_the_loss_does_not_depend_on_how_windows_fall_into_batches():
    network, given = model().network, lessons(windows(300), spec().window)
    parts = [given.select(np.arange(0, 100)), given.select(np.arange(100, 300))]
    apart = sum(evaluation_loss(network, part, LEVELS) * part.seen() for part in parts)
    whole = evaluation_loss(network, given, LEVELS)
    assert whole == pytest.approx(apart / given.seen(), rel=1e-5)


def test_without_labels_there_is_no_loss():
    given: Lessons = lessons(without_labels(windows(4)), spec().window)
    assert given.seen() == 0
    assert np.isnan(evaluation_loss(model().network, given, LEVELS))


@pytest.mark.parametrize(
    ("asked", "gpus", "device"),
    [
        ("cpu", ["0"], "cpu"),
        ("cpu", [], "cpu"),
        ("auto", [], "cpu"),
        ("auto", ["3"], "cuda"),
        ("gpu", ["3"], "cuda"),
    ],
)
def test_the_device_is_what_was_asked_for_and_assigned(asked, gpus, device):
    assert device_of(asked, gpus) == device


def test_a_gpu_that_was_not_assigned_is_refused():
    with pytest.raises(TrainingError, match="no GPU is assigned"):
        device_of("gpu", [])
