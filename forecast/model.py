"""The network: a Temporal Fusion Transformer, built from plain numbers, and a model around it.

The network is pytorch-forecasting's `TemporalFusionTransformer` (Lim et al. 2021, "Temporal Fusion
Transformers for interpretable multi-horizon time series forecasting"). It is built from the
hyper-parameters that its manifest holds: no dataset object and no pickle on the way to a forecast.

Legend: N windows, L context slots, H horizon slots, T targets, Q quantile levels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_forecasting import TemporalFusionTransformer
from pytorch_forecasting.data.encoders import MultiNormalizer, TorchNormalizer
from pytorch_forecasting.metrics import MultiLoss, QuantileLoss
from pytorch_forecasting.utils import get_embedding_size
from torch import Tensor, nn

from forecast.window_spec import WindowSpec
from forecast.windows import RawWindows, Windows, inverse, transform

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All that is needed to build the network but its weights. Raises ValueError."""

    window: WindowSpec
    quantiles: tuple[float, ...]
    """The levels that are forecast, rising."""
    hidden_size: int = 16
    attention_heads: int = 1
    lstm_layers: int = 1
    dropout: float = 0.1
    hidden_continuous_size: int = 8

    def __post_init__(self) -> None:
        levels = self.quantiles
        if not levels or list(levels) != sorted(set(levels)) or not 0 < levels[0] <= levels[-1] < 1:
            raise ValueError(f"quantiles must rise between 0 and 1, got {list(levels)}")
        sizes = (self.attention_heads, self.lstm_layers, self.hidden_continuous_size)
        if min(sizes) < 1 or self.hidden_size < self.attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} with {self.attention_heads} heads, "
                f"{self.lstm_layers} layers, {self.hidden_continuous_size} per real: not a network"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not in [0, 1)")

    def to_json(self) -> dict[str, Any]:
        """The specification as plain JSON values."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**plain, "window": self.window.to_json(), "quantiles": list(self.quantiles)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The specification that `to_json` wrote."""
        window = WindowSpec.from_json(data["window"])
        return cls(**{**data, "window": window, "quantiles": tuple(data["quantiles"])})


def build(spec: ModelSpec, *, seed: int) -> TemporalFusionTransformer:
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
            embedding_sizes={name: (size, get_embedding_size(size)) for name in categoricals},
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


def network_inputs(
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


def forward(network: TemporalFusionTransformer, windows: Windows) -> Tensor:
    """Scaled quantiles [N, H, T, Q] as the network gives them, unsorted; differentiable.

    They are computed, and stay, where the network's weights are.
    """
    device = next(network.parameters()).device
    prediction = network(network_inputs(windows, device))["prediction"]
    return torch.stack(prediction if isinstance(prediction, list) else [prediction], dim=2)


def pinball(pred_NHTQ: Tensor, target_NHT: Tensor, levels: Sequence[float]) -> Tensor:
    """Mean pinball loss over the labels that are known (not NaN); 0 when none is.

    Koenker and Bassett 1978: `max(q e, (q - 1) e)` with `e = target - prediction`.
    """
    seen = torch.isfinite(target_NHT)
    errors = torch.where(seen, target_NHT, 0.0)[..., None] - pred_NHTQ
    q = torch.tensor(levels, dtype=errors.dtype, device=errors.device)
    losses = torch.maximum(q * errors, (q - 1.0) * errors).mean(dim=-1)
    return torch.where(seen, losses, 0.0).sum() / seen.sum().clamp(min=1)


class Model:
    """A network with what its inputs and outputs mean.

    The same call gives the same bits. What the other windows of a call hold changes no bit of a
    window's forecast; how many they are, and where it stands among them, may change the last ones
    (under 1e-5 of its scale), because a matrix product rounds by the shape of its operands.
    """

    def __init__(self, spec: ModelSpec, network: TemporalFusionTransformer) -> None:
        self.spec = spec
        self.network = network.eval()

    def predict(self, raw: RawWindows, batch_size: int = 256) -> FloatArray:
        """Quantiles [N, H, T, Q] in natural units, rising over Q and within each target's bounds.

        `batch_size` bounds the memory. The network is turned to evaluation. Raises ValueError when
        `raw` is cut for another step, context or horizon than this model's.
        """
        window = self.spec.window
        shape = (0, window.horizon, len(window.targets), len(self.spec.quantiles))
        parts = [np.empty(shape, np.float32)]
        for part in raw.parts(batch_size):
            windows = transform(part, window)
            parts.append(inverse(self.scaled(windows), windows, window))
        return np.concatenate(parts)

    def scaled(self, windows: Windows) -> FloatArray:
        """Quantiles [N, H, T, Q] as the network gives them: scaled, perhaps crossing."""
        self.network.eval()
        with torch.inference_mode():
            quantiles: FloatArray = forward(self.network, windows).numpy(force=True)
        return quantiles

    def copy(self) -> Model:
        """A model with weights of its own, for a learner to move."""
        network = build(self.spec, seed=0)
        network.load_state_dict(self.network.state_dict())
        return Model(self.spec, network)
