"""The network: a Temporal Fusion Transformer, built from plain numbers, and a model around it.

pytorch-forecasting's `TemporalFusionTransformer` defines it (`forecast/definition.py`); what trains
and serves are fast forms of it (`forecast/fast/`). It is built from the hyper-parameters that its
manifest holds: no dataset object and no pickle on the way to a forecast.

Legend: N windows, L context slots, H horizon slots, T targets, Q quantile levels, K categories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from forecast.adapter import Adapted, Adapter
from forecast.fast.exact import FastTFT
from forecast.fast.serving import Precision, ServingTFT
from forecast.fast.shape import Category, Shape
from forecast.fast.weights import groups_of
from forecast.raw_windows import AT_A_TIME, RawWindows
from forecast.window_spec import WindowSpec
from forecast.windows import Windows, inverse, transform

FloatArray = NDArray[np.float32]

Inputs = tuple[Tensor, Tensor, Tensor]
"""Context [N, L, C], horizon [N, H, C] and categories [N, K]."""

Engine = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Inputs to scaled quantiles [N, H, T, Q]."""


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


def build(spec: ModelSpec, *, seed: int) -> FastTFT:
    """The network with fresh weights, a function of the seed alone, in training mode."""
    from forecast.definition import define  # slow to import, and needed only where weights begin

    return FastTFT.of(define(spec, seed=seed))


def with_weights(spec: ModelSpec, weights: Mapping[str, Tensor]) -> FastTFT:
    """The network with these weights, under pytorch-forecasting's names; raises ValueError."""
    network = FastTFT(shape_of(spec))
    network.load_state_dict(weights)
    return network


