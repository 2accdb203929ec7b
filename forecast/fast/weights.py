"""The weights in few stacked tensors, and their names in pytorch-forecasting's state dict.

Six hundred small tensors cost an optimiser more than the arithmetic does; here all variables'
tensors of one kind are one parameter, and only the names on the way in and out are the old ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from forecast.fast.shape import Shape

CONTEXTS = ("variable_selection", "initial_hidden_lstm", "initial_cell_lstm", "enrichment")
"""The four networks between the static features and the rest, in the order they are stacked."""

LAST = tuple(
    f"{layer}_{what}"
    for layer in ("last_gate", "last_norm", "output")
    for what in ("weight", "bias")
)
"""The parameters behind the last residual network: the gate and norm before the output, the output
layer (`pre_output_gate_norm` and `output_layer` in the state dict)."""


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors of one shape that live in one parameter, one behind the other."""

    shape: tuple[int, ...]
    """Of one part."""
    parts: tuple[str, ...]
    """Their names in the state dict."""
    stacked: bool
    """Whether the parameter has a leading dimension for the parts."""
    copies: Mapping[str, int] = field(default_factory=dict)
    """Further names in the state dict: which part each one repeats."""

    def names(self) -> Iterator[tuple[str, int]]:
        """Every name, with the position of its part."""
        yield from ((name, place) for place, name in enumerate(self.parts))
        yield from self.copies.items()


def groups_of(shape: Shape) -> dict[str, Group]:
    """Every parameter of a fast network by name."""
    hidden = shape.hidden
    found = _prescalers(shape)
    for category in shape.static_categories:
        name = f"input_embeddings.embeddings.{category.name}.weight"
        found[f"embedding_{category.column}"] = _single(name, category.count, category.size)
    for kind in ("static", "encoder", "decoder"):
        found |= _selection(shape, kind)
    contexts = tuple(f"static_context_{name}" for name in CONTEXTS)
    found |= _residual("contexts", contexts, hidden, hidden, hidden, stacked=True)
    found |= _lstm(shape)
    gate = ("post_lstm_gate_encoder.fc", "post_lstm_add_norm_encoder.norm")
    found |= _gate("local", gate[:1], gate[1:], hidden, hidden, stacked=False)
    for name, group in list(found.items()):
        if name.startswith("local_"):
            copy = group.parts[0].replace("_encoder.", "_decoder.")
            found[name] = Group(group.shape, group.parts, False, {copy: 0})
    found |= _residual("enrich", ("static_enrichment",), hidden, hidden, hidden, stacked=False)
    found["enrich_context"] = _single("static_enrichment.context.weight", hidden, hidden)
    found |= _attention(shape)
    found |= _gated("attended", ("post_attn_gate_norm",), hidden, hidden, stacked=False)
    found |= _residual("wise", ("pos_wise_ff",), hidden, hidden, hidden, stacked=False)
    found |= _gated("last", ("pre_output_gate_norm",), hidden, hidden, stacked=False)
    heads = (
        tuple(f"output_layer.{place}" for place in range(shape.targets))
        if shape.targets > 1
        else ("output_layer",)
    )
    return found | _linear("output", heads, hidden, shape.levels, stacked=True)


