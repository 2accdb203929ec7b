"""From a fast network's weights to the fewer and larger ones that serving multiplies with.

Legend: H hidden size, F features, T targets, Q levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from forecast.fast.exact import FastTFT
from forecast.fast.gates import (
    Affine,
    Gated,
    Residual,
    behind,
    collapsed_gate,
    gated,
    norm_of,
    residual,
)
from forecast.fast.pieces import Weights
from forecast.fast.sharing import Selection, Static, curves_of, selection_of, static_of
from forecast.fast.tables import Tables, in_bytes

Linear = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Collapsed:
    """Everything that serving computes with."""

    tables: Tables
    static: Static | None
    encoder: Selection
    decoder: Selection
    contexts_in: Linear
    """[4F, H] the first layers of the four context networks."""
    contexts_gate: Linear
    """[4, 2H, F]"""
    contexts_out: Linear
    """All that reads the contexts, as one linear of the four sums before their norms' weights."""
    context_sizes: list[int]
    lstm_encoder: list[Tensor]
    lstm_decoder: list[Tensor]
    lstm_layers: int
    local: Gated
    enrich: Residual
    heads: int
    query: Linear
    """[heads x H, H] a horizon step's scores over enriched steps, both before their norm."""
    attended: Gated
    wise: Residual
    last: Gated
    output: Linear
    """[H, T x Q] and its bias."""
    outputs: tuple[int, int]
    hidden_size: int
    hidden: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    """Attention masks by context and length."""


def collapse(network: FastTFT, tolerance: float, *, small: bool = False) -> Collapsed:
    """All weights of a network, collapsed; `tolerance` is the tables'. `small` keeps them as bytes.

    Only the tables: they are most of the memory, and products of this size are slower in bytes.
    """
    w: Weights = {name: weight.detach() for name, weight in network.weights.items()}
    shape = network.shape
    kinds = ["encoder", "decoder", *(["static"] if shape.static_reals else [])]
    tables = Tables.build([curves_of(w, shape, kind) for kind in kinds], tolerance)
    if small:
        tables = replace(tables, rows=in_bytes(tables.rows))
    steep = dict(zip(kinds, tables.steep, strict=True))
    static = static_of(w, shape, tables.rows, steep.get("static", ()))
    encoder, decoder = (
        selection_of(w, shape, each, tables.rows, steep[each]) for each in kinds[:2]
    )
    out, sizes = _contexts_out(w, encoder, decoder)
    gate, bias = collapsed_gate(w, "contexts")
    local, enrich = norm_of(w, "local"), norm_of(w, "enrich")
    wise = residual(w, "wise", norm_of(w, "attended"))
    last = norm_of(w, "last")
    weight, constant = behind(w["output_weight"].flatten(0, 1), w["output_bias"].flatten(), last)
    return Collapsed(
        tables=tables,
        static=static,
        encoder=encoder,
        decoder=decoder,
        contexts_in=(w["contexts_fc1_weight"].flatten(0, 1), w["contexts_fc1_bias"].view(-1, 1)),
        contexts_gate=(gate, bias[..., None].contiguous()),
        contexts_out=out,
        context_sizes=sizes,
        lstm_encoder=_lstm(w, "encoder", shape.lstm_layers),
        lstm_decoder=_lstm(w, "decoder", shape.lstm_layers),
        lstm_layers=shape.lstm_layers,
        local=gated(w, "local", None),
        enrich=residual(w, "enrich", local),
        heads=shape.heads,
        query=_query(w, enrich),
        attended=_attended(w, enrich),
        wise=wise,
        last=gated(w, "last", norm_of(w, "wise")),
        output=(weight.T.contiguous(), constant[:, 0].contiguous()),
        outputs=(shape.targets, shape.levels),
        hidden_size=shape.hidden,
    )


def _contexts_out(w: Weights, encoder: Selection, decoder: Selection) -> tuple[Linear, list[int]]:
    """What reads the four contexts, stacked: selections' first layers, LSTM states, enrichment."""
    hidden = w["contexts_norm_weight"].shape[1]
    one = torch.eye(hidden)
    blocks: list[tuple[int, Tensor, Tensor]] = []
    for kind, selection in (("encoder", encoder), ("decoder", decoder)):
        if selection.shares is None:
            blocks.append((0, one[:0], one[:0, :1]))
        else:
            blocks.append((0, w[f"{kind}_flat_context"], selection.shares.bias))
    nothing = torch.zeros(hidden, 1)
    blocks += [(1, one, nothing), (2, one, nothing), (3, w["enrich_context"], nothing)]
    rows, biases = [], []
    for place, weight, bias in blocks:
        grown = weight * w["contexts_norm_weight"][place] * math.sqrt(hidden)
        row = torch.zeros(len(weight), 4, hidden)
        row[:, place] = grown
        rows.append(row.flatten(1))
        biases.append(weight @ w["contexts_norm_bias"][place][:, None] + bias)
    return (torch.cat(rows), torch.cat(biases)), [len(row) for row in rows]


def _lstm(w: Weights, side: str, layers: int) -> list[Tensor]:
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [w[f"lstm_{side}_{layer}_{kind}"].clone() for layer in range(layers) for kind in kinds]


def _query(w: Weights, enriched: Affine) -> Linear:
    """Scores as a product of two enriched steps: queries times keys, multiplied out.

    The keys' bias moves all scores of a step by the same and has no effect.
    """
    size = w["query_weight"].shape[1]
    keys = (w["key_weight"] * enriched[0].T).mT / math.sqrt(size)
    weight = keys @ (w["query_weight"] * enriched[0].T)
    bias = keys @ (w["query_weight"] @ enriched[1] + w["query_bias"][..., None])
    return weight.flatten(0, 1).contiguous(), bias.flatten(0, 1).contiguous()


def _attended(w: Weights, enriched: Affine) -> Gated:
    """The gate behind attention, reading enriched steps: values and mixing are multiplied out.

    It reads the sum over the heads; each step's attention sums to 1, so biases count once.
    """
    mixed = w["attended_gate_weight"] @ w["mix_weight"]
    bias = mixed @ w["value_bias"] + w["attended_gate_bias"]
    weight, bias = behind(mixed @ w["value_weight"], bias, enriched)
    return Gated(weight / len(w["query_weight"]), bias, norm_of(w, "attended"))
