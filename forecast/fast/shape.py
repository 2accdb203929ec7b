"""What a fast network must know to be the same network: sizes, and the order of its columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pytorch_forecasting import TemporalFusionTransformer

_UNSUPPORTED = (
    "time_varying_categoricals_encoder",
    "time_varying_categoricals_decoder",
    "categorical_groups",
    "hidden_continuous_sizes",
    "monotone_constraints",
    "share_single_variable_networks",
)


@dataclass(frozen=True, slots=True)
class Category:
    """One static categorical variable and the size of its embedding."""

    name: str
    count: int
    """Categories, the unknown one included."""
    size: int
    column: int
    padded: bool
    """Category 0 is the zero vector and learns nothing."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes and columns of a network. Raises ValueError for what the fast forms do not compute."""

    hidden: int
    per_real: int
    """Numbers that one real variable is embedded into."""
    heads: int
    lstm_layers: int
    dropout: float
    context: int
    """Longest context; the mask and the tables do not depend on it."""
    targets: int
    levels: int
    reals: tuple[str, ...]
    """Every real variable that the network embeds, in the order of its weights."""
    columns: tuple[int, ...]
    """Of each of `reals`, where it stands in the input."""
    static_categories: tuple[Category, ...]
    static_reals: tuple[str, ...]
    encoder_reals: tuple[str, ...]
    decoder_reals: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.encoder_reals or not self.decoder_reals:
            raise ValueError("a fast network needs a real variable in context and horizon each")
        if self.hidden < self.heads:
            raise ValueError(f"hidden size {self.hidden} is below {self.heads} attention heads")

    @classmethod
    def of(cls, network: TemporalFusionTransformer) -> Self:
        """The shape of pytorch-forecasting's network, from its hyper-parameters."""
        given: Any = network.hparams
        for name in _UNSUPPORTED:
            if given[name]:
                raise ValueError(f"the fast forms do not compute {name}")
        if not given["causal_attention"] or given["mask_bias"] != -1e9:
            raise ValueError("the fast forms compute causal attention without a mask bias")
        outputs = given["output_size"]
        sizes = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
        if len(set(sizes)) != 1:
            raise ValueError(f"every target needs as many outputs as the others, got {sizes}")
        named, order = list(network.prescalers), list(given["x_reals"])
        return cls(
            hidden=given["hidden_size"],
            per_real=given["hidden_continuous_size"],
            heads=given["attention_head_size"],
            lstm_layers=given["lstm_layers"],
            dropout=given["dropout"],
            context=given["max_encoder_length"],
            targets=len(sizes),
            levels=sizes[0],
            reals=tuple(named),
            columns=tuple(order.index(name) for name in named),
            static_categories=_categories(network),
            static_reals=tuple(given["static_reals"]),
            encoder_reals=tuple(given["time_varying_reals_encoder"]),
            decoder_reals=tuple(given["time_varying_reals_decoder"]),
        )

    def columns_of(self, names: tuple[str, ...]) -> list[int]:
        """Where these real variables stand in the input."""
        return [self.columns[self.reals.index(name)] for name in names]

    def rows_of(self, names: tuple[str, ...]) -> list[int]:
        """Where these real variables stand among the weights."""
        return [self.reals.index(name) for name in names]


def _categories(network: TemporalFusionTransformer) -> tuple[Category, ...]:
    given: Any = network.hparams
    embeddings = network.input_embeddings.embeddings
    return tuple(
        Category(
            name=name,
            count=embeddings[name].num_embeddings,
            size=embeddings[name].embedding_dim,
            column=list(given["x_categoricals"]).index(name),
            padded=name in given["embedding_paddings"],
        )
        for name in given["static_categoricals"]
    )