def from_state(groups: Mapping[str, Group], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters out of a state dict; raises ValueError for missing, spare or odd tensors."""
    wanted = {name for group in groups.values() for name, _ in group.names()}
    if wanted != set(state):
        differing = sorted(wanted ^ set(state))
        raise ValueError(f"{len(differing)} weights are missing or spare, first {differing[0]!r}")
    for group in groups.values():
        for name, place in group.names():
            if tuple(state[name].shape) != group.shape:
                raise ValueError(f"{name} is {tuple(state[name].shape)}, need {group.shape}")
            first = state[group.parts[place]]
            if not torch.allclose(state[name], first, rtol=0.0, atol=0.0, equal_nan=True):
                raise ValueError(f"{name} differs from {group.parts[place]}, which it shares")
    return {
        key: torch.stack([state[name] for name in group.parts])
        if group.stacked
        else state[group.parts[0]].clone()
        for key, group in groups.items()
    }


def to_state(groups: Mapping[str, Group], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict out of parameters (or of their gradients); its tensors are views."""
    state = {}
    for key, group in groups.items():
        for name, place in group.names():
            state[name] = weights[key][place] if group.stacked else weights[key]
    return state


def _single(name: str, *shape: int) -> Group:
    return Group(shape, (name,), stacked=False)


def _prescalers(shape: Shape) -> dict[str, Group]:
    """A real's embedding; each selection network repeats the names of those it reads."""
    kinds = {"static": shape.static_reals, "encoder": shape.encoder_reals}
    kinds["decoder"] = shape.decoder_reals
    found = {}
    for what, size in (("weight", (shape.per_real, 1)), ("bias", (shape.per_real,))):
        parts = tuple(f"prescalers.{name}.{what}" for name in shape.reals)
        copies = {
            f"{kind}_variable_selection.prescalers.{name}.{what}": shape.reals.index(name)
            for kind, names in kinds.items()
            for name in names
        }
        found[f"scale_{what}"] = Group(size, parts, True, copies)
    return found


def _selection(shape: Shape, kind: str) -> dict[str, Group]:
    """One selection network: its variables' networks stacked, and the one that weighs them."""
    reals: tuple[str, ...] = getattr(shape, f"{kind}_reals")
    categories = shape.static_categories if kind == "static" else ()
    count, hidden, size = len(reals) + len(categories), shape.hidden, shape.per_real
    found: dict[str, Group] = {}
    base = f"{kind}_variable_selection"
    for category in categories:
        single = f"{base}.single_variable_grns.{category.name}"
        key = f"{kind}_category_{category.column}"
        found[f"{key}_mask"] = _single(f"{single}.mask", hidden)
        found[f"{key}_norm_weight"] = _single(f"{single}.norm.weight", hidden)
        found[f"{key}_norm_bias"] = _single(f"{single}.norm.bias", hidden)
    if reals:
        singles = tuple(f"{base}.single_variable_grns.{name}" for name in reals)
        found |= _residual(f"{kind}_each", singles, size, min(size, hidden), hidden, stacked=True)
    if count > 1:
        total = size * len(reals) + sum(category.size for category in categories)
        inner, flat = min(hidden, count), (f"{base}.flattened_grn",)
        found |= _residual(f"{kind}_flat", flat, total, inner, count, stacked=False)
        if kind != "static":
            name = f"{base}.flattened_grn.context.weight"
            found[f"{kind}_flat_context"] = _single(name, inner, hidden)
    return found


def _residual(
    key: str, names: tuple[str, ...], size: int, inner: int, out: int, *, stacked: bool
) -> dict[str, Group]:
    """Gated residual networks of one shape: `size` in, `inner` within, `out` out."""
    found: dict[str, Group] = {}
    if size != out:
        norms = tuple(f"{name}.resample_norm.norm" for name in names)
        masks = tuple(f"{name}.resample_norm.mask" for name in names)
        found[f"{key}_skip_mask"] = Group((out,), masks, stacked)
        found |= _norm(f"{key}_skip", norms, out, stacked=stacked)
    found |= _linear(f"{key}_fc1", tuple(f"{n}.fc1" for n in names), size, inner, stacked=stacked)
    found |= _linear(f"{key}_fc2", tuple(f"{n}.fc2" for n in names), inner, inner, stacked=stacked)
    gates = tuple(f"{name}.gate_norm" for name in names)
    return found | _gated(key, gates, inner, out, stacked=stacked)


def _gated(
    key: str, names: tuple[str, ...], size: int, out: int, *, stacked: bool
) -> dict[str, Group]:
    linears = tuple(f"{name}.glu.fc" for name in names)
    norms = tuple(f"{name}.add_norm.norm" for name in names)
    return _gate(key, linears, norms, size, out, stacked=stacked)


def _gate(
    key: str,
    linears: tuple[str, ...],
    norms: tuple[str, ...],
    size: int,
    out: int,
    *,
    stacked: bool,
) -> dict[str, Group]:
    found = _linear(f"{key}_gate", linears, size, 2 * out, stacked=stacked)
    return found | _norm(key, norms, out, stacked=stacked)


def _linear(
    key: str, names: tuple[str, ...], size: int, out: int, *, stacked: bool
) -> dict[str, Group]:
    weights, biases = (tuple(f"{n}.{what}" for n in names) for what in ("weight", "bias"))
    return {
        f"{key}_weight": Group((out, size), weights, stacked),
        f"{key}_bias": Group((out,), biases, stacked),
    }


def _norm(key: str, names: tuple[str, ...], size: int, *, stacked: bool) -> dict[str, Group]:
    return {
        f"{key}_norm_{what}": Group((size,), tuple(f"{n}.{what}" for n in names), stacked)
        for what in ("weight", "bias")
    }


def _lstm(shape: Shape) -> dict[str, Group]:
    hidden, found = shape.hidden, {}
    for side in ("encoder", "decoder"):
        for layer in range(shape.lstm_layers):
            for what in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                size = (4 * hidden, hidden) if what.startswith("weight") else (4 * hidden,)
                name = f"lstm_{side}.{what}_l{layer}"
                found[f"lstm_{side}_{layer}_{what}"] = _single(name, *size)
    return found


def _attention(shape: Shape) -> dict[str, Group]:
    """Queries and keys of every head; the values are shared."""
    hidden, size = shape.hidden, shape.hidden // shape.heads
    found = _linear("value", ("multihead_attn.v_layer",), hidden, size, stacked=False)
    for key, what in (("query", "q"), ("key", "k")):
        names = tuple(f"multihead_attn.{what}_layers.{head}" for head in range(shape.heads))
        found |= _linear(key, names, hidden, size, stacked=True)
    found["mix_weight"] = _single("multihead_attn.w_h.weight", hidden, size)
    return found
