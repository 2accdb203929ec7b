"""The serving form against pytorch-forecasting on what servers really send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.streams import Stream, demo, real_streams, spiked
from forecast.definition import define, defined_forward
from forecast.fast.exact import FastTFT
from forecast.fast.serving import ServingTFT
from forecast.model import ModelSpec
from forecast.window_spec import WindowSpec
from forecast.windows import transform

ROLES = ("", "web", "database", "batch")


def error_on(stream: Stream) -> tuple[float, ServingTFT]:
    """The worst difference, in units of the target's scale, and the form it was measured on.

    Weights have moved further from where they start than a short training moves them. One role of
    the stream is unknown to the model.
    """
    window = WindowSpec(stream.step_seconds, 24, 6, stream.metrics, stream.targets, ROLES)
    spec = ModelSpec(window, (0.1, 0.5, 0.9), hidden_size=8, attention_heads=2)
    network = define(spec, seed=1).eval()
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw) * 0.1)
    serving = ServingTFT(FastTFT.of(network))
    windows = transform(stream.windows(24, 6, 200), window)
    with torch.inference_mode():
        wanted = defined_forward(network, windows)
        found = serving(
            torch.from_numpy(windows.encoder_cont),
            torch.from_numpy(windows.decoder_cont),
            torch.from_numpy(windows.encoder_cat[:, 0]),
        )
    return float((found - wanted).abs().max()), serving


@pytest.fixture(scope="module")
def fleet() -> Stream:
    return demo(days=9, drift_day=4)


def test_a_fleet_before_and_after_its_drift(fleet):
    error, serving = error_on(fleet)
    assert error <= 1e-4
    assert serving.outside.values == 0


@pytest.mark.parametrize("factor", [100.0, 1e4])
def test_spikes(fleet, factor):
    error, _ = error_on(spiked(fleet, factor))
    assert error <= 1e-4


@pytest.mark.data
def test_real_servers_and_their_spikes(data_dir: Path):
    streams: Iterator[Stream] = real_streams(data_dir)
    assert all(error_on(stream)[0] <= 1e-4 for stream in streams)
