"""Networks of pytorch-forecasting of many shapes, weights as training leaves them, and inputs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from pytorch_forecasting import TemporalFusionTransformer
from pytorch_forecasting.data.encoders import MultiNormalizer, TorchNormalizer
from pytorch_forecasting.metrics import MultiLoss, QuantileLoss
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """One shape of network and of its input."""

    hidden: int = 8
    per_real: int = 4
    heads: int = 1
    layers: int = 1
    targets: int = 2
    levels: int = 3
    context: int = 5
    horizon: int = 3
    static_reals: int = 2
    categories: tuple[int, ...] = (4,)
    known: int = 3
    unknown: int = 2
    dropout: float = 0.0
    windows: int = 4

    @property
    def reals(self) -> dict[str, list[str]]:
        counts = {"static": self.static_reals, "known": self.known, "unknown": self.unknown}
        return {kind: [f"{kind}_{n}" for n in range(count)] for kind, count in counts.items()}

    @property
    def static_categoricals(self) -> list[str]:
        return [f"category_{n}" for n in range(len(self.categories))]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One and many targets, with and without static features, several sizes and lengths."""
    heads = draw(st.integers(1, 3))
    return Case(
        hidden=draw(st.integers(max(heads, 2), 12)),
        per_real=draw(st.integers(2, 9)),
        heads=heads,
        layers=draw(st.integers(1, 2)),
        targets=draw(st.integers(1, 3)),
        levels=draw(st.integers(1, 4)),
        context=draw(st.integers(1, 9)),
        horizon=draw(st.integers(1, 5)),
        static_reals=draw(st.integers(0, 3)),
        categories=tuple(draw(st.lists(st.integers(1, 5), max_size=2))),
        known=draw(st.integers(1, 4)),
        unknown=draw(st.integers(0, 4)),
        windows=draw(st.integers(1, 5)),
    )


def network_of(case: Case, *, seed: int = 0, noise: float = 0.2) -> TemporalFusionTransformer:
    """A network whose every weight has moved from where it starts, biases and norms too."""
    reals = case.reals
    known, unknown = reals["known"], reals["unknown"]
    losses = [QuantileLoss(quantiles=[0.5] * case.levels) for _ in range(case.targets)]
    same = [TorchNormalizer(method="identity") for _ in range(case.targets)]
    one = case.targets == 1
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Attribute '\w+' is an instance of", UserWarning)
        torch.manual_seed(seed)
        network = TemporalFusionTransformer(
            hidden_size=case.hidden,
            hidden_continuous_size=case.per_real,
            attention_head_size=case.heads,
            lstm_layers=case.layers,
            dropout=case.dropout,
            output_size=case.levels if one else [case.levels] * case.targets,
            loss=losses[0] if one else MultiLoss(losses),
            output_transformer=same[0] if one else MultiNormalizer(same),
            max_encoder_length=case.context,
            static_categoricals=case.static_categoricals,
            static_reals=reals["static"],
            time_varying_reals_encoder=known + unknown,
            time_varying_reals_decoder=known,
            x_reals=reals["static"] + known + unknown,
            x_categoricals=case.static_categoricals,
            embedding_sizes={
                name: (count, min(count, 3))
                for name, count in zip(case.static_categoricals, case.categories, strict=True)
            },
            embedding_paddings=case.static_categoricals[:1],
            logging_metrics=nn.ModuleList([]),
        )
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(torch.randn(weight.shape) * noise)
            for name in case.static_categoricals[:1]:
                network.input_embeddings.embeddings[name].weight[0] = 0.0
    return network


def inputs_of(case: Case, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Context, horizon and categories; the first window hides its categories."""
    draw = torch.Generator().manual_seed(seed)
    columns = case.static_reals + case.known + case.unknown
    steps = case.context + case.horizon
    cont = torch.randn(case.windows, steps, columns, generator=draw) * 2.0
    cont[:, :, : case.static_reals] = cont[:, :1, : case.static_reals]
    cats = [torch.randint(0, c, (case.windows,), generator=draw) for c in case.categories]
    categories = torch.stack(cats, 1) if cats else torch.zeros(case.windows, 0, dtype=torch.int64)
    categories[:1] = 0
    return cont[:, : case.context], cont[:, case.context :], categories


def oracle(
    network: TemporalFusionTransformer, encoder: Tensor, decoder: Tensor, categories: Tensor
) -> Tensor:
    """What pytorch-forecasting's own forward gives: quantiles [N, H, T, Q]."""
    count, context, horizon = len(encoder), encoder.shape[1], decoder.shape[1]
    unscaled = torch.tensor([0.0, 1.0], dtype=encoder.dtype).expand(count, 2)
    targets = network.n_targets
    given = {
        "encoder_cont": encoder,
        "decoder_cont": decoder,
        "encoder_cat": categories[:, None].expand(-1, context, -1),
        "decoder_cat": categories[:, None].expand(-1, horizon, -1),
        "encoder_lengths": torch.full((count,), context),
        "decoder_lengths": torch.full((count,), horizon),
        "target_scale": unscaled if targets == 1 else [unscaled] * targets,
    }
    found = network(given)["prediction"]
    return torch.stack(found if isinstance(found, list) else [found], dim=2)
