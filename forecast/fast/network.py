"""The network's function of its weights, with what is exact and fast: no module, no state.

Same function, same dropouts in the same places. Windows have full length, so nothing is packed or
masked by data, and what nobody asked for (attention maps, selection weights) is not kept. Tensors
are [feature, time, window], for the reason that `pieces` gives; a batch is one pass.

Legend: N windows, L context, H horizon, T targets, Q levels, C real columns, K categories, F the
hidden size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from forecast.fast import pieces
from forecast.fast.pieces import Weights
from forecast.fast.selection import fold, select, static_embedding
from forecast.fast.shape import Shape
from forecast.fast.weights import CONTEXTS

Inputs = tuple[Tensor, Tensor, Tensor]
"""[N, L, C], [N, H, C] and categories [N, K]."""


def quantiles(w: Weights, shape: Shape, given: Inputs, drop: float) -> Tensor:
    """Scaled quantiles [N, H, T, Q]; `drop` is the share that dropouts drop.

    Under autocast the selection networks stay in full precision: they are small products between
    long sums. What follows them is cast.
    """
    return head(w, shape, *body(w, shape, given, drop), len(given[0]))


def body(w: Weights, shape: Shape, given: Inputs, drop: float) -> tuple[Tensor, Tensor]:
    """All that the last layers read, see `_ahead`; the rest is as for `quantiles`."""
    encoder_cont, decoder_cont, categories = given
    with torch.autocast(encoder_cont.device.type, enabled=False):
        static_HN = static_embedding(w, shape, encoder_cont[:, 0], categories, drop)
        contexts = _contexts(w, static_HN, drop)
        parts = []
        for kind, cont in (("encoder", encoder_cont), ("decoder", decoder_cont)):
            columns = shape.columns_of(getattr(shape, f"{kind}_reals"))
            values = cont.permute(2, 1, 0)[columns].contiguous()
            parts.append(select(w, fold(w, shape, kind), kind, values, contexts[0], drop))
        selected = torch.cat(parts, 1)
    local = _local(w, shape, selected, encoder_cont.shape[1], contexts, drop)
    enriched = _enrich(w, local, contexts[3], drop)
    return _ahead(w, local, enriched, encoder_cont.shape[1], drop)


def head(w: Weights, shape: Shape, wise: Tensor, skip: Tensor, count: int) -> Tensor:
    """Scaled quantiles [N, H, T, Q]: the gate and norm before the output, and the output layer."""
    gates = _linear(w, "last_gate", wise)
    last = pieces.gate_norm(gates, skip, w["last_norm_weight"], w["last_norm_bias"])
    weight, bias = w["output_weight"].flatten(0, 1), w["output_bias"].flatten()
    flat = torch.addmm(bias, last.T, weight.T)
    return flat.view(-1, count, shape.targets, shape.levels).transpose(0, 1)


def _contexts(w: Weights, static_HN: Tensor, drop: float) -> Tensor:
    """[4, H, N] the static features as the rest reads them, in the order of CONTEXTS."""
    given = static_HN.expand(len(CONTEXTS), -1, -1)
    inner = pieces.elu(
        torch.baddbmm(w["contexts_fc1_bias"][..., None], w["contexts_fc1_weight"], given)
    )
    inner = torch.baddbmm(w["contexts_fc2_bias"][..., None], w["contexts_fc2_weight"], inner)
    gates = torch.baddbmm(
        w["contexts_gate_bias"][..., None],
        w["contexts_gate_weight"],
        pieces.dropout(inner, drop),
    )
    each = zip(gates, w["contexts_norm_weight"], w["contexts_norm_bias"], strict=True)
    return torch.stack([pieces.gate_norm(gate, static_HN, a, b) for gate, a, b in each])


def _local(
    w: Weights, shape: Shape, selected_HTN: Tensor, context: int, contexts: Tensor, drop: float
) -> Tensor:
    """[H, T, N] both LSTMs over time, gated, with what skipped them."""
    layers = shape.lstm_layers
    steps = selected_HTN.permute(1, 2, 0).contiguous()
    state = [part.T.contiguous().expand(layers, -1, -1) for part in contexts[1:3]]
    outputs = []
    for side, given in (("encoder", steps[:context]), ("decoder", steps[context:])):
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [w[f"lstm_{side}_{n}_{what}"] for n in range(layers) for what in kinds]
        state = [part.contiguous() for part in state]
        between = drop if layers > 1 else 0.0
        output, *state = torch.lstm(
            given, state, weights, True, layers, between, between > 0, False, False
        )
        outputs.append(output)
    flat = torch.cat(outputs).permute(2, 0, 1).reshape(shape.hidden, -1)
    gates = _linear(w, "local_gate", pieces.dropout(flat, drop))
    skip = selected_HTN.flatten(1)
    mixed = pieces.gate_norm(gates, skip, w["local_norm_weight"], w["local_norm_bias"])
    return mixed.view_as(selected_HTN)


def _enrich(w: Weights, local_HTN: Tensor, context_HN: Tensor, drop: float) -> Tensor:
    """[H, T, N] every step with the static features."""
    flat = local_HTN.flatten(1)
    inner = _linear(w, "enrich_fc1", flat).view_as(local_HTN)
    inner = inner + (w["enrich_context"] @ context_HN)[:, None]
    return _residual(w, "enrich", inner.flatten(1), flat, drop).view_as(local_HTN)


def _residual(w: Weights, key: str, before: Tensor, skip: Tensor, drop: float) -> Tensor:
    """A gated residual network behind its first linear, for rows [F, R]."""
    inner = _linear(w, f"{key}_fc2", pieces.elu(before))
    gates = _linear(w, f"{key}_gate", pieces.dropout(inner, drop))
    return pieces.gate_norm(gates, skip, w[f"{key}_norm_weight"], w[f"{key}_norm_bias"])


def _ahead(
    w: Weights, local_HTN: Tensor, enriched_HTN: Tensor, context: int, drop: float
) -> tuple[Tensor, Tensor]:
    """Both [F, H x N]: each horizon step after attention over all that is known, and its skip."""
    ahead = enriched_HTN[:, context:].flatten(1)
    mixed = _attend(w, enriched_HTN, context, drop)
    gates = _linear(w, "attended_gate", pieces.dropout(mixed, drop))
    seen = pieces.gate_norm(gates, ahead, w["attended_norm_weight"], w["attended_norm_bias"])
    wise = _residual(w, "wise", _linear(w, "wise_fc1", seen), seen, drop)
    return wise, local_HTN[:, context:].flatten(1)


def _attend(w: Weights, enriched_HTN: Tensor, context: int, drop: float) -> Tensor:
    """[H, steps x N]; a step sees the context and the horizon steps before it."""
    _, times, count = enriched_HTN.shape
    rows = enriched_HTN.permute(2, 1, 0).reshape(count * times, -1)
    heads, size = w["query_weight"].shape[:2]
    wide = torch.cat([w["key_weight"].flatten(0, 1), w["value_weight"]])
    biases = torch.cat([w["key_bias"].flatten(), w["value_bias"]])
    known = torch.addmm(biases, rows, wide.T).view(count, times, -1)
    keys, values = known[..., :-size], known[..., -size:]
    asking = rows.view(count, times, -1)[:, context:]
    queries = asking @ w["query_weight"].flatten(0, 1).T + w["query_bias"].flatten()
    steps = times - context
    hidden = _unseen(context, steps, rows.device)
    found: list[Tensor] = []
    for head in range(heads):
        columns = slice(head * size, (head + 1) * size)
        # Scaled before the product: there are fewer queries than scores.
        scores = torch.bmm(queries[..., columns] / math.sqrt(size), keys[..., columns].mT)
        attention = torch.softmax(scores.masked_fill(hidden, -1e9), dim=-1)
        found.append(pieces.dropout(torch.bmm(attention, values), drop))
    mean = found[0] if heads == 1 else torch.stack(found).mean(0)
    flat = mean.permute(2, 1, 0).reshape(size, -1)
    return pieces.dropout(w["mix_weight"] @ flat, drop)


def _linear(w: Weights, key: str, rows: Tensor) -> Tensor:
    """A linear layer on rows [F, R]."""
    return torch.addmm(w[f"{key}_bias"][:, None], w[f"{key}_weight"], rows)


def _unseen(context: int, steps: int, device: torch.device) -> Tensor:
    """Bool [H, L+H]: horizon steps from the own one on."""
    later = torch.ones(steps, steps, dtype=torch.bool, device=device).triu()
    return torch.cat([later.new_zeros(steps, context), later], 1)
