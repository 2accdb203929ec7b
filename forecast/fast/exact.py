"""The exact form: pytorch-forecasting's network on stacked weights, for windows of full length.

Legend: N windows, L context, H horizon, T targets, Q levels, C real columns, K categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from forecast.fast.network import body, head, quantiles
from forecast.fast.pieces import Weights
from forecast.fast.shape import Shape
from forecast.fast.weights import LAST, from_state, groups_of, to_state

if TYPE_CHECKING:
    from pytorch_forecasting import TemporalFusionTransformer


class FastTFT(nn.Module):
    """The network on stacked weights; `state_dict` and `load_state_dict` speak the old names."""

    def __init__(self, shape: Shape) -> None:
        """Weights are zero until a state dict is loaded."""
        super().__init__()
        self.shape = shape
        self.groups = groups_of(shape)
        self.weights = nn.ParameterDict(
            {
                name: nn.Parameter(
                    torch.zeros((len(group.parts), *group.shape) if group.stacked else group.shape)
                )
                for name, group in self.groups.items()
            }
        )
        # By name: a copy of the module must not call the hooks of the one it was copied from.
        self.register_state_dict_post_hook(_rename)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_stack)  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, network: TemporalFusionTransformer) -> Self:
        """The fast form of pytorch-forecasting's network, with its weights and its mode.

        Raises ValueError for what this form does not compute; see `Shape`.
        """
        fast = cls(Shape.of(network))
        fast.load_state_dict(network.state_dict())
        return fast.to(next(network.parameters()).device).train(network.training)

    def gradients(self) -> dict[str, Tensor]:
        """The gradients under the names of the state dict; views."""
        given = {name: weight.grad for name, weight in self.weights.items()}
        return to_state(
            self.groups, {name: grad for name, grad in given.items() if grad is not None}
        )

    def last_layers(self) -> dict[str, nn.Parameter]:
        """The weights that `head` reads, by the names of the parameters."""
        return {name: self.weights[name] for name in LAST}

    def body(self, encoder_cont: Tensor, decoder_cont: Tensor, categories: Tensor) -> Tensor:
        """[2, F, H, N] of inputs as `forward` reads them: what `head` makes quantiles of."""
        w: Weights = dict(self.weights.items())
        parts = body(w, self.shape, (encoder_cont, decoder_cont, categories), self._drop())
        return torch.stack(parts).view(2, -1, decoder_cont.shape[1], len(decoder_cont))

    def head(self, given_2FHN: Tensor) -> Tensor:
        """Scaled quantiles [N, H, T, Q] by the last layers; after `body` it is `forward`."""
        wise, skip = given_2FHN.flatten(2)
        return head(self.last_layers(), self.shape, wise, skip, given_2FHN.shape[3])

    def forward(self, encoder_cont: Tensor, decoder_cont: Tensor, categories: Tensor) -> Tensor:
        """Scaled quantiles [N, H, T, Q] from [N, L, C], [N, H, C] and categories [N, K].

        Raises ValueError for inputs whose shapes do not fit.
        """
        shape = self.shape
        w: Weights = dict(self.weights.items())  # looked up often, and slowly in a module
        if len(encoder_cont) != len(decoder_cont) or len(encoder_cont) != len(categories):
            raise ValueError("context, horizon and categories differ in their number of windows")
        if not len(encoder_cont):
            return encoder_cont.new_zeros(0, decoder_cont.shape[1], shape.targets, shape.levels)
        return quantiles(w, shape, (encoder_cont, decoder_cont, categories), self._drop())

    def _drop(self) -> float:
        return self.shape.dropout if self.training else 0.0


def _rename(module: nn.Module, state: dict[str, Any], prefix: str, _: object) -> None:
    """Turn the stacked weights of a state dict into the names of pytorch-forecasting."""
    assert isinstance(module, FastTFT)
    own = {name: state.pop(f"{prefix}weights.{name}") for name in module.groups}
    state.update({prefix + name: value for name, value in to_state(module.groups, own).items()})


def _stack(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Turn the names of pytorch-forecasting into stacked weights."""
    assert isinstance(module, FastTFT)
    own: Mapping[str, Tensor] = {
        name.removeprefix(prefix): state.pop(name)
        for name in list(state)
        if name.startswith(prefix)
    }
    stacked = from_state(module.groups, own)
    state.update({f"{prefix}weights.{name}": value for name, value in stacked.items()})
