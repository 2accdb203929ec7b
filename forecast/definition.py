"""What defines the network: pytorch-forecasting's `TemporalFusionTransformer` of a specification.

Lim et al. 2021, "Temporal Fusion Transformers for interpretable multi-horizon time series
forecasting". Fresh weights come from here, and tests and benches hold the fast forms against it;
nothing that serves or trains computes with it.

Legend: N windows, H horizon slots, T targets, Q quantile levels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from pytorch_forecasting import TemporalFusionTransformer
from pytorch_forecasting.data.encoders import MultiNormalizer, TorchNormalizer
from pytorch_forecasting.metrics import MultiLoss, QuantileLoss
from torch import Tensor, nn

from forecast.model import embedding_size

if TYPE_CHECKING:
    from forecast.model import ModelSpec
    from forecast.windows import Windows


def define(spec: ModelSpec, *, seed: int) -> TemporalFusionTransformer:
    """The network with fresh weights, a function of the seed alone, in training mode."""
    window, targets = spec.window, len(spec.window.targets)
    known, unknown = list(window.known_reals), list(window.unknown_reals)
    categoricals = list(window.static_categoricals)
    size = len(window.roles)
    levels, outputs = list(spec.quantiles), len(spec.quantiles)
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        network = TemporalFusionTransformer(
            hidden_size=spec.hidden_size,
            lstm_layers=spec.lstm_layers,
            dropout=spec.dropout,
            attention_head_size=spec.attention_heads,
            hidden_continuous_size=spec.hidden_continuous_size,
            output_size=outputs if targets == 1 else [outputs] * targets,
            loss=_loss(levels, targets),
            output_transformer=_unscaled(targets),
            max_encoder_length=window.context,
            static_categoricals=categoricals,
            static_reals=list(window.static_reals),
            time_varying_categoricals_encoder=[],
            time_varying_categoricals_decoder=[],
            time_varying_reals_encoder=known + unknown,
            time_varying_reals_decoder=known,
            x_reals=list(window.reals),
            x_categoricals=categoricals,
            embedding_sizes={name: (size, embedding_size(size)) for name in categoricals},
            embedding_paddings=categoricals,
            logging_metrics=nn.ModuleList([]),
        )
    return network


def _loss(levels: list[float], targets: int) -> QuantileLoss | MultiLoss:
    """The network's own loss; it also tells the network how many targets there are."""
    losses = [QuantileLoss(quantiles=levels) for _ in range(targets)]
    return losses[0] if targets == 1 else MultiLoss(losses)


def _unscaled(targets: int) -> TorchNormalizer | MultiNormalizer:
    """An output transformer that leaves outputs as they are: `inverse` scales them back."""
    same = [TorchNormalizer(method="identity") for _ in range(targets)]
    return same[0] if targets == 1 else MultiNormalizer(same)


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning advises against modules among hyper-parameters; this network takes its loss so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Attribute '\w+' is an instance of", UserWarning)
        yield


def defined_inputs(
    windows: Windows, device: torch.device | str = "cpu"
) -> dict[str, Tensor | list[Tensor]]:
    """The dictionary that the network's `forward` reads; every window has full length."""
    count, context = windows.encoder_cont.shape[:2]
    horizon, targets = windows.target.shape[1:]
    unscaled = torch.tensor([0.0, 1.0], device=device).expand(count, 2)
    return {
        "encoder_cont": torch.from_numpy(windows.encoder_cont).to(device),
        "decoder_cont": torch.from_numpy(windows.decoder_cont).to(device),
        "encoder_cat": torch.from_numpy(windows.encoder_cat).to(device),
        "decoder_cat": torch.from_numpy(windows.decoder_cat).to(device),
        "encoder_lengths": torch.full((count,), context, device=device),
        "decoder_lengths": torch.full((count,), horizon, device=device),
        "target_scale": unscaled if targets == 1 else [unscaled] * targets,
    }


def defined_forward(network: TemporalFusionTransformer, windows: Windows) -> Tensor:
    """Scaled quantiles [N, H, T, Q] as the network gives them, unsorted; differentiable.

    They are computed, and stay, where the network's weights are.
    """
    device = next(network.parameters()).device
    prediction = network(defined_inputs(windows, device))["prediction"]
    return torch.stack(prediction if isinstance(prediction, list) else [prediction], dim=2)