def tied(spec: ModelSpec, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with every copy of a tensor equal to what it repeats.

    What came from elsewhere, coded in fewer bits or sent with ill will, may have let them differ.
    """
    found = dict(weights)
    for group in groups_of(shape_of(spec)).values():
        found.update((name, found[group.parts[place]]) for name, place in group.names())
    return found


def shape_of(spec: ModelSpec) -> Shape:
    """What `Shape.of` reads off the network that defines this specification."""
    window, count = spec.window, len(spec.window.roles)
    known, unknown = window.known_reals, window.unknown_reals
    return Shape(
        hidden=spec.hidden_size,
        per_real=spec.hidden_continuous_size,
        heads=spec.attention_heads,
        lstm_layers=spec.lstm_layers,
        dropout=spec.dropout,
        context=window.context,
        targets=len(window.targets),
        levels=len(spec.quantiles),
        reals=window.reals,
        columns=tuple(range(len(window.reals))),
        static_categories=tuple(
            # The library lets no embedding be larger than the hidden size.
            Category(name, count, min(embedding_size(count), spec.hidden_size), column, padded=True)
            for column, name in enumerate(window.static_categoricals)
        ),
        static_reals=window.static_reals,
        encoder_reals=(*known, *unknown),
        decoder_reals=known,
    )


def embedding_size(categories: int) -> int:
    """Numbers that a category is embedded into: pytorch-forecasting's rule, which is fast.ai's."""
    return min(round(1.6 * categories**0.56), 100) if categories > 2 else 1


def network_inputs(windows: Windows, device: torch.device | str = "cpu") -> Inputs:
    """What the network reads; every window has full length, and its categories never change."""
    given = (windows.encoder_cont, windows.decoder_cont, windows.encoder_cat[:, 0])
    encoder, decoder, categories = (torch.from_numpy(array).to(device) for array in given)
    return encoder, decoder, categories


def forward(network: nn.Module, windows: Windows) -> Tensor:
    """Scaled quantiles [N, H, T, Q] as the network gives them, unsorted; differentiable.

    They are computed, and stay, where the network's weights are.
    """
    found: Tensor = network(*network_inputs(windows, next(network.parameters()).device))
    return found


def pinball(pred_NHTQ: Tensor, target_NHT: Tensor, levels: Sequence[float]) -> Tensor:
    """Mean pinball loss over the labels that are known (not NaN); 0 when none is."""
    seen = torch.isfinite(target_NHT).sum().clamp(min=1)
    return pinball_losses(pred_NHTQ, target_NHT, levels).sum() / seen


def pinball_losses(pred_NHTQ: Tensor, target_NHT: Tensor, levels: Sequence[float]) -> Tensor:
    """[N, H, T] the mean over the levels of each label's pinball loss; 0 for an unknown label.

    Koenker and Bassett 1978: `max(q e, (q - 1) e)` with `e = target - prediction`.
    """
    seen = torch.isfinite(target_NHT)
    errors = torch.where(seen, target_NHT, 0.0)[..., None] - pred_NHTQ
    q = torch.tensor(levels, dtype=errors.dtype, device=errors.device)
    losses = torch.maximum(q * errors, (q - 1.0) * errors).mean(dim=-1)
    return torch.where(seen, losses, 0.0)


class Model:
    """A network with what its inputs and outputs mean.

    The same call gives the same bits. What the other windows of a call hold changes no bit of a
    window's forecast; how many they are, where it stands among them, and how many of them lie
    beyond a serving form's tables, may change the last ones (under 1e-5 of its scale), because a
    matrix product rounds by the shape of its operands.
    """

    def __init__(
        self,
        spec: ModelSpec,
        network: FastTFT,
        engine: Engine | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        """`engine` computes in the network's place, from weights of its own.

        An `adapter` corrects what either of them gives.
        """
        self.spec = spec
        self.network = network.eval()
        self.engine = engine
        self.adapter = adapter

    @property
    def whole(self) -> nn.Module:
        """The network, with its adapter where it has one: what gives the scaled quantiles."""
        return self.network if self.adapter is None else Adapted(self.network, self.adapter)

    def predict(self, raw: RawWindows, batch_size: int = AT_A_TIME) -> FloatArray:
        """Quantiles [N, H, T, Q] in natural units, rising over Q and within each target's bounds.

        `batch_size` bounds the memory. The network is turned to evaluation. Raises ValueError when
        `raw` is cut for another step, context or horizon than this model's.
        """
        window = self.spec.window
        shape = (0, window.horizon, len(window.targets), len(self.spec.quantiles))
        parts = [np.empty(shape, np.float32)]
        parts += [self.natural(transform(part, window)) for part in raw.parts(batch_size)]
        return np.concatenate(parts)

    def natural(self, windows: Windows) -> FloatArray:
        """The same of windows that are already as this model reads them."""
        return inverse(self.scaled(windows), windows, self.spec.window)

    def scaled(self, windows: Windows) -> FloatArray:
        """Quantiles [N, H, T, Q] as the network gives them: scaled, perhaps crossing."""
        self.network.eval()
        with torch.inference_mode():
            if self.engine is None:
                found = forward(self.whole, windows)
            else:
                inputs = network_inputs(windows)
                found = self.engine(*inputs)
                if self.adapter is not None:
                    found = self.adapter(*inputs[:2], found)
        quantiles: FloatArray = found.numpy(force=True)
        return quantiles

    def copy(self) -> Model:
        """A model with weights of its own, for a learner to move."""
        network = with_weights(self.spec, self.network.state_dict())
        return Model(self.spec, network, adapter=self._own_adapter())

    def weights(self) -> dict[str, Tensor]:
        """All weights by name: pytorch-forecasting's, and an adapter's under `adapter.`."""
        found: dict[str, Tensor] = dict(self.network.state_dict())
        if self.adapter is not None:
            found |= {f"adapter.{name}": each for name, each in self.adapter.state_dict().items()}
        return found

    def fresh_adapter(self) -> Adapter:
        """One that changes nothing, of this model's shape."""
        return Adapter(self.spec.window, self.spec.quantiles)

    def _own_adapter(self) -> Adapter | None:
        if self.adapter is None:
            return None
        own = self.fresh_adapter()
        own.load_state_dict(self.adapter.state_dict())
        return own

    def serving(
        self, device: Literal["cpu", "cuda"] = "cpu", precision: Precision = "float32"
    ) -> Model:
        """The same function in the form that forecasts fastest on a device; weights of its own.

        On the CPU a trained network's is within 1e-4 of a target's scale in `float32`, and as far
        off in `int8` as its manifest says it was on the windows it was trained on. A GPU computes
        the exact form.
        """
        made = self.copy()
        if device == "cpu":
            made.engine = ServingTFT(made.network, precision=precision)
        else:
            made.whole.to(device)
        return made

    @property
    def table_bytes(self) -> int:
        """Memory of the serving form's tables; 0 for the exact form."""
        return self.engine.table_bytes if isinstance(self.engine, ServingTFT) else 0

    @property
    def steep(self) -> int:
        """Curves of the serving form that are computed instead of read."""
        return self.engine.steep if isinstance(self.engine, ServingTFT) else 0

    @property
    def outside(self) -> int:
        """Windows with an input beyond the serving form's tables; the exact form answered."""
        return self.engine.outside.windows if isinstance(self.engine, ServingTFT) else 0
