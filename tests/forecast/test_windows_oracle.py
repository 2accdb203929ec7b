"""The transform and the network, against pytorch-forecasting's own data set and `from_dataset`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet
from pytorch_forecasting.metrics import MultiLoss, QuantileLoss
from torch import nn

from forecast.definition import define, defined_forward, defined_inputs
from forecast.model import ModelSpec
from forecast.windows import RawWindows, WindowSpec, transform
from tests.forecast.window_scene import ROLES, SPRING, gauge, made, oracle, rate

LEVELS = (0.1, 0.5, 0.9)
UNUSED = {"encoder_target", "decoder_target", "decoder_time_idx", "groups"}
"""What the data set adds for losses and plots; the network's forward does not read it."""

ONE = (gauge("cpu"),)
MANY = (gauge("cpu", upper=99.0), rate("net"), gauge("training"), rate("disk"), gauge("load.1"))
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
AUTUMN = 5_976_286
"""The 5-minute slot 70 minutes before clocks go back in Berlin (2026-10-25 01:00 UTC)."""


class Case(NamedTuple):
    """Windows and what reads them."""

    raw: RawWindows
    spec: WindowSpec


def case(metrics, targets, *, reads=None, roles=ROLES, **how) -> Case:
    raw = made([metric.name for metric in metrics], **how)
    spec = WindowSpec(
        step_seconds=raw.step_seconds,
        context=raw.context,
        horizon=raw.horizon,
        metrics=tuple(reads or metrics),
        targets=tuple(targets),
        roles=roles,
    )
    return Case(raw, spec)


def nothing_seen() -> Case:
    raw, spec = case(MANY, ("net", "cpu"), gaps=0.3)
    raw.values[0], raw.values[1, :, 1], raw.spread[2] = np.nan, np.nan, np.nan
    raw.daily[3], raw.weekly[:] = np.nan, np.nan
    return Case(raw, spec)


def flat() -> Case:
    raw, spec = case(MANY, ("cpu", "disk", "load.1"), gaps=0.1)
    raw.values[:] = raw.values[:, :1]
    raw.values[np.isnan(raw.values)] = 3.5
    raw.spread[::2] = 0.0
    raw.spread[raw.spread == 0.0] = np.nan
    return Case(raw, spec)


CASES = {
    "one target": lambda: case(ONE, ("cpu",)),
    "one target, no roles": lambda: case(ONE, ("cpu",), roles=("",), gaps=0.2),
    "one target, covariates": lambda: case(MANY, ("net",), gaps=0.3),
    "many targets": lambda: case(MANY, [metric.name for metric in MANY]),
    "many targets, gaps": lambda: case(MANY, ("disk", "cpu", "training"), gaps=0.4, count=12),
    "clocks go forward": lambda: case(
        MANY, ("cpu", "load.1"), gaps=0.2, count=9, zones=("UTC", BERLIN, NEW_YORK), origin=SPRING
    ),
    "clocks go back": lambda: case(
        MANY, ("net", "load.1"), count=9, zones=(BERLIN, NEW_YORK, "Asia/Kolkata"), origin=AUTUMN
    ),
    "another step": lambda: case(
        MANY, ("cpu",), step_seconds=60, context=5, horizon=7, origin=29_579_090, zones=(BERLIN,)
    ),
    "an unknown metric": lambda: case(
        MANY[:2], ("cpu", "net"), reads=(*MANY[:2], gauge("gone")), gaps=0.1
    ),
    "nothing seen": nothing_seen,
    "flat": flat,
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def scene(request) -> Case:
    return request.param()


def batch_of(dataset: TimeSeriesDataSet, count: int):
    """All samples in one batch, in order."""
    [batch] = dataset.to_dataloader(train=False, batch_size=count)
    return batch


def test_every_tensor_equals_the_data_sets(scene):
    dataset = oracle(*scene)
    x, (y, weight) = batch_of(dataset, len(scene.raw))
    windows = transform(*scene)
    ours = defined_inputs(windows)
    assert set(x) - set(ours) == UNUSED
    assert dataset.reals == list(scene.spec.reals)
    assert dataset.flat_categoricals == list(scene.spec.static_categoricals)
    for name, tensor in ours.items():
        same(tensor, x[name])
    seen = np.isfinite(windows.target)
    labels = torch.from_numpy(np.where(seen, windows.target, 0.0))
    one = len(scene.spec.targets) == 1
    same([labels[..., 0]] if one else list(labels.unbind(2)), [y] if one else y)
    same(torch.from_numpy(seen.mean(axis=2, dtype=np.float32)), weight)


def test_encoder_targets_are_the_values_the_network_reads(scene):
    x, _ = batch_of(oracle(*scene), len(scene.raw))
    targets = x["encoder_target"]
    windows = transform(*scene)
    for place, target in enumerate(scene.spec.targets):
        column = scene.spec.reals.index("val_" + target.replace(".", "%2E"))
        read = torch.from_numpy(np.sinh(windows.encoder_cont[..., column]))
        told = targets if len(scene.spec.targets) == 1 else targets[place]
        known = told != 0.0  # the data set holds 0 for a gap, the network the value before it
        same(read[known], told[known])


def test_the_network_equals_the_one_made_from_the_data_set(scene):
    dataset = oracle(*scene)
    spec = ModelSpec(scene.spec, LEVELS, hidden_size=8, attention_heads=2, lstm_layers=2)
    network, theirs = define(spec, seed=3).eval(), from_dataset(dataset, spec).eval()
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    theirs.load_state_dict(network.state_dict())
    windows = transform(*scene)
    with torch.no_grad():
        expected = theirs(defined_inputs(windows))["prediction"]
        found = defined_forward(network, windows)
    expected = expected if isinstance(expected, list) else [expected]
    assert torch.equal(found, torch.stack(expected, dim=2))
    assert found.shape == (*windows.target.shape, len(LEVELS))


def from_dataset(dataset: TimeSeriesDataSet, spec: ModelSpec) -> TemporalFusionTransformer:
    """The network that pytorch-forecasting builds from a data set."""
    loss = QuantileLoss(list(spec.quantiles))
    if dataset.multi_target:
        loss = MultiLoss([QuantileLoss(list(spec.quantiles)) for _ in dataset.target])
    with pytest.warns(UserWarning, match="is an instance of `nn.Module`"):
        return TemporalFusionTransformer.from_dataset(
            dataset,
            hidden_size=spec.hidden_size,
            attention_head_size=spec.attention_heads,
            lstm_layers=spec.lstm_layers,
            dropout=spec.dropout,
            hidden_continuous_size=spec.hidden_continuous_size,
            loss=loss,
            logging_metrics=nn.ModuleList([]),
        )


def same(found, expected) -> None:
    """Equal but for the last bits of float32, which depend on the order of operations."""
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
        return
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)
